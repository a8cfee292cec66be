"""What went wrong with a request to a Prometheus, in our own words.

Never a body, a header or the text of an exception, which could carry a credential or what a
stranger's server answered (R25). The one exception is the first line of what Prometheus says of a
query that it cannot parse: it is about the user's own text. Loads requests; imported by
prometheus_http and prometheus_line only.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from typing import Final

import requests

from llmrollouts.api.reasons import Reason
from llmrollouts.metrics.prometheus_answer import Unanswered

_LONGEST_REMARK: Final = 200


def refuse(status: int, body: bytes) -> Unanswered:
    """Why an answer other than 200 is none, without a word of it."""
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


def explain(error: BaseException) -> Unanswered:
    """Our own words for what a connection did; the causes are told apart by type alone."""
    causes = _causes(error)
    said = next((each for each in causes if isinstance(each, Unanswered)), None)
    if said is not None:
        return said
    if any(isinstance(each, TimeoutError | requests.Timeout) for each in causes):
        return late()
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
                "auth.tls.caSecretKeyRef and the address"
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


def late() -> Unanswered:
    return Unanswered(
        Reason.NOT_ANSWERED_IN_TIME,
        "no answer in time: raise the gate's timeout, or make the query cheaper with a recording "
        "rule",
    )


def unusable() -> Unanswered:
    return Unanswered(
        Reason.UNUSABLE_ANSWER,
        "the answer is none that a Prometheus gives: check the address, there may be something "
        "else behind it",
    )
