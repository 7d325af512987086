"""TLS from files: the server's certificate, and who may sign the clients'.

gRPC asks for the certificates at every handshake. The files are read again when one of them has changed; connections
that stand keep what they have. Whether client certificates are demanded is fixed at the start; gRPC asks for them only
where it demands them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext, SSLError
from threading import Lock

import grpc


class TlsError(Exception):
    """The files cannot be used. The message names the file."""


def peer_names(auth_context: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    """The names in a verified client certificate: its alternative names, or else its common name.

    ``auth_context`` is what ``ServicerContext.auth_context()`` gives; without a client certificate there are no names.
    """
    for key in ("x509_subject_alternative_name", "x509_common_name"):
        names = tuple(name.decode("utf-8", "replace") for name in auth_context.get(key, ()))
        if names:
            return names
    return ()


class Certificates:
    """The files of a server, and what they looked like when they were read last.

    Raises `TlsError` where they are bad at the start. Files that are bad later change nothing: the last good ones stay
    in force, and ``on_bad_file`` is told, perhaps on a thread of gRPC, once for each change.
    """

    def __init__(
        self,
        *,
        cert_file: Path,
        key_file: Path,
        client_ca_file: Path | None = None,
        require_client_cert: bool = False,
        on_bad_file: Callable[[str], object] = lambda message: None,
    ) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        self._client_ca_file = client_ca_file
        self._on_bad_file = on_bad_file
        self._reading = Lock()
        self._seen = self._look()
        self._current = self._read()
        self.credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._current, self.fetch, require_client_authentication=require_client_cert
        )

    def reload(self) -> None:
        """Read the files now, whether or not they seem to have changed."""
        with self._reading:
            self._renew()

    def fetch(self) -> grpc.ServerCertificateConfiguration:
        """What is in force, read again if a file has changed: gRPC calls this at every handshake."""
        # Whoever comes while another one reads waits for what that one reads.
        with self._reading:
            if self._look() != self._seen:
                self._renew()
            return self._current

    def _renew(self) -> None:
        # Noted even if it is bad: a half-written pair is looked at again when its other half arrives.
        self._seen = self._look()
        try:
            self._current = self._read()
        except TlsError as error:
            self._on_bad_file(str(error))

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Read and check all files."""
        chain, key, authority = check_files(self._cert_file, self._key_file, self._client_ca_file)
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=authority)

    def _look(self) -> tuple[object, ...]:
        return tuple(_version(path) for path in (self._cert_file, self._key_file, self._client_ca_file))


def _version(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found is not None else None


def _pem(path: Path, kind: bytes) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: cannot read it: {error.strerror}") from None
    if kind not in content:
        raise TlsError(f"{path}: holds no PEM block that ends in {kind.decode().strip('-')}")
    return content


def check_files(cert_file: Path, key_file: Path, client_ca_file: Path | None) -> tuple[bytes, bytes, bytes | None]:
    """Read chain, key and authority, and refuse now what gRPC would refuse at each handshake, where nobody sees it."""
    chain, key = _pem(cert_file, b"CERTIFICATE-----"), _pem(key_file, b"PRIVATE KEY-----")
    authority = None if client_ca_file is None else _pem(client_ca_file, b"CERTIFICATE-----")

    def refuse_to_ask() -> str:
        raise TlsError(f"{key_file}: is encrypted; keys are read without a passphrase")

    context = SSLContext(PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert_file, key_file, password=refuse_to_ask)
    except (SSLError, OSError) as error:
        raise TlsError(f"{cert_file} and {key_file}: not a certificate and its key: {error.strerror}") from None
    try:
        if client_ca_file is not None:
            context.load_verify_locations(client_ca_file)
    except (SSLError, OSError) as error:
        raise TlsError(f"{client_ca_file}: not a certificate: {error.strerror}") from None
    return chain, key, authority
