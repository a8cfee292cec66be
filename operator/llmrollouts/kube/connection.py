"""Where the API server is and how this process proves who it is.

Decides between the pod's service account and a kubeconfig; keeps the credential fresh: bound
service-account tokens expire within the hour, so the token file is read again each minute, and at
once when the server answers 401. Never logs a credential. Called by whoever builds a KubeClient.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.kube_config import load_kube_config

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_PERIOD: Final = 60.0  # seconds; the kubelet renews the file at 80 % of its life
BEARER: Final = "BearerToken"


class NoConnection(Exception):
    """Neither a service account nor a usable kubeconfig: nothing can be asked of the cluster."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The client's configuration, and ``refresh`` to read its credential again after a 401."""

    configuration: Any
    refresh: Callable[[], Awaitable[None]]


class TokenFile:
    """A token that the kubelet replaces under us. ``value`` reads the file at most once a minute.

    A file that cannot be read keeps the last token: it is good for minutes yet, and the kubelet
    may be in the middle of swapping it.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._value = ""
        self._read_at = float("-inf")
        self.read()

    def read(self) -> None:
        """Read the file now. Raises NoConnection only when there never was a token."""
        try:
            value = self._path.read_text(encoding="utf-8").strip()
        except OSError as error:
            if not self._value:
                raise NoConnection(
                    f"The service-account token {self._path} cannot be read: {error.strerror}. "
                    "Is automountServiceAccountToken set for this pod?"
                ) from error
            return
        if value:
            self._value = value
            self._read_at = self._clock()
        elif not self._value:
            raise NoConnection(f"The service-account token {self._path} is empty.")

    def value(self) -> str:
        """The token to send now."""
        if self._clock() - self._read_at >= TOKEN_PERIOD:
            self.read()
        return self._value


async def connect(
    kubeconfig: Path | None = None,
    context: str | None = None,
    environ: Mapping[str, str] = os.environ,
    service_account: Path = SERVICE_ACCOUNT,
) -> Connection:
    """The connection of this process: a named kubeconfig, else the pod's service account, else
    the kubeconfig that kubectl would take. Raises NoConnection with what to do about it."""
    in_cluster = environ.get("KUBERNETES_SERVICE_HOST") and environ.get("KUBERNETES_SERVICE_PORT")
    if kubeconfig is None and context is None and in_cluster:
        return connect_in_cluster(environ, service_account)
    return await connect_by_kubeconfig(kubeconfig, context)


def connect_in_cluster(
    environ: Mapping[str, str],
    service_account: Path = SERVICE_ACCOUNT,
    clock: Callable[[], float] = time.monotonic,
) -> Connection:
    """The connection of a pod, by its service account."""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ["KUBERNETES_SERVICE_PORT"]
    authority = service_account / "ca.crt"
    if not authority.is_file():
        raise NoConnection(f"The cluster's CA certificate {authority} is missing.")
    token = TokenFile(service_account / "token", clock)
    configuration: Any = Configuration(
        host=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ssl_ca_cert=str(authority),
    )

    def renew(target: Any) -> None:
        target.api_key[BEARER] = f"Bearer {token.value()}"

    async def refresh() -> None:
        token.read()

    configuration.refresh_api_key_hook = renew
    return Connection(configuration, refresh)


async def connect_by_kubeconfig(kubeconfig: Path | None, context: str | None) -> Connection:
    """The connection of a person or a test, by kubeconfig (exec plugins and token files too)."""
    configuration: Any = Configuration()

    async def load() -> None:
        try:
            await load_kube_config(
                config_file=str(kubeconfig) if kubeconfig else None,
                context=context,
                client_configuration=configuration,
                persist_config=False,
            )
        except NoConnection:
            raise
        except Exception as error:
            where = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
            raise NoConnection(
                f"The kubeconfig {where} cannot be used: {error}. "
                "Set KUBECONFIG to the cluster's kubeconfig."
            ) from error

    await load()
    return Connection(configuration, load)
