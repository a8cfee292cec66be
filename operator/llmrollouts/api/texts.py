"""The texts of a spec and a status, each with its bound and a message that says how to mend it."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, StringConstraints

from llmrollouts.api.duration import DURATION_PATTERN, parse_duration
from llmrollouts.api.percent import PERCENT_PATTERN, parse_percent
from llmrollouts.api.rules import Rule, matches
from llmrollouts.api.share import SHARE_PATTERN, Share

_SHARE_MESSAGE = (
    "a share is a percentage with the percent sign and at most four decimals, such as 0.5%"
)
_DURATION_MESSAGE = "a duration is written such as 30m, 1h30m, 45s or 500ms"
_STEP_SHARE_MESSAGE = (
    "the share of a step is above 0% and at most 100%, with the percent sign and at most four "
    "decimals, such as 0.5%"
)

SMALLEST_LATENCY: Final = "0.1ms"
# Workers follow a request no longer than that (analysis/policy.py).
LONGEST_LATENCY: Final = "2m"
_LATENCY_MESSAGE = (
    f"a latency lies between {SMALLEST_LATENCY}, the smallest that is measured, and "
    f"{LONGEST_LATENCY}, such as 350ms"
)
_MARGIN_MESSAGE = (
    "a margin is a percentage that is not negative, with the percent sign, such as 10%: a "
    "negative one would roll equal revisions back"
)
_RATE_MESSAGE = (
    "this is a percentage above 0% and below 50%, with the percent sign and at most four "
    "decimals, such as 0.2%"
)


def _above_zero(text: str) -> str:
    if not Share.parse(text):
        raise ValueError(_STEP_SHARE_MESSAGE)
    return text


def _is_latency(text: str) -> str:
    seconds = parse_duration(text)
    if not parse_duration(SMALLEST_LATENCY) <= seconds <= parse_duration(LONGEST_LATENCY):
        raise ValueError(_LATENCY_MESSAGE)
    return text


def _is_margin(text: str) -> str:
    try:
        parse_percent(text)
    except ValueError as error:
        raise ValueError(_MARGIN_MESSAGE) from error
    return text


def _is_rate(text: str) -> str:
    try:
        rate = parse_percent(text)
    except ValueError as error:
        raise ValueError(_RATE_MESSAGE) from error
    if not 0 < rate < 0.5:
        raise ValueError(_RATE_MESSAGE)
    return text


def _lasts(least: str, most: str) -> Rule:
    return Rule(
        f"!self.matches(r'{DURATION_PATTERN}') || "
        f"(duration(self) >= duration('{least}') && duration(self) <= duration('{most}'))",
        f"this duration lies between {least} and {most}",
    )


_DURATION = (
    StringConstraints(pattern=DURATION_PATTERN, max_length=32),
    matches(DURATION_PATTERN, _DURATION_MESSAGE),
)
_SHARE = StringConstraints(pattern=SHARE_PATTERN, max_length=9)
ShareText = Annotated[str, _SHARE, matches(SHARE_PATTERN, _SHARE_MESSAGE)]
StepShareText = Annotated[
    str,
    _SHARE,
    AfterValidator(_above_zero),
    Rule(f"self.matches(r'{SHARE_PATTERN}') && self.matches('[1-9]')", _STEP_SHARE_MESSAGE),
]
DurationText = Annotated[str, *_DURATION]
StepDurationText = Annotated[str, *_DURATION, _lasts("1s", "720h")]
WindowText = Annotated[str, *_DURATION, _lasts("0s", "720h")]
ReadyTimeoutText = Annotated[str, *_DURATION, _lasts("1s", "24h")]
LatencyText = Annotated[
    str,
    StringConstraints(max_length=32),
    AfterValidator(_is_latency),
    Rule(
        f"self.matches(r'{DURATION_PATTERN}') && duration(self) >= duration('{SMALLEST_LATENCY}') "
        f"&& duration(self) <= duration('{LONGEST_LATENCY}')",
        _LATENCY_MESSAGE,
    ),
]
_PERCENT = StringConstraints(max_length=9)
MarginText = Annotated[
    str, _PERCENT, AfterValidator(_is_margin), matches(PERCENT_PATTERN, _MARGIN_MESSAGE)
]
_RATE = (
    _PERCENT,
    AfterValidator(_is_rate),
    Rule(
        f"self.matches(r'{PERCENT_PATTERN}') && double(self.replace('%', '')) > 0.0 && "
        "double(self.replace('%', '')) < 50.0",
        _RATE_MESSAGE,
    ),
)
ErrorRateText = Annotated[str, *_RATE]
ErrorBudgetText = Annotated[str, *_RATE]
ShutdownTimeoutText = Annotated[str, *_DURATION, _lasts("0s", "1h")]
QueryIntervalText = Annotated[str, *_DURATION, _lasts("10s", "1h")]
QueryTimeoutText = Annotated[str, *_DURATION, _lasts("1s", "60s")]
SampleAgeText = Annotated[str, *_DURATION, _lasts("10s", "24h")]

_NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
ObjectName = Annotated[
    str,
    StringConstraints(pattern=_NAME_PATTERN, max_length=253),
    matches(_NAME_PATTERN, "the name of an object: lower-case letters, digits, dots and dashes"),
]
_KEY_PATTERN = r"^[A-Za-z0-9._-]+$"
DataKey = Annotated[
    str,
    StringConstraints(pattern=_KEY_PATTERN, max_length=253),
    matches(_KEY_PATTERN, "the key of an entry: letters, digits, dots, dashes and underscores"),
]
_DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
Digest = Annotated[
    str,
    StringConstraints(pattern=_DIGEST_PATTERN, max_length=71),
    matches(_DIGEST_PATTERN, "a checksum is written sha256:<64 hex digits>"),
]
_QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
Quantity = Annotated[str, StringConstraints(pattern=_QUANTITY_PATTERN, max_length=32)] | int
LabelText = Annotated[str, StringConstraints(max_length=63)]
IMAGE_PATTERN: Final = r"^[a-zA-Z0-9]([a-zA-Z0-9._:/-]*[a-zA-Z0-9])?(@sha256:[0-9a-f]{64})?$"
SHORT_KEYS = Rule(
    "self.all(key, key.size() <= 253)", "a key here has at most 253 characters: shorten it"
)

# What a text must look like, for the errors of readers that know no CEL rules.
PATTERN_MEANINGS: Final = {
    SHARE_PATTERN: _STEP_SHARE_MESSAGE,
    DURATION_PATTERN: _DURATION_MESSAGE,
}
