"""The keys of the xDS port: read from files again for each handshake, and who may connect.

Only a certificate signed by the project's own authority and made for gateways is let in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import grpc

# Names in the certificates (DNS names of the subject alternative name).
GATEWAY_IDENTITY: Final = "llm-rollouts-gateway"
XDS_SERVICE: Final = "llm-rollouts-xds"


@dataclass(frozen=True, slots=True)
class Keys:
    """PEM texts: the authority's certificate, the server's own chain and its private key."""

    authority: bytes
    certificate: bytes
    key: bytes


class KeySource(Protocol):
    """Gives the keys that are valid now; called in a thread of grpc's for each handshake."""

    def __call__(self) -> Keys: ...


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """A folder as a Secret is mounted: ca.crt, tls.crt, tls.key."""

    folder: Path

    def __call__(self) -> Keys:
        return Keys(
            authority=(self.folder / "ca.crt").read_bytes(),
            certificate=(self.folder / "tls.crt").read_bytes(),
            key=(self.folder / "tls.key").read_bytes(),
        )


def make_credentials(source: KeySource) -> Any:
    """Server credentials that ask clients for a certificate and follow renewed keys. Raises what
    ``source`` raises when there are no keys yet."""
    configured = [source()]

    def fetch() -> Any:
        keys = source()
        if keys == configured[0]:
            return None  # grpc keeps what it has
        configured[0] = keys
        return _configuration(keys)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(configured[0]), fetch, require_client_authentication=True
    )


def is_gateway(context: Any) -> bool:
    """The peer's certificate was made for gateways."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    return GATEWAY_IDENTITY.encode() in names


def _configuration(keys: Keys) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(keys.key, keys.certificate)], root_certificates=keys.authority
    )
