"""prometheus-api-client over a session that keeps the operator's rules.

The library asks and decodes. The session below it follows no redirect, looks into no environment
and no netrc, repeats nothing and reads at most ``LONGEST_ANSWER`` bytes until the end of its time;
prometheus_line decides where its connection may go. Whatever goes wrong becomes ``Unanswered``, in
the words of prometheus_failures.

Imported at the first question only, in its thread, because it loads the library; see prometheus.
"""

from __future__ import annotations

import io
import ssl
import time
from types import TracebackType
from typing import Any, Final

import requests
import urllib3
from prometheus_api_client import PrometheusConnect
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from requests.structures import CaseInsensitiveDict

from llmrollouts.api.reasons import Reason
from llmrollouts.metrics.prometheus import Credentials
from llmrollouts.metrics.prometheus_address import Permit
from llmrollouts.metrics.prometheus_answer import Sample, Unanswered, read_sample, show
from llmrollouts.metrics.prometheus_failures import explain, late, refuse, unusable
from llmrollouts.metrics.prometheus_line import NO_REPEAT, Adapter, Line, make_tls

LONGEST_ANSWER: Final = 1 << 20
_CHUNK: Final = 1 << 14
_SHORTEST_WAIT: Final = 0.05
# Also of a Thanos: half an answer must be none.
_PARAMETERS: Final = {"partial_response": "false"}


class Conversation:
    """With one Prometheus until ``end`` (monotonic seconds), in one thread."""

    def __init__(self, permit: Permit, credentials: Credentials, end: float) -> None:
        self._end = end
        self._line = Line(permit)
        self._session = _Session(self._line, make_tls(permit, credentials), end)
        self._session.auth = _choose_proof(credentials)
        # Of the library itself: its own session would follow redirects and read without end.
        self._library = PrometheusConnect(url=permit.url, session=self._session, retry=NO_REPEAT)

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
            raise late()
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
        except (requests.JSONDecodeError, RecursionError, KeyError, TypeError):
            raise unusable() from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            # ``from None``, and no text of the error: it may hold what was sent.
            raise explain(error) from None


class _Session(requests.Session):
    def __init__(self, line: Line, tls: ssl.SSLContext | None, end: float) -> None:
        super().__init__()
        self.trust_env = False
        self.headers = CaseInsensitiveDict(
            {
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "llm-rollouts",
            }
        )
        self._end = end
        self._adapter = Adapter(line, tls)

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
            raise refuse(response.status_code, body)
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
                raise late()
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        super().close()
        self._adapter.close()


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
