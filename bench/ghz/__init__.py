"""Load by ghz: a configuration per kind of call, and `python -m bench.ghz`, which plays them to its own server."""
