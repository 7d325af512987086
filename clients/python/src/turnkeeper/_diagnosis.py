"""Why a server cannot be reached, in words that say what to do: found by asking its port, once gRPC has failed."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass

from turnkeeper._config import DEFAULT_ADDRESS, Settings, host_and_port

PROBE_SECONDS = 1.0
"""The longest that a diagnosis takes."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS_FRAME = 4
_TLS_ALERT = b"\x15\x03"
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_GIVE_ADDRESS = "give the right address (address, --address or TURNKEEPER_ADDRESS)"
_GIVE_CA = "give the authority that signed its certificate (tls_ca, --tls-ca or TURNKEEPER_TLS_CA)"
# Of OpenSSL: the certificate is for another name, or another address.
_NO_HOST = {62, 64}
# How gRPC words that something answers which is no server of this contract.
_WEB = re.compile(r"Received http2 header with status: (\d+)")
_NO_METHOD = re.compile(r"(?i)method not found!|unknown (service|method)")


@dataclass(frozen=True)
class Cause:
    """What is wrong."""

    words: str
    is_lasting: bool = True
    """Whether it stays so until somebody does something; a server that is not there may be about to start."""


async def diagnose(settings: Settings) -> Cause | None:
    """Look what is at the server's address; None where a server is, or where that cannot be told."""
    target = host_and_port(settings.address)
    if target is None:
        return None
    where = settings.address
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            found = await (_by_tls if settings.tls_ca is not None else _plainly)(settings, *target)
    except TimeoutError:
        found = Cause(
            "no answer comes: the host is down, a firewall drops what is sent, or something else listens there"
        )
    except socket.gaierror as error:
        words = (error.strerror or str(error)).lower()
        found = Cause(f"the host {target[0]!r} is not found ({words}): {_GIVE_ADDRESS}")
    except ConnectionRefusedError:
        start = f"start one with `turnkeeper serve`, or {_GIVE_ADDRESS}"
        found = Cause(f"the connection is refused, so nothing listens there: {start}", is_lasting=False)
    except OSError as error:
        found = Cause(f"{(error.strerror or str(error)).lower()}: {_GIVE_ADDRESS}", is_lasting=False)
    if found is not None:
        return Cause(f"no connection to {where}: {found.words}", found.is_lasting)
    proxy = next((name for name in _PROXIES if os.environ.get(name)), None)
    if proxy is None:
        return None
    return Cause(f"no connection to {where} by the proxy of {proxy}; no_proxy names what is reached directly", False)


def misplaced(address: str, words: str) -> str | None:
    """What a call's error means where it was answered by something else; None where it was not."""
    if web := _WEB.search(words):
        return f"no Turnkeeper server at {address}: a web server or a proxy answers, HTTP {web[1]}: {_GIVE_ADDRESS}"
    if _NO_METHOD.match(words):
        return f"no such method at {address}: another gRPC server, or an older Turnkeeper, listens there"
    return None


async def _plainly(settings: Settings, host: str, port: int) -> Cause | None:
    """What answers to a connection that is not encrypted."""
    answer = await _answer(host, port)
    if answer is None:
        return None
    if answer.startswith(b"HTTP/"):
        return _http()
    if answer.startswith(_TLS_ALERT) or await _speaks_tls(host, port):
        return Cause(f"it wants TLS, and this connection is not encrypted: {_GIVE_CA}")
    return _something_else()


async def _by_tls(settings: Settings, host: str, port: int) -> Cause | None:
    """What answers to a connection that is encrypted and checked."""
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        if settings.tls_certificate is not None:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except ssl.SSLError as error:
        return Cause(f"the files of TLS cannot be used: {error.reason or error}")
    context.set_alpn_protocols(["h2"])
    try:
        answer = await _answer(host, port, context)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _NO_HOST:
            return Cause(f"its certificate is not for {host!r}: {error.verify_message}")
        return Cause(f"its certificate cannot be trusted ({error.verify_message}): {_GIVE_CA}")
    except (ssl.SSLError, ConnectionResetError) as error:
        reason = getattr(error, "reason", None) or ""
        if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
            return _wants_certificate(settings)
        plain = await _answer(host, port)
        if plain is None or plain.startswith(b"HTTP/"):
            also = "" if plain is None else "; it is an HTTP port too"
            return Cause(f"it does not speak TLS: leave out the authority (tls_ca, --tls-ca, TURNKEEPER_TLS_CA){also}")
        return _something_else()
    if answer is not None and answer.startswith(b"HTTP/"):
        return _http()
    if answer == b"":
        return _wants_certificate(settings)
    return None if answer is None else _something_else()


def _http() -> Cause:
    default = DEFAULT_ADDRESS.rpartition(":")[2]
    words = f"that is an HTTP port, perhaps the server's own for metrics and probes, and not its gRPC port ({default})"
    return Cause(f"{words}: {_GIVE_ADDRESS}")


def _something_else() -> Cause:
    return Cause(f"something else than a Turnkeeper server listens there: {_GIVE_ADDRESS}")


def _wants_certificate(settings: Settings) -> Cause:
    if settings.tls_certificate is not None:
        return Cause("it refuses this client's certificate (tls_certificate)")
    return Cause("it ends the TLS connection: it may want a certificate of this client (tls_certificate and tls_key)")


async def _answer(host: str, port: int, context: ssl.SSLContext | None = None) -> bytes | None:
    """The first bytes that come back to an HTTP/2 client; None where an HTTP/2 server sent them."""
    name = host if context is not None else None
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    try:
        writer.write(_PREFACE)
        answer = await reader.read(64)
    except ConnectionResetError:
        answer = b""
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return None if len(answer) > _SETTINGS_FRAME - 1 and answer[3] == _SETTINGS_FRAME else answer


async def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        await _answer(host, port, context)
    except ssl.SSLError as error:
        # A server that ends the handshake because it wants a certificate has begun one.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    return True
