"""Bodies that come compressed though nobody asked for it: zlib's own encodings are undone, piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

UNASKED = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"})
"""What a `content-encoding` may name that changes the bytes; all else is a mere word."""
_UNDONE = frozenset({"gzip", "x-gzip", "deflate"})
_ANY_HEAD = 32 + zlib.MAX_WBITS
_PIECE_BYTES = 64 * 1024
_FIRST_BYTES = b"\x1f\x78"
"""Of gzip and of zlib."""


class UnreadableError(Exception):
    """The bytes are not what the header says, or in an encoding that is not undone."""


class Expander:
    """Undoes one encoding; gives pieces that are never large, whatever they come from."""

    def __init__(self, encoding: str) -> None:
        """``encoding``: what the header says. Raises UnreadableError for encodings that are not undone."""
        named = [one for word in encoding.lower().split(",") if (one := word.strip()) in UNASKED]
        if len(named) != 1 or named[0] not in _UNDONE:
            raise UnreadableError
        self._stream = zlib.decompressobj(_ANY_HEAD)
        self._has_begun = False
        self._is_plain = False
        self._has_given = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """What the next bytes stand for. Raises UnreadableError where they stand for nothing."""
        if chunk and not self._has_begun:
            # The header of the answer may be wrong, its first byte is not.
            self._has_begun, self._is_plain = True, chunk[0] not in _FIRST_BYTES
        if self._is_plain:
            self._has_given = True
            yield chunk
            return
        try:
            while chunk:
                piece = self._stream.decompress(chunk, _PIECE_BYTES)
                if piece:
                    self._has_given = True
                    yield piece
                chunk = self._stream.unconsumed_tail
        except zlib.error:
            raise UnreadableError from None

    def finish(self) -> None:
        """The body is over. Raises UnreadableError where nothing came of it."""
        if not self._has_given and not self._stream.eof:
            raise UnreadableError


def is_compressed(encoding: str) -> bool:
    """Whether a `content-encoding` says that the bytes are not those of the body."""
    return any(one.strip() in UNASKED for one in encoding.lower().split(","))
