"""Engine arguments and variables: what passes here passes the launcher, too."""

from __future__ import annotations

import pytest

from llmrollouts.api import engine_settings
from worker_image.launcher.engine_arguments import refused_arguments


@pytest.mark.parametrize(
    "argument",
    [*engine_settings.ALLOWED_ARGUMENTS, *engine_settings.ALLOWED_ITEMS],
)
def test_the_launcher_takes_every_argument_that_the_api_takes(argument: str) -> None:
    engine_settings.check_arguments([argument])
    assert refused_arguments([argument]) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trust-remote-code"],
        ["--trust_remote_code"],
        ["--trust-remote"],
        ["--middleware=x.Y"],
        ["--load-format", "pt"],
        ["--port", "1"],
        ["--host=0.0.0.0"],
        ["--api-key=x"],
        ["--served-model-name=x"],
        ["--max-model-len=1"],
        ["--config=/tmp/x"],
        ["--generation-config", "/tmp/x"],
        ["--generation-config=/tmp/x"],
        ["--compilation-config.pass_config.x=1"],
        ["-tp", "8"],
        ["--tool-parser-plugin=/tmp/x.py"],
        ["--enable-lora"],
        ["--ssl-keyfile=x"],
        ["8"],
    ],
)
def test_what_loads_code_or_opens_doors_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match=r"must be an argument|not allowed"):
        engine_settings.check_arguments(arguments)


def test_values_may_stand_beside_or_behind_their_argument() -> None:
    engine_settings.check_arguments(["--max-num-seqs", "8", "--seed=-1", "--enforce-eager"])


@pytest.mark.parametrize(
    "name",
    ["VLLM_SERVER_DEV_MODE", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "VLLM_PORT", "HOME"],
)
def test_variables_that_change_what_runs_are_refused(name: str) -> None:
    assert engine_settings.refuse_variable(name)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE", "NCCL_DEBUG"])
def test_variables_that_tune_are_taken(name: str) -> None:
    assert not engine_settings.refuse_variable(name)
