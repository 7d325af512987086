"""The store: what it is (`base`), the one on SQLite (`sqlite`), and the suite that any store must pass (`conformance`)."""
