"""A loopback HTTP upstream that plays a model vendor, well or badly; `python -m tests.upstream` runs it alone.

It replays recorded and own streams, generates numbered tokens by the name of the model, misbehaves on request, and
counts connections and open requests. Importable as ``tests.upstream`` from the repository's root.
"""

from tests.upstream.answer import Answer, Ending, Request
from tests.upstream.generator import answer_by_model, token_stream
from tests.upstream.recording import RECORDINGS, Exchange, load_exchanges, recorded_files, streams_folder
from tests.upstream.server import Upstream

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
