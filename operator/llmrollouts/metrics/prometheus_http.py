"""prometheus-api-client over a connection that keeps the operator's rules.

The library asks and decodes; the session and the adapter below it decide what a connection may do:
it goes only to a machine that the permit allows (checked on the connected socket, before anything
is sent), follows no redirect, looks into no environment and no netrc, repeats nothing (the gate
asks again by itself), trusts only the given authorities, and reads at most ``LONGEST_ANSWER``
bytes until the end of its time. Whatever goes wrong becomes ``Unanswered`` with a text of our own:
never a body, a header or an exception's text, which could carry a credential (R25). The one
exception is the first line of what Prometheus says of a query that it cannot parse.

Imported at the first question only, in its thread, because it loads the library; see prometheus.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import ssl
import threading
import time
from types import TracebackType
from typing import Any, Final

import requests
from prometheus_api_client import PrometheusConnect
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection

from llmrollouts.api.reasons import Reason
from llmrollouts.metrics.prometheus import Credentials
from llmrollouts.metrics.prometheus_address import Permit, is_external
from llmrollouts.metrics.prometheus_answer import Sample, Unanswered, read_sample, show

LONGEST_ANSWER: Final = 1 << 20
_CHUNK: Final = 1 << 14
_LONGEST_REMARK: Final = 200
_SHORTEST_WAIT: Final = 0.05
_NO_REPEAT: Final = Retry(0, read=False)
# Also of a Thanos: half an answer must be none.
_PARAMETERS: Final = {"partial_response": "false"}


class Conversation:
    """With one Prometheus until ``end`` (monotonic seconds), in one thread."""

    def __init__(self, permit: Permit, credentials: Credentials, end: float) -> None:
        self._end = end
        self._line = _Line(permit)
        self._session = _Session(self._line, _make_tls(permit, credentials), end)
        self._session.auth = _choose_proof(credentials)
        # Of the library itself: its own session would follow redirects and read without end.
        self._library = PrometheusConnect(url=permit.url, session=self._session, retry=_NO_REPEAT)

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.close()

    def ask(self, query: str) -> Sample:
        """The only number of an instant query. Raises Unanswered."""
        return read_sample(self._query(query), query)

    def finds(self, query: str) -> bool:
        """Whether an instant query finds anything. Raises Unanswered."""
        return bool(self._query(query))

    def cut(self) -> None:
        """From another thread: whatever this conversation waits for ends now."""
        self._line.cut()

    def _query(self, query: str) -> Any:
        left = self._end - time.monotonic()
        if left <= 0:
            raise _late()
        wait = max(left, _SHORTEST_WAIT)
        try:
            return self._library.custom_query(
                query, {**_PARAMETERS, "timeout": f"{round(wait * 1000)}ms"}, timeout=wait
            )
        except Unanswered as unanswered:
            if unanswered.reason is Reason.QUERY_INVALID:
                told = f"{unanswered.message}: {show(query)}"
                raise Unanswered(Reason.QUERY_INVALID, told, lasting=True) from None
            raise
        except (requests.RequestException, OSError, RecursionError) as error:
            # ``from None``, and no text of the error: it may hold what was sent.
            raise _explain(error) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _unusable() from None


class _Line:
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
                raise _late()
            self._sockets.append(connected)

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            for each in self._sockets:
                # Closed already: then nothing waits for it.
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


class _Session(requests.Session):
    def __init__(self, line: _Line, tls: ssl.SSLContext | None, end: float) -> None:
        super().__init__()
        self.trust_env = False
        self.headers = requests.structures.CaseInsensitiveDict(
            {"Accept": "application/json", "Accept-Encoding": "identity"}
        )
        self.headers["User-Agent"] = "llm-rollouts"
        self._end = end
        self._adapter = _Adapter(line, tls)

    def get_adapter(self, url: str | bytes) -> HTTPAdapter:  # noqa: ARG002 - one for all
        return self._adapter

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002
        """None is ever followed."""
        return

    def send(self, request: requests.PreparedRequest, **given: Any) -> requests.Response:
        given.update(allow_redirects=False, stream=True)
        with super().send(request, **given) as response:
            body = self._read(response)
        if response.status_code != requests.codes.ok:
            raise _refusal(response, body)
        whole = requests.Response()
        whole.status_code, whole.url, whole.encoding = response.status_code, response.url, "utf-8"
        whole.raw = io.BytesIO(body)
        return whole

    def _read(self, response: requests.Response) -> bytes:
        parts, length = [], 0
        for part in response.iter_content(_CHUNK):
            length += len(part)
            if length > LONGEST_ANSWER:
                raise Unanswered(
                    Reason.UNUSABLE_ANSWER,
                    "the answer is longer than 1 MiB where one number is needed: put sum(), avg() "
                    "or max() around the query",
                )
            if time.monotonic() > self._end:
                raise _late()
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        super().close()
        self._adapter.close()


class _Adapter(HTTPAdapter):
    def __init__(self, line: _Line, tls: ssl.SSLContext | None) -> None:
        self._line = line
        self._tls = tls
        super().__init__(max_retries=_NO_REPEAT)

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


def _admitted(line: _Line, connected: socket.socket) -> socket.socket:
    try:
        line.admit(connected)
    except BaseException:
        connected.close()
        raise
    return connected


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _choose_proof(credentials: Credentials) -> AuthBase | None:
    if credentials.bearer is not None:
        return _Bearer(credentials.bearer)
    if credentials.basic is not None:
        # As bytes: requests would send texts as Latin-1.
        name, password = (text.encode() for text in credentials.basic)
        return HTTPBasicAuth(name, password)
    return None


def _make_tls(permit: Permit, credentials: Credentials) -> ssl.SSLContext | None:
    """None for plain HTTP. Raises Unanswered when a certificate or key cannot be used."""
    if permit.address.scheme != "https":
        return None
    if credentials.authorities is None:
        context = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
    else:
        try:
            context = ssl.create_default_context(cadata=credentials.authorities)
        except (ssl.SSLError, ValueError):
            raise _bad_secret("caSecretRef holds no certificates (PEM)") from None
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
            "certSecretRef and keySecretRef hold no certificate with its key (PEM, no password)"
        ) from None
    finally:
        os.close(handle)


def _bad_secret(what: str) -> Unanswered:
    return Unanswered(Reason.SECRET_UNUSABLE, f"auth.tls: {what}: correct the Secret")


def _refusal(response: requests.Response, body: bytes) -> Unanswered:
    """Why an answer other than 200 is none, without a word of it."""
    status = response.status_code
    if 300 <= status < 400:
        return Unanswered(
            Reason.REQUEST_REFUSED,
            f"it answered with a redirect (HTTP {status}), which is never followed: name the "
            "address that it leads to, if that is allowed",
        )
    if status == 400 and (remark := _read_remark(body)) is not None:
        return Unanswered(Reason.QUERY_INVALID, f"Prometheus does not understand it: {remark}")
    advice = {
        401: "check the credentials in the gate's auth",
        403: "these credentials may not query: check the gate's auth and the rights behind it",
        404: "there is no Prometheus API at this address: check its path",
        422: "Prometheus cannot evaluate the query: try it on its own page, for both revisions",
        429: "it has too much to do: raise the gate's interval",
        503: "it is starting, has too much to do or gave the query up",
    }.get(status, "look at its log")
    return Unanswered(Reason.REQUEST_REFUSED, f"it answered HTTP {status}: {advice}")


def _read_remark(body: bytes) -> str | None:
    """The first line of Prometheus' own word on the query; None where it is not Prometheus'."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict) or answer.get("errorType") != "bad_data":
        return None
    error = answer.get("error")
    if not isinstance(error, str):
        return None
    line = re.sub(r"[^\x20-\x7e]", "?", error.strip().partition("\n")[0])
    return line if len(line) <= _LONGEST_REMARK else f"{line[:_LONGEST_REMARK]}…"


def _explain(error: BaseException) -> Unanswered:
    """Our own words for what a connection did; the causes are told apart by type alone."""
    causes = _causes(error)
    said = next((each for each in causes if isinstance(each, Unanswered)), None)
    if said is not None:
        return said
    if any(isinstance(each, TimeoutError | requests.Timeout) for each in causes):
        return _late()
    for each in causes:
        if (told := _describe(each)) is not None:
            return Unanswered(Reason.NOT_REACHED, told)
    return Unanswered(
        Reason.NOT_REACHED, "the connection ended before an answer: look at the log of Prometheus"
    )


def _describe(cause: BaseException) -> str | None:
    match cause:
        case ssl.SSLCertVerificationError():
            return (
                f"its certificate is not accepted ({cause.verify_message}): check "
                "auth.tls.caSecretRef and the address"
            )
        case ssl.SSLError():
            return (
                "the TLS connection failed: it may speak plain http, or want another client "
                "certificate (auth.tls)"
            )
        case socket.gaierror():
            return "its host name is not known: check the address"
        case OSError(errno=int() as number):
            return (
                f"the connection failed ({os.strerror(number).lower()}): check the address, the "
                "port and the network policies between the operator and it"
            )
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it wraps: urllib3 and requests keep theirs in arguments and in reason."""
    found: list[BaseException] = []
    waiting: list[BaseException] = [error]
    while waiting and len(found) < 20:
        each = waiting.pop(0)
        if each in found:
            continue
        found.append(each)
        inner = [getattr(each, "reason", None), each.__cause__, each.__context__, *each.args]
        waiting.extend(one for one in inner if isinstance(one, BaseException))
    return found


def _late() -> Unanswered:
    return Unanswered(
        Reason.NOT_ANSWERED_IN_TIME,
        "no answer in time: raise the gate's timeout, or make the query cheaper with a recording "
        "rule",
    )


def _unusable() -> Unanswered:
    return Unanswered(
        Reason.UNUSABLE_ANSWER,
        "the answer is none that a Prometheus gives: check the address, there may be something "
        "else behind it",
    )
