"""Reads the credentials of a gate from Secrets of the LLMDeployment's own namespace.

By name, for one evaluation, and kept nowhere: a renewed Secret is used at the next one. It never
lists Secrets, never looks into another namespace, and never puts a value into a message. What is
wrong is ``Unanswered``, because a gate without its credentials has no answer. Called by
controller/prometheus_gates.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final

from llmrollouts.api.prometheus_gate import PrometheusAuth, PrometheusTls
from llmrollouts.api.reasons import Reason
from llmrollouts.api.revision import SecretKeyRef
from llmrollouts.kube.port import SECRET, KubeError, NotFound, Reader, Rejected
from llmrollouts.metrics.prometheus import Credentials
from llmrollouts.metrics.prometheus_answer import Unanswered

_LONGEST: Final = 65_536


async def read_credentials(
    reader: Reader, namespace: str, auth: PrometheusAuth | None
) -> Credentials:
    """Raises Unanswered, and nothing else, when one of them cannot be used."""
    if auth is None:
        return Credentials()
    secrets = _Secrets(reader, namespace)
    bearer = await secrets.read_word(auth.bearer_token_secret_key_ref)
    basic = None
    if auth.basic_auth is not None:
        name = await secrets.read_word(auth.basic_auth.username_secret_key_ref)
        password = await secrets.read_word(auth.basic_auth.password_secret_key_ref)
        basic = (name or "", password or "")
    tls = auth.tls or PrometheusTls()
    return Credentials(
        bearer=bearer,
        basic=basic,
        authorities=await secrets.read(tls.ca_secret_key_ref),
        certificate=await secrets.read(tls.cert_secret_key_ref),
        key=await secrets.read(tls.key_secret_key_ref),
    )


class _Secrets:
    """Each Secret is read once, however many of its keys are needed."""

    def __init__(self, reader: Reader, namespace: str) -> None:
        self._reader = reader
        self._namespace = namespace
        self._data: dict[str, Mapping[str, str]] = {}

    async def read_word(self, ref: SecretKeyRef | None) -> str | None:
        """A text for a header: without the line end that editors add, and of one line."""
        text = await self.read(ref)
        if text is None or ref is None:
            return None
        word = text.strip()
        if not word or re.search(r"[\x00-\x1f\x7f]", word):
            raise Unanswered(
                Reason.SECRET_UNUSABLE,
                f"key {ref.key!r} of Secret {ref.name!r} is empty or has line breaks or control "
                "characters inside: correct the Secret",
            )
        return word

    async def read(self, ref: SecretKeyRef | None) -> str | None:
        if ref is None:
            return None
        data = await self._get(ref.name)
        if ref.key not in data:
            known = ", ".join(sorted(data)[:5]) or "none"
            raise Unanswered(
                Reason.SECRET_MISSING,
                f"Secret {ref.name!r} lacks the key {ref.key!r} (its keys: {known[:200]}): add the "
                "key, or correct the name",
            )
        try:
            text = base64.b64decode(data[ref.key], validate=True).decode()
        except (binascii.Error, ValueError):
            text = ""
        if not text or len(text) > _LONGEST:
            raise Unanswered(
                Reason.SECRET_UNUSABLE,
                f"key {ref.key!r} of Secret {ref.name!r} is empty, no text, or longer than 64 KiB: "
                "correct the Secret",
            )
        return text

    async def _get(self, name: str) -> Mapping[str, str]:
        if name not in self._data:
            try:
                secret = await self._reader.get(SECRET, self._namespace, name)
            except NotFound:
                raise Unanswered(
                    Reason.SECRET_MISSING,
                    f"Secret {name!r} does not exist in namespace {self._namespace!r}: create it, "
                    "or correct the name",
                ) from None
            except Rejected:
                raise Unanswered(
                    Reason.SECRET_FORBIDDEN,
                    f"the operator may not read Secret {name!r} in namespace {self._namespace!r}: "
                    "ask its administrator to list the namespace in the chart's "
                    "rbac.prometheusSecretsIn",
                ) from None
            except KubeError:
                raise Unanswered(
                    Reason.SECRET_MISSING,
                    f"Secret {name!r} could not be read: the API server does not answer",
                ) from None
            self._data[name] = secret.get("data") or {}
        return self._data[name]
