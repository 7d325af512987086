"""The Turnkeeper client."""
