"""What the project costs, measured beside what it could cost at least. `python -m bench` prints it; see README.md."""
