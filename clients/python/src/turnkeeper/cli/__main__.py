"""`python -m turnkeeper.cli` is the command too."""

from turnkeeper.cli import main

main()
