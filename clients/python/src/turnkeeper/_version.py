"""The one place where the client's version stands."""

__version__ = "0.1.0"
