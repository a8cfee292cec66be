"""Certificates for the xDS port: a small authority of the project's own. Pure: no I/O, no clock.

Decides what a certificate holds and when it is due; never where it is kept (``certificates``).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE: Final = timedelta(days=3 * 365)
LEAF_LIFE: Final = timedelta(days=90)
# A new authority signs only when every gateway's mounted Secret has surely brought it there.
PROPAGATION: Final = timedelta(days=1)
CLOCK_SKEW: Final = timedelta(minutes=5)

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class Unusable(Exception):
    """What is stored is no certificate and key that can be used; says why, never quotes a key."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return write_certificate(self.certificate)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


@dataclass(frozen=True, slots=True)
class Role:
    """One end of the connection. names: DNS names; the first is the common name too."""

    names: tuple[str, ...]
    is_server: bool


def renewal_of(certificate: x509.Certificate) -> datetime:
    """When the certificate is due: at two thirds of its life."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_before_utc + life * 2 / 3


def make_authority(now: datetime) -> Pair:
    """A new self-signed authority; its name is unique, so that two can be trusted together."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"llm-rollouts CA {now:%Y-%m-%d} {secrets.token_hex(4)}")
    builder = (
        _builder(name, name, key, now, now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


def make_leaf(authority: Pair, role: Role, now: datetime) -> Pair:
    """A certificate for one end, which never outlives its authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if role.is_server else ExtendedKeyUsageOID.CLIENT_AUTH
    end = min(now + LEAF_LIFE, authority.certificate.not_valid_after_utc)
    issuer = authority.certificate
    builder = (
        _builder(_name(role.names[0][:64]), issuer.subject, key, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in role.names]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    return Pair(builder.sign(authority.key, hashes.SHA256()), key)


def read_pair(certificate: bytes, key: bytes) -> Pair:
    """Raises Unusable for garbage, another kind of key, or a key of another certificate."""
    parsed = read_certificate(certificate)
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        raise Unusable("the private key is not readable") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise Unusable("the private key is not of the kind that this program makes")
    if private.public_key() != parsed.public_key():
        raise Unusable("the private key does not belong to the certificate")
    return Pair(parsed, private)


def read_certificate(pem: bytes) -> x509.Certificate:
    """Raises Unusable for garbage."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise Unusable("the certificate is not readable") from None


def read_bundle(pem: bytes) -> Sequence[x509.Certificate]:
    """All certificates of a bundle; raises Unusable for garbage."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise Unusable("the bundle of trusted certificates is not readable") from None


def write_certificate(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def check_authority(pair: Pair, now: datetime) -> None:
    """Raises Unusable for an authority that nobody should trust (any more)."""
    constraints = _extension(pair.certificate, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise Unusable("the certificate is not an authority's")
    if not is_valid(pair.certificate, now):
        raise Unusable("the authority's certificate has expired or is not valid yet")


def check_leaf(pair: Pair, role: Role, trusted: Sequence[x509.Certificate], now: datetime) -> None:
    """Raises Unusable for a leaf that the other end would refuse. Being due is no fault."""
    names = _extension(pair.certificate, x509.SubjectAlternativeName)
    found = () if names is None else tuple(names.get_values_for_type(x509.DNSName))
    if found != role.names:
        raise Unusable(f"the certificate is for {list(found)}, not for {list(role.names)}")
    usage = _extension(pair.certificate, x509.ExtendedKeyUsage)
    wanted = ExtendedKeyUsageOID.SERVER_AUTH if role.is_server else ExtendedKeyUsageOID.CLIENT_AUTH
    if usage is None or wanted not in usage:
        raise Unusable("the certificate is for the other end of the connection")
    if not is_valid(pair.certificate, now):
        raise Unusable("the certificate has expired or is not valid yet")
    if not any(_is_issued_by(pair.certificate, authority) for authority in trusted):
        raise Unusable("the certificate was not signed by the trusted authority")


def is_valid(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether ``now`` lies in the certificate's life."""
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _is_issued_by(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
