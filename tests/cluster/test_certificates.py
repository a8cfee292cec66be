"""Certificates are made once, and again when what they say changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from e2e.cluster import certificates
from e2e.cluster import places as at
from e2e.cluster.certificates import Certificate, ensure_certificates
from e2e.cluster.steps import run

ONE = Certificate("apiserver", "/CN=one", (f"IP:{at.NODE_ADDRESS}", "DNS:kubernetes"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The keys take a second to make: made once, and each test gets a copy of its own."""
    folder = tmp_path_factory.mktemp("pki")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "CERTIFICATES", (ONE,))
        assert ensure_certificates(folder) is True
    return folder


@pytest.fixture
def pki(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(certificates, "CERTIFICATES", (ONE,))
    return shutil.copytree(made, tmp_path / "pki")  # with its modes


def test_a_certificate_is_signed_for_its_names(pki: Path) -> None:
    run(["openssl", "verify", "-CAfile", pki / "ca.crt", pki / "apiserver.crt"])
    shown = run(["openssl", "x509", "-noout", "-text", "-in", pki / "apiserver.crt"])
    assert f"IP Address:{at.NODE_ADDRESS}" in shown
    assert "DNS:kubernetes" in shown


def test_nothing_is_made_twice(pki: Path) -> None:
    before = {f.name: f.read_bytes() for f in pki.iterdir()}
    assert ensure_certificates(pki) is False
    assert {f.name: f.read_bytes() for f in pki.iterdir()} == before


def test_another_name_means_another_certificate_by_the_same_authority(
    pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = (pki / "ca.crt").read_bytes()
    monkeypatch.setattr(
        certificates, "CERTIFICATES", (Certificate("apiserver", "/CN=one", ("DNS:other",)),)
    )
    assert ensure_certificates(pki) is True
    assert (pki / "ca.crt").read_bytes() == authority
    shown = run(["openssl", "x509", "-noout", "-text", "-in", pki / "apiserver.crt"])
    assert "DNS:other" in shown


def test_a_lost_authority_means_new_certificates(pki: Path) -> None:
    (pki / "ca.key").unlink()
    assert ensure_certificates(pki) is True
    run(["openssl", "verify", "-CAfile", pki / "ca.crt", pki / "apiserver.crt"])


def test_private_keys_are_for_root_alone(pki: Path) -> None:
    assert pki.stat().st_mode & 0o077 == 0
