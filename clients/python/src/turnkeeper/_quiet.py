"""Imported before gRPC, whose core reads then how much it writes on standard error.

It would write a line about every connection that fails. What matters of that is in this client's exceptions; who wants
the lines all the same sets GRPC_VERBOSITY.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
