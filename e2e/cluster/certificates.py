"""The node's certificate authority and the certificates it signs, made with openssl.

Made once and kept until `reset`; a certificate is made again when its subject or names change.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import places as at
from e2e.cluster.processes import hash_command
from e2e.cluster.steps import run

_DAYS = "3650"


@dataclass(frozen=True)
class Certificate:
    """A client or server certificate: `name`.crt and `name`.key in the pki folder."""

    name: str
    subject: str
    names: tuple[str, ...] = ()


CERTIFICATES = (
    Certificate(
        "apiserver",
        "/CN=kube-apiserver",
        (
            f"IP:{at.NODE_ADDRESS}",
            "IP:127.0.0.1",
            f"IP:{at.API_SERVICE_ADDRESS}",
            "DNS:kubernetes",
            "DNS:kubernetes.default",
            "DNS:kubernetes.default.svc",
            "DNS:kubernetes.default.svc.cluster.local",
            "DNS:localhost",
        ),
    ),
    Certificate("admin", "/O=system:masters/CN=admin"),
    Certificate("controller-manager", "/CN=system:kube-controller-manager"),
    Certificate("scheduler", "/CN=system:kube-scheduler"),
    Certificate("proxy", "/CN=system:kube-proxy"),
    Certificate(
        "kubelet",
        f"/O=system:nodes/CN=system:node:{at.NODE_NAME}",
        (f"IP:{at.NODE_ADDRESS}", f"DNS:{at.NODE_NAME}"),
    ),
)


def ensure_certificates(pki: Path) -> bool:
    """Make what is missing; True when anything was made."""
    pki.mkdir(parents=True, exist_ok=True)
    pki.chmod(0o700)
    made = False
    if not (pki / "ca.crt").is_file() or not (pki / "ca.key").is_file():
        for stale in pki.iterdir():
            stale.unlink()  # signed by an authority that is gone
        run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=llmr-ca",
             "-days", _DAYS, "-keyout", pki / "ca.key", "-out", pki / "ca.crt.new"]
        )  # fmt: skip
        (pki / "ca.crt.new").rename(pki / "ca.crt")
        made = True
    if not (pki / "service-accounts.key").is_file():
        run(["openssl", "genrsa", "-out", pki / "service-accounts.key.new", "2048"])
        (pki / "service-accounts.key.new").rename(pki / "service-accounts.key")
        made = True
    for certificate in CERTIFICATES:
        made |= _ensure(pki, certificate)
    return made


def _ensure(pki: Path, certificate: Certificate) -> bool:
    wanted = hash_command([certificate.subject, *certificate.names, (pki / "ca.crt").read_text()])
    stamp = pki / f"{certificate.name}.inputs"
    if stamp.is_file() and stamp.read_text() == wanted:
        return False
    base = pki / certificate.name
    extensions = base.with_suffix(".ext")
    lines = ["extendedKeyUsage=clientAuth,serverAuth"]
    if certificate.names:
        lines.append("subjectAltName=" + ",".join(certificate.names))
    extensions.write_text("\n".join(lines) + "\n")
    run(
        ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", certificate.subject,
         "-keyout", base.with_suffix(".key"), "-out", base.with_suffix(".csr")]
    )  # fmt: skip
    run(
        ["openssl", "x509", "-req", "-in", base.with_suffix(".csr"), "-CA", pki / "ca.crt",
         "-CAkey", pki / "ca.key", "-CAcreateserial", "-days", _DAYS, "-extfile", extensions,
         "-out", base.with_suffix(".crt")]
    )  # fmt: skip
    stamp.write_text(wanted)
    return True
