"""Model providers: one adapter per wire format, behind the interface in `base`."""
