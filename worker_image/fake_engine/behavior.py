"""How fast the fake engine is and how it fails: one value, four places to set it.

Later places win: built-in defaults, `fake_engine` in the model's config.json (so that a slower
model is just another path), environment `FAKE_ENGINE_<NAME>`, argument `--fake-<name>`. While the
engine runs, `POST /fake/faults` changes single fields. Rates are probabilities from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

ENVIRONMENT_PREFIX = "FAKE_ENGINE_"
ARGUMENT_PREFIX = "--fake-"


class BadBehavior(ValueError):
    """A setting that does not exist or has a value that makes no sense."""


@dataclass(frozen=True)
class Behavior:
    """Times in milliseconds unless the name says seconds."""

    # Speed; `step_ms` below is the formula.
    ttft_ms: float = 5.0  # fixed part before a request reaches the queue
    tpot_ms: float = 2.0
    batch_slope: float = 0.01
    prefill_ms_per_token: float = 0.02
    jitter: float = 0.0  # relative standard deviation of a step
    slowdown: float = 1.0
    mean_answer_tokens: float = 0.0  # 0: an answer ends only at max_tokens, as with tiny models

    # Failures, drawn for each request.
    error_rate: float = 0.0
    error_status: int = 500
    hang_rate: float = 0.0  # accepted, never answered
    stream_error_rate: float = 0.0  # 200, then an error event after the first token
    cut_rate: float = 0.0  # connection closed after the first token
    empty_rate: float = 0.0  # finished without a token
    garbage_rate: float = 0.0  # tokens without sense

    # Failures of the whole engine.
    hang: bool = False  # no step is made any more; /health goes on answering 200
    unhealthy: bool = False  # /health answers 503
    crash: bool = False  # ends at once
    crash_after: int = 0  # ends after this many requests; 0: never
    crash_code: int = 1
    start_seconds: float = 0.0
    fail_start: bool = False
    ignore_sigterm: bool = False
    spare_probes: bool = False  # requests marked x-llmrollouts-probe are never failed
    seed: int = 0

    def step_ms(self, running: int, prefilled: int) -> float:
        """One step of the engine, which gives a token to each of the `running` sequences.

        It grows with the batch and with the prompt tokens computed in it, as in vLLM.
        """
        decode = self.tpot_ms * (1 + self.batch_slope * max(0, running - 1))
        return self.slowdown * (decode + self.prefill_ms_per_token * prefilled)


_FIELDS = {field.name: field for field in fields(Behavior)}


def _convert(name: str, value: object) -> object:
    """`value` as the field's own type; strings come from arguments and the environment."""
    default = getattr(Behavior(), name)
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "1", "yes", "false", "0", "no"):
            return value.lower() in ("true", "1", "yes")
        raise BadBehavior(f"{name} must be true or false, found {value!r}")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise BadBehavior(f"{name} must be a number, found {value!r}")
    try:
        number = int(value) if isinstance(default, int) else float(value)
    except ValueError as error:
        raise BadBehavior(f"{name} must be a number, found {value!r}") from error
    if not math.isfinite(number) or number < 0:
        raise BadBehavior(f"{name} must be a number that is not negative, found {value!r}")
    if name.endswith("_rate") and number > 1:
        raise BadBehavior(f"{name} is a probability, at most 1, found {value!r}")
    return number


def change(behavior: Behavior, settings: Mapping[str, object]) -> Behavior:
    """`behavior` with some fields replaced; `BadBehavior` names the first bad one."""
    changed: dict[str, object] = {}
    for name, value in settings.items():
        field = name.replace("-", "_")
        if field not in _FIELDS:
            raise BadBehavior(f"there is no setting {name}; known: {', '.join(sorted(_FIELDS))}")
        changed[field] = _convert(field, value)
    return replace(behavior, **changed)  # type: ignore[arg-type]  # converted by field name above


def read_environment(environment: Mapping[str, str]) -> dict[str, object]:
    """FAKE_ENGINE_TTFT_MS=20 -> {"ttft_ms": "20"}."""
    return {
        name[len(ENVIRONMENT_PREFIX) :].lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }
