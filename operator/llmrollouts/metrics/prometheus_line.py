"""The connection under prometheus_http: to which machine it may go, and with which certificates.

The peer is looked at on the connected socket, after the name service has had its last word and
before anything is sent; ``cut`` ends whatever the connection waits for from another thread, so
that a server that sends a byte now and then holds no thread for ever. Loads requests; imported by
prometheus_http only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection

from llmrollouts.api.reasons import Reason
from llmrollouts.metrics.prometheus import Credentials
from llmrollouts.metrics.prometheus_address import Permit, is_external
from llmrollouts.metrics.prometheus_answer import Unanswered
from llmrollouts.metrics.prometheus_failures import late

# The gate asks again by itself.
NO_REPEAT: Final = Retry(0, read=False)


class Line:
    """The sockets of one conversation: where they lead, and how to end them from outside."""

    def __init__(self, permit: Permit) -> None:
        self._permit = permit
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_cut = False

    def admit(self, connected: socket.socket) -> None:
        """Raises Unanswered when it leads to a machine that must not be asked."""
        peer = str(connected.getpeername()[0])
        if not self._permit.internal and not is_external(peer):
            raise Unanswered(
                Reason.ADDRESS_NOT_ALLOWED,
                f"the name {self._permit.address.host} leads to {peer}, an address of the "
                "operator's own machine or network link, which is never asked unless the "
                "operator's configuration names it",
                lasting=True,
            )
        with self._lock:
            if self._is_cut:
                raise late()
            self._sockets.append(connected)

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            for each in self._sockets:
                # Closed already: then nothing waits for it.
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


class Adapter(HTTPAdapter):
    def __init__(self, line: Line, tls: ssl.SSLContext | None) -> None:
        self._line = line
        self._tls = tls
        super().__init__(max_retries=NO_REPEAT)

    def init_poolmanager(self, *given: Any, **more: Any) -> None:
        super().init_poolmanager(*given, **more)
        line = self._line

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return _admitted(line, super()._new_conn())

        class Secured(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return _admitted(line, super()._new_conn())

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecuredPool(HTTPSConnectionPool):
            ConnectionCls = Secured

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecuredPool}

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {} if self._tls is None else {"ssl_context": self._tls}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context holds all of it; what requests would add is the public authorities."""


def _admitted(line: Line, connected: socket.socket) -> socket.socket:
    try:
        line.admit(connected)
    except BaseException:
        connected.close()
        raise
    return connected


def make_tls(permit: Permit, credentials: Credentials) -> ssl.SSLContext | None:
    """None for plain HTTP. Raises Unanswered when a certificate or key cannot be used."""
    if permit.address.scheme != "https":
        return None
    if credentials.authorities is None:
        context = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
    else:
        try:
            context = ssl.create_default_context(cadata=credentials.authorities)
        except (ssl.SSLError, ValueError):
            raise _bad_secret("caSecretKeyRef holds no certificates (PEM)") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if credentials.certificate is not None and credentials.key is not None:
        _load_pair(context, credentials.certificate, credentials.key)
    return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Through memory: Python's ssl reads a key from a file only, and it must not reach a disk."""
    handle = os.memfd_create("llm-rollouts", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "w", encoding="utf-8") as file:
            file.write(f"{certificate}\n{key}\n")
        # Without a function that answers, OpenSSL would ask the terminal for a password.
        context.load_cert_chain(f"/proc/self/fd/{handle}", password=lambda: "")
    except (ssl.SSLError, ValueError, UnicodeError):
        raise _bad_secret(
            "certSecretKeyRef and keySecretKeyRef hold no certificate with its key (PEM, no "
            "password)"
        ) from None
    finally:
        os.close(handle)


def _bad_secret(what: str) -> Unanswered:
    return Unanswered(Reason.SECRET_UNUSABLE, f"auth.tls: {what}: correct the Secret")
