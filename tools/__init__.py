"""The project's own tooling: plain Python, no dependency, started by the Makefile."""
