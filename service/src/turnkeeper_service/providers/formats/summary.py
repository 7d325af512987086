"""How a summary is told to a model."""

from __future__ import annotations

from turnkeeper.v1 import content_pb2


def summary_text(summary: content_pb2.Summary) -> str:
    """The summary as a part of the user's message that it stands in; empty where it is empty."""
    text = summary.text.strip()
    return f"Summary of the conversation so far, in place of its messages:\n\n{text}" if text else ""
