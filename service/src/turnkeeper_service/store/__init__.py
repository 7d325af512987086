"""The store: what it is (`base`), one on SQLite (`sqlite`), and the suite that any store must pass (`conformance`)."""
