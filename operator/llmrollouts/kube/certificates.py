"""Keeps the Secrets of the xDS port's mutual TLS: made when missing, renewed before they expire.

    llm-rollouts-ca            the authority that signs, and its predecessor while trusted
    llm-rollouts-xds-tls       the operator's end: server certificate
    llm-rollouts-gateway-tls   the gateways' end: client certificate

Leaves are renewed at two thirds of their 90 days. The authority is replaced at two thirds of its
three years: both are trusted from then on, the new one signs a day later, when every mounted
Secret has brought it to the gateways, and the old one is forgotten when it expires; so nobody is
ever shown a certificate that he does not trust yet. Only these three Secrets are read and
written, by name; keys are never logged. Called by the operator's leader, every hour.
"""

from __future__ import annotations

import base64
import binascii
import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from cryptography import x509

from llmrollouts.api.labels import MANAGED_BY
from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.authority import (
    PROPAGATION,
    Pair,
    Role,
    Unusable,
    check_authority,
    check_leaf,
    is_valid,
    make_authority,
    make_leaf,
    read_bundle,
    read_certificate,
    read_pair,
    renewal_of,
    write_certificate,
)
from llmrollouts.kube.port import SECRET, Kind, NotFound, Reader

LOG: Final = logging.getLogger(__name__)

CA_SECRET: Final = "llm-rollouts-ca"  # noqa: S105 - the name of a Secret, like the next two
XDS_SECRET: Final = "llm-rollouts-xds-tls"  # noqa: S105
GATEWAY_SECRET: Final = "llm-rollouts-gateway-tls"  # noqa: S105
XDS_SERVICE: Final = "llm-rollouts-xds"
GATEWAY_IDENTITY: Final = "llm-rollouts-gateway"

_CERTIFICATE, _KEY, _TRUSTED = "tls.crt", "tls.key", "ca.crt"
_OLD_CERTIFICATE, _OLD_KEY = "previous.crt", "previous.key"


class SecretWriter(Protocol):
    """The two writes that are needed."""

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest: ...

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest: ...


@dataclass(frozen=True, slots=True)
class CertificateReport:
    """written: the Secrets that were made or changed. due: the next renewal of any of them."""

    written: tuple[str, ...]
    due: datetime


@dataclass(frozen=True, slots=True)
class _Authorities:
    """current: the newest. previous: trusted until it expires; its key may be lost."""

    current: Pair
    previous: x509.Certificate | None = None
    previous_key: Pair | None = None

    def trusted(self, now: datetime) -> Sequence[x509.Certificate]:
        previous = self.previous
        older = [previous] if previous is not None and is_valid(previous, now) else []
        return [self.current.certificate, *older]

    def signing(self, now: datetime) -> Pair:
        """Who signs: not the newest while somebody may not know it yet."""
        born = self.current.certificate.not_valid_before_utc
        older = self.previous_key
        if older and now < born + PROPAGATION and is_valid(older.certificate, now):
            return older
        return self.current

    def data(self) -> dict[str, bytes]:
        data = {_CERTIFICATE: self.current.certificate_pem, _KEY: self.current.key_pem}
        if self.previous is not None:
            data[_OLD_CERTIFICATE] = write_certificate(self.previous)
        if self.previous_key is not None:
            data[_OLD_KEY] = self.previous_key.key_pem
        return data


async def ensure_certificates(
    reader: Reader, writer: SecretWriter, namespace: str, now: datetime
) -> CertificateReport:
    """Make, mend and renew the three Secrets of ``namespace`` as far as needed at ``now``.

    Idempotent; writes nothing when all is well. Raises what the API raises: Conflict when another
    replica was faster (call again), Rejected when the role lacks a right.
    """
    written: list[str] = []
    host = f"{XDS_SERVICE}.{namespace}.svc"
    roles = {
        XDS_SECRET: Role((host, f"{host}.cluster.local"), is_server=True),
        GATEWAY_SECRET: Role((GATEWAY_IDENTITY,), is_server=False),
    }
    found = {name: await _read(reader, namespace, name) for name in (CA_SECRET, *roles)}
    authorities = _decide_authorities(found[CA_SECRET], _data(found[XDS_SECRET]), now)
    # The authority first: a leaf is never signed by a key that might be lost in a crash.
    await _write(writer, namespace, CA_SECRET, found[CA_SECRET], authorities.data(), written)
    due = [renewal_of(authorities.current.certificate)]
    trusted = authorities.trusted(now)
    bundle = b"".join(write_certificate(certificate) for certificate in trusted)
    for name, role in roles.items():
        leaf = _decide_leaf(name, found[name], role, trusted, now)
        if leaf is None:
            leaf = make_leaf(authorities.signing(now), role, now)
        data = {_CERTIFICATE: leaf.certificate_pem, _KEY: leaf.key_pem, _TRUSTED: bundle}
        await _write(writer, namespace, name, found[name], data, written)
        due.append(renewal_of(leaf.certificate))
    return CertificateReport(tuple(written), min(due))


def _decide_authorities(
    secret: Manifest | None, served: Mapping[str, bytes], now: datetime
) -> _Authorities:
    """``served``: the data of the operator's own Secret, in case the authority's is lost."""
    data = _data(secret)
    try:
        current = read_pair(data.get(_CERTIFICATE, b""), data.get(_KEY, b""))
        check_authority(current, now)
    except Unusable as fault:
        if secret is not None:
            LOG.warning(
                "Replaced the certificate authority", extra={"secret": CA_SECRET, "why": str(fault)}
            )
        # What the gateways trust now stays trusted, so that the leaves in use go on being good.
        return _Authorities(make_authority(now), _first_valid(served, now))
    if now >= renewal_of(current.certificate):
        LOG.info("Renewed the certificate authority", extra={"secret": CA_SECRET})
        return _Authorities(make_authority(now), current.certificate, current)
    return _with_previous(current, data, now)


def _with_previous(current: Pair, data: Mapping[str, bytes], now: datetime) -> _Authorities:
    if _OLD_CERTIFICATE not in data:
        return _Authorities(current)
    try:
        previous = read_certificate(data[_OLD_CERTIFICATE])
        key = read_pair(data[_OLD_CERTIFICATE], data[_OLD_KEY]) if _OLD_KEY in data else None
    except Unusable as fault:
        extra = {"secret": CA_SECRET, "why": str(fault)}
        LOG.warning("Dropped the previous certificate authority", extra=extra)
        return _Authorities(current)
    return (
        _Authorities(current, previous, key) if is_valid(previous, now) else _Authorities(current)
    )


def _first_valid(served: Mapping[str, bytes], now: datetime) -> x509.Certificate | None:
    try:
        bundle = read_bundle(served.get(_TRUSTED, b""))
    except Unusable:
        return None
    return next((certificate for certificate in bundle if is_valid(certificate, now)), None)


def _decide_leaf(
    name: str,
    secret: Manifest | None,
    role: Role,
    trusted: Sequence[x509.Certificate],
    now: datetime,
) -> Pair | None:
    """The stored leaf if it can stay, else None."""
    if secret is None:
        return None
    data = _data(secret)
    try:
        leaf = read_pair(data.get(_CERTIFICATE, b""), data.get(_KEY, b""))
        check_leaf(leaf, role, trusted, now)
    except Unusable as fault:
        LOG.warning("Replaced a certificate", extra={"secret": name, "why": str(fault)})
        return None
    if now >= renewal_of(leaf.certificate):
        LOG.info("Renewed a certificate", extra={"secret": name})
        return None
    return leaf


async def _read(reader: Reader, namespace: str, name: str) -> Manifest | None:
    try:
        return await reader.get(SECRET, namespace, name)
    except NotFound:
        return None


def _data(secret: Manifest | None) -> Mapping[str, bytes]:
    """The decoded data; what is not base64 reads as missing."""
    data = {}
    for key, value in ((secret or {}).get("data") or {}).items():
        try:
            data[key] = base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError, ValueError):
            continue
    return data


async def _write(
    writer: SecretWriter,
    namespace: str,
    name: str,
    found: Manifest | None,
    data: Mapping[str, bytes],
    written: list[str],
) -> None:
    if found is not None and dict(_data(found)) == dict(data):
        return
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    if found is None:
        secret: Manifest = {
            "apiVersion": SECRET.api_version,
            "kind": SECRET.kind,
            "metadata": {
                "namespace": namespace,
                "name": name,
                "labels": {MANAGED_BY: "llm-rollouts"},
            },
            "type": "Opaque" if name == CA_SECRET else "kubernetes.io/tls",
            "data": encoded,
        }
        await writer.create(SECRET, secret)
    else:
        secret = copy.deepcopy(found)
        secret["data"] = encoded
        await writer.replace(SECRET, secret)
    written.append(name)
    LOG.info("Wrote a Secret of certificates", extra={"secret": name})
