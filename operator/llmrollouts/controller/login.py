"""How the watches reach the API server: the same place and credential as the client.

Decides nothing. Called by kopf at its start and whenever the API server refuses the credential.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import kopf

LOGIN_ARGUMENTS: Final[dict[str, Any]] = {"settings": kopf.OperatorSettings()}


class NoLogin(Exception):
    """Neither a service account nor a kubeconfig is there."""


def log_in(kubeconfig: Path | None) -> kopf.ConnectionInfo:
    """By the kubeconfig given, else by the pod's service account, else as kubectl would."""
    if kubeconfig is not None:
        os.environ["KUBECONFIG"] = str(kubeconfig)
    else:
        host = os.environ.get("KUBERNETES_SERVICE_HOST")
        info = kopf.login_with_service_account(**LOGIN_ARGUMENTS)
        if host and info is not None:
            # By address: the watches must not depend on the cluster's DNS.
            port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            return replace(info, server=f"https://{f'[{host}]' if ':' in host else host}:{port}")
    info = kopf.login_with_kubeconfig(**LOGIN_ARGUMENTS)
    if info is None:
        raise NoLogin("set KUBECONFIG or --kubeconfig to the cluster's kubeconfig")
    return info
