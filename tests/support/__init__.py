"""What the tests of every part share: the leak fixture, the spec rows, the recordings' counters."""
