"""What kind of media something is, and which kinds vendors take.

Who attaches media says a type, and is wrong now and then; vendors refuse a request for it, and with it the session.
"""

from __future__ import annotations

from turnkeeper.v1 import content_pb2

IMAGES = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp"))
"""The images that all vendors but one take."""
_OTHER_NAMES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"%PDF-": "application/pdf",
}


def type_of(media: content_pb2.Media) -> str:
    """The type of media, in small letters and without parameters: what it begins as, else what it is said to be."""
    data = media.data[:16]
    for beginning, found in _BEGINNINGS.items():
        if data.startswith(beginning):
            return found
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    said = media.mime_type.partition(";")[0].strip().lower()
    return _OTHER_NAMES.get(said, said)
