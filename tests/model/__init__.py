"""The scheduling core once more, in plain Python: what the compiled one has to agree with."""
