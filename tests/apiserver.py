"""A real API server for tests: etcd and kube-apiserver on loopback, no kubelet, no controllers.

Objects are stored, validated, defaulted and watched as in any cluster; nothing acts on them.
``start_apiserver`` is the whole interface; tests marked ``apiserver`` get one per session from
the fixture ``apiserver`` and a namespace of their own from ``namespace`` (tests/conftest.py).
Everything lives in a temporary folder and ends with the test process, also when that is killed.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from e2e.harness.processes import MissingProgram, closed_ports, find_program, stop_process

REPOSITORY = Path(__file__).resolve().parent.parent
CRD_FILE = REPOSITORY / "crds" / "llmdeployments.llmrollouts.dev.yaml"
ROUTE_CRD_FILE = "gateway.networking.k8s.io_httproutes.yaml"
START_SECONDS = 90.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    """What the API server said: the HTTP status and the decoded body."""

    status: int
    body: Any

    @property
    def message(self) -> str:
        return str(self.body.get("message", "")) if isinstance(self.body, dict) else str(self.body)


@dataclass
class ApiServer:
    """A running API server. ``token`` is an administrator's."""

    url: str
    token: str
    ca_file: Path
    kubeconfig: Path
    log_file: Path
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        timeout: float = 30.0,
    ) -> Answer:
        """One request; an error of the server is an answer, not an exception."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)  # noqa: S310
        request.add_header("Authorization", f"Bearer {self.token}")
        request.add_header("Accept", "application/json")
        if data is not None:
            request.add_header("Content-Type", content_type)
        context = ssl.create_default_context(cafile=str(self.ca_file))
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:  # noqa: S310
                return Answer(answer.status, _decode(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _decode(error.read()))

    def kubectl(
        self, *arguments: str, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator; the caller looks at the exit code."""
        program = Path(sys.executable).with_name("kubectl")
        return subprocess.run(
            [str(program), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def install_crd(self) -> None:
        """Create the CRD, or replace it where it is there, and wait until it is served."""
        self._install(CRD_FILE)

    def install_route_crd(self) -> None:
        """The same for the Gateway API's own HTTPRoute, as its project publishes it."""
        self._install(Path(_find_program(ROUTE_CRD_FILE, os.R_OK)))

    def _install(self, file: Path) -> None:
        manifest = yaml.safe_load(file.read_text(encoding="utf-8"))
        name = manifest["metadata"]["name"]
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        answer = self.request("POST", path, manifest)
        if answer.status == 409:
            found = self.request("GET", f"{path}/{name}").body
            manifest["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
            answer = self.request("PUT", f"{path}/{name}", manifest)
        if answer.status not in (200, 201):
            raise AssertionError(f"the API server refused the CRD: {answer.message}")
        _wait_for(lambda: self._serves(f"{path}/{name}", manifest), 30.0, "the CRD to be served")

    def _serves(self, path: str, manifest: dict[str, Any]) -> bool:
        conditions = self.request("GET", path).body.get("status", {}).get("conditions") or []
        established = any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
        spec = manifest["spec"]
        version = spec["versions"][0]["name"]
        listed = self.request("GET", f"/apis/{spec['group']}/{version}/{spec['names']['plural']}")
        return established and listed.status == 200

    def create_namespace(self, prefix: str = "test") -> str:
        name = f"{prefix}-{secrets.token_hex(4)}"
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        answer = self.request("POST", "/api/v1/namespaces", manifest)
        if answer.status != 201:
            raise AssertionError(f"no namespace: {answer.message}")
        return name

    def freeze(self) -> None:
        """The server stays connected and answers nothing, until ``thaw``."""
        self._processes[-1].send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._processes[-1].send_signal(signal.SIGCONT)


@contextlib.contextmanager
def start_apiserver(folder: Path, arguments: Sequence[str] = ()) -> Iterator[ApiServer]:
    """Start etcd and an API server that keep everything in ``folder``; stop them at the end.

    arguments: more of the API server's own, an audit log for example.
    """
    apiserver, etcd, setpriv = _find_apiserver(), _find("etcd"), _find("setpriv")
    folder.mkdir(parents=True, exist_ok=True)
    _write_certificates(folder)
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n', encoding="utf-8")
    etcd_port, peer_port, port = closed_ports(3)
    url = f"https://127.0.0.1:{port}"
    server = ApiServer(
        url, token, folder / "ca.crt", folder / "kubeconfig", folder / "apiserver.log"
    )
    _write_kubeconfig(server)
    # The kernel ends them with this process, however it ends.
    tied = [setpriv, "--pdeathsig", "KILL"]
    with contextlib.ExitStack() as stack:
        _start(
            stack,
            server,
            folder / "etcd.log",
            [*tied, etcd, *_etcd_arguments(folder, etcd_port, peer_port)],
        )
        _start(
            stack,
            server,
            server.log_file,
            [*tied, apiserver, *_apiserver_arguments(folder, etcd_port, port), *arguments],
        )
        _wait_for(lambda: _is_ready(server), START_SECONDS, f"{url}/readyz")
        yield server


def _etcd_arguments(folder: Path, port: int, peer_port: int) -> list[str]:
    peer = f"http://127.0.0.1:{peer_port}"
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{port}",
        f"--advertise-client-urls=http://127.0.0.1:{port}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    ]


def _apiserver_arguments(folder: Path, etcd_port: int, port: int) -> list[str]:
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--secure-port={port}",
        f"--tls-cert-file={folder / 'server.crt'}",
        f"--tls-private-key-file={folder / 'server.key'}",
        f"--client-ca-file={folder / 'ca.crt'}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        f"--service-account-key-file={folder / 'accounts.key'}",
        f"--service-account-signing-key-file={folder / 'accounts.key'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.96.0.0/16",
        # Nobody makes the accounts that it would ask of every pod.
        "--disable-admission-plugins=ServiceAccount",
        f"--cert-dir={folder}",
    ]


def _start(
    stack: contextlib.ExitStack, server: ApiServer, log_file: Path, command: Sequence[str]
) -> None:
    log: IO[bytes] = stack.enter_context(log_file.open("wb"))
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    )
    stack.callback(stop_process, process, STOP_SECONDS)
    server._processes.append(process)


def _is_ready(server: ApiServer) -> bool:
    for process in server._processes:
        if process.poll() is not None:
            tail = server.log_file.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise AssertionError(f"{process.args!r} ended with {process.returncode}:\n{tail}")
    try:
        # The default namespace is made after the first start, and kubectl's users expect it.
        return (
            server.request("GET", "/readyz", timeout=2.0).status == 200
            and server.request("GET", "/api/v1/namespaces/default", timeout=2.0).status == 200
        )
    except OSError:
        return False


def _wait_for(done: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.1)


def _find_apiserver() -> str:
    return _find_program("kube-apiserver", os.X_OK)


def _find_program(name: str, access: int) -> str:
    """What `make setup` puts into the cache."""
    folder = os.environ.get("LLMR_KUBE_BIN")
    if not folder:
        caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        folder = os.path.join(os.environ.get("LLMR_CACHE") or f"{caches}/llm-rollouts", "bin")  # noqa: PTH118
    program = Path(folder) / name
    if not os.access(program, access):
        raise MissingProgram(f"{program} is missing: run `make setup`")
    return str(program)


def _find(name: str) -> str:
    return find_program(name, f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _write_kubeconfig(server: ApiServer) -> None:
    cluster = {"server": server.url, "certificate-authority": str(server.ca_file)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": server.token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
    }
    server.kubeconfig.write_text(yaml.safe_dump(config), encoding="utf-8")


def _write_certificates(folder: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    addresses: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.DNSName("localhost"),
    ]

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    ca = (
        build(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False
        )
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    certificate = (
        build(name, key.public_key())
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(ca.public_bytes(pem))
    (folder / "server.crt").write_bytes(certificate.public_bytes(pem))
    accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for file, private in (("server.key", key), ("accounts.key", accounts)):
        path = folder / file
        path.touch(mode=0o600)
        path.write_bytes(
            private.private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")
