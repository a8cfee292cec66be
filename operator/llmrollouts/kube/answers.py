"""Turns the API server's answers into the port's errors: who is at fault, and in which words.

Decides nothing about retries: the error's class says what a caller may do. Called by the client.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.port import Conflict, KubeError, NotFound, Rejected, Transient

MESSAGE_LIMIT: Final = 1000  # characters of the server's message that are kept


def error_of(action: str, code: int, headers: Mapping[str, str], body: bytes) -> KubeError:
    """The error for an answer that is not success.

    action: what was asked ("apply Deployment prod/chat-abc"), the beginning of the message.
    """
    status = _status(body)
    said = str(status.get("message") or body[:MESSAGE_LIMIT].decode("utf-8", "replace")).strip()
    message = f"{action}: {code} {status.get('reason') or ''}".rstrip()
    if said:
        message = f"{message}: {said[:MESSAGE_LIMIT]}"
    if code == 404:
        return NotFound(message)
    if code == 409:
        return Conflict(message)
    if code in (408, 410, 429) or code >= 500:
        return Transient(message, _retry_after(headers, status))
    return Rejected(message)


def error_of_patch(action: str, code: int, headers: Mapping[str, str], body: bytes) -> KubeError:
    """As error_of, for JSON patches: a failed ``test`` is a Conflict.

    The server answers 422 both for a patch that does not fit the object (a failed ``test``, a
    ``remove`` of what is gone) and for an object that is invalid afterwards; only the latter
    names a kind and causes.
    """
    if code == 422:
        details = _status(body).get("details")
        if not (isinstance(details, dict) and (details.get("kind") or details.get("causes"))):
            error = error_of(action, code, headers, body)
            return Conflict(f"{error}; the object has changed since it was read")
    return error_of(action, code, headers, body)


def error_of_apply(action: str, code: int, headers: Mapping[str, str], body: bytes) -> KubeError:
    """As error_of, for server-side apply: a field that the server does not know is answered with
    500, though asking again is no use. (An older API server, or a mistake of ours.)"""
    if code == 500 and "typed patch object" in str(_status(body).get("message")):
        return Rejected(str(error_of(action, code, headers, body)))
    return error_of(action, code, headers, body)


def _status(body: bytes) -> Manifest:
    # While it starts or stops, the server (or a proxy before it) answers in plain text.
    try:
        status = json.loads(body)
    except ValueError:
        return {}
    return status if isinstance(status, dict) and status.get("kind") == "Status" else {}


def _retry_after(headers: Mapping[str, str], status: Manifest) -> float | None:
    details = status.get("details")
    told = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    for value in (headers.get("Retry-After"), told):
        try:
            seconds = float(value) if value is not None else -1.0
        except (TypeError, ValueError):
            continue  # the HTTP date form: the API server never sends it
        if seconds > 0:
            return seconds
    return None
