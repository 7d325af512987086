"""The wheels are tested where they were built and installed: by `make test-dist`."""

import os

collect_ignore = [] if "TURNKEEPER_DIST" in os.environ else ["test_wheels.py"]
