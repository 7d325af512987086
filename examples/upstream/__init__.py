"""A loopback HTTP upstream that plays a model vendor, well or badly; `python -m examples.upstream` runs it alone.

It replays recorded and own streams, generates numbered tokens by the name of the model, misbehaves on request, and
counts connections and open requests. Importable as ``examples.upstream`` from the repository's root.
"""

from examples.upstream.answer import Answer, Ending, Request
from examples.upstream.generator import answer_by_model, token_stream
from examples.upstream.recording import RECORDINGS, Exchange, load_exchanges, recorded_files, streams_folder
from examples.upstream.server import Upstream

__all__ = [
    "RECORDINGS",
    "Answer",
    "Ending",
    "Exchange",
    "Request",
    "Upstream",
    "answer_by_model",
    "load_exchanges",
    "recorded_files",
    "streams_folder",
    "token_stream",
]
