"""A worker whose tap can be left out of single requests.

Two processes of the same engine differ by more than a tap costs: on shared cores, by a fifth of
their processor time. So the tap is compared with its absence inside one process: a copy of the
launcher carries a middleware that hands a request whose header SWITCH says OFF straight to the
engine, and every other one to the tap. What both then pay alike is a look at that header.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from e2e.models.tiny_model import RECIPES, make_model
from tests.worker_image.programs import LAUNCHER, Worker, eventually

SWITCH = "x-bench-tap"
OFF = "off"
START_SECONDS = 300.0
_PROBES = {"intervalSeconds": 600, "failures": 3, "timeoutSeconds": 60, "busyIntervalSeconds": 600}
_VLLM = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
_MIDDLEWARE = f'''\
from .middleware import Tap as _Tap


class Tap(_Tap):
    """The tap, left out of requests that ask for it."""

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"{SWITCH}" and value == b"{OFF}":
                    await self._app(scope, receive, send)
                    return
        await super().__call__(scope, receive, send)
'''


def start_worker(folder: Path, vllm: Path | None) -> Worker:
    """A ready worker in an empty folder; ``vllm``: the program, None for the fake engine. Raises
    AssertionError with its log when it does not start."""
    model = folder / "v1"
    make_model(RECIPES["v1"], model, {})
    launcher = folder / "launcher"
    shutil.copytree(LAUNCHER, launcher, ignore=shutil.ignore_patterns("__pycache__"))
    (launcher / "tap" / "llmrollouts_tap" / "__init__.py").write_text(_MIDDLEWARE, encoding="utf-8")
    settings: dict[str, object] = {"idleProbe": _PROBES}
    environment = {"FAKE_ENGINE_TTFT_MS": "0", "FAKE_ENGINE_TPOT_MS": "0"}
    if vllm is not None:
        settings["engine"] = {
            "maxModelLen": 512,
            "dtype": "bfloat16",
            "extraArgs": ["--enforce-eager"],
        }
        path = os.pathsep.join([str(vllm.resolve().parent), "/usr/bin", "/bin"])
        environment = {**_VLLM, "PATH": path, "HOME": str(folder)}
    worker = Worker(
        model, folder / "worker", settings=settings, environment=environment, launcher=launcher
    )
    try:
        eventually(lambda: worker.ready or not worker.running, "ready or dead", START_SECONDS)
        assert worker.ready, worker.log
    except AssertionError:
        worker.kill()
        raise
    return worker
