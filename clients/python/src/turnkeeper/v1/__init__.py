"""Generated from proto/turnkeeper/v1 by `make gen`; not edited by hand."""
