"""A gate of the user's own: one PromQL expression with a limit, or compared with stable.

The rules beside the fields are the API server's. Like those of a revision they are not checked a
second time while a spec is read: a gate that makes no sense becomes a verdict Error (in
controller/prometheus_gates.py), never a spec that keeps the operator from looking after users.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import ConfigDict, Field, StringConstraints

from llmrollouts.api.duration import DURATION_PATTERN
from llmrollouts.api.model import ApiModel
from llmrollouts.api.revision import SecretKeyRef
from llmrollouts.api.rules import Rule, matches, rules
from llmrollouts.api.texts import QueryIntervalText, QueryTimeoutText, SampleAgeText

MAX_GATES: Final = 16
MAX_QUERY: Final = 4096
MAX_ADDRESS: Final = 512

# What a query may name between double braces; the operator puts the value in its place.
PLACEHOLDERS: Final = ("{{revision}}", "{{namespace}}", "{{name}}")

_NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
# No user and password, query, fragment or escape: the allow-list compares the text as it stands.
ADDRESS_PATTERN: Final = (
    r"^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$"
)
_NUMBER_PATTERN: Final = r"^-?[0-9]{1,15}(\.[0-9]{1,12})?([eE][-+]?[0-9]{1,2})?$"
_RATIO_PATTERN: Final = r"^[0-9]{1,6}(\.[0-9]{1,6})?$"

_without_placeholders = "".join(f".replace('{word}', '')" for word in PLACEHOLDERS)

NumberText = Annotated[
    str,
    StringConstraints(pattern=_NUMBER_PATTERN, max_length=32),
    matches(_NUMBER_PATTERN, 'a limit is a number in quotes, such as "0.25" or "1e-6"'),
]
RatioText = Annotated[
    str,
    StringConstraints(pattern=_RATIO_PATTERN, max_length=16),
    Rule(
        f"self.matches(r'{_RATIO_PATTERN}') && self.matches('[1-9]')",
        'a ratio is a number above 0 in quotes, such as "1.2" for 20 % more than stable',
    ),
]
AddressText = Annotated[
    str,
    StringConstraints(pattern=ADDRESS_PATTERN, max_length=MAX_ADDRESS),
    matches(
        ADDRESS_PATTERN,
        "an address is http:// or https://, a host, and if needed a port and a path, such as "
        "https://prometheus.monitoring.svc:9090; credentials belong into auth",
    ),
    Rule("!self.contains('..')", "an address goes straight down: remove the .. from its path"),
]


class PrometheusLimit(ApiModel):
    """The bound that the answer must keep."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "has(self.max) != has(self.min)",
                "a limit is either max or min: set exactly one; for a range make two gates",
            )
        )
    )

    max: NumberText | None = None
    """A larger answer is bad. A number in quotes."""
    min: NumberText | None = None
    """A smaller answer is bad. A number in quotes."""


class PrometheusCompare(ApiModel):
    """The bound of the canary's answer divided by stable's answer to the same query."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "has(self.maxRatio) != has(self.minRatio)",
                "a comparison is either maxRatio or minRatio: set exactly one; for a range make "
                "two gates",
            )
        )
    )

    max_ratio: RatioText | None = None
    """A larger ratio of canary to stable is bad, such as "1.2"."""
    min_ratio: RatioText | None = None
    """A smaller ratio of canary to stable is bad, such as "0.8"."""


class PrometheusBasicAuth(ApiModel):
    """A user name and a password."""

    username_secret_key_ref: SecretKeyRef
    """The entry of a Secret with the user name."""
    password_secret_key_ref: SecretKeyRef
    """The entry of a Secret with the password."""


class PrometheusTls(ApiModel):
    """Whom to trust, and who we are."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "has(self.certSecretKeyRef) == has(self.keySecretKeyRef)",
                "a client certificate needs its key: set both certSecretKeyRef and "
                "keySecretKeyRef, or neither",
            )
        )
    )

    ca_secret_key_ref: SecretKeyRef | None = None
    """The entry of a Secret with the authorities (PEM) that may vouch for the server. Default: the
    public ones that web browsers trust."""
    cert_secret_key_ref: SecretKeyRef | None = None
    """The entry of a Secret with a client certificate (PEM)."""
    key_secret_key_ref: SecretKeyRef | None = None
    """The entry of a Secret with the key of the client certificate (PEM, without a password)."""


class PrometheusAuth(ApiModel):
    """How to prove who is asking. The Secrets stand in the namespace of the LLMDeployment."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.bearerTokenSecretKeyRef) || !has(self.basicAuth)",
                "bearerTokenSecretKeyRef and basicAuth use the same header: remove one of the two",
            )
        )
    )

    bearer_token_secret_key_ref: SecretKeyRef | None = None
    """The entry of a Secret with a bearer token."""
    basic_auth: PrometheusBasicAuth | None = None
    """A user name and a password."""
    tls: PrometheusTls | None = None
    """Own authorities and a client certificate, for https:// addresses."""


class PrometheusGate(ApiModel):
    """One PromQL expression that a revision must satisfy in every step."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "has(self.limit) != has(self.compare)",
                "a gate has either a limit or a comparison with stable: set exactly one of limit "
                "and compare",
            ),
            Rule(
                "!has(self.compare) || self.query.contains('{{revision}}')",
                "a comparison asks the same query for both revisions: name {{revision}} in it",
            ),
            Rule(
                "!has(self.auth) || !has(self.auth.tls) || self.address.startsWith('https://')",
                "auth.tls is used for https:// addresses only: remove it or change the address",
            ),
            Rule(
                f"!self.interval.matches(r'{DURATION_PATTERN}') || "
                f"!self.timeout.matches(r'{DURATION_PATTERN}') || "
                "duration(self.timeout) <= duration(self.interval)",
                "an evaluation ends before the next one begins: lower timeout or raise interval",
            ),
        )
    )

    name: Annotated[
        str,
        StringConstraints(pattern=_NAME_PATTERN, min_length=1, max_length=40),
        matches(
            _NAME_PATTERN,
            "the name of a gate has lower-case letters, digits and dashes, such as cost-per-token",
        ),
    ]
    """How status, Events and metrics call this gate (as `prometheus/<name>`)."""
    address: AddressText
    """The base address of the Prometheus, as the operator's administrator allows it (the chart's
    `operator.allowedPrometheus`), such as https://prometheus.monitoring.svc:9090."""
    query: Annotated[
        str,
        StringConstraints(min_length=1, max_length=MAX_QUERY),
        Rule("self.trim() != ''", "give a PromQL expression"),
        Rule(
            f"!self{_without_placeholders}.contains('{{{{')",
            "a query knows the placeholders {{revision}}, {{namespace}} and {{name}} (without "
            "spaces): correct the others",
        ),
    ]
    """A PromQL expression that yields one number. {{revision}}, {{namespace}} and {{name}} stand
    for the revision that is asked about and for the LLMDeployment. At most 4 KiB."""
    limit: PrometheusLimit | None = None
    """The bound that the canary's answer must keep."""
    compare: PrometheusCompare | None = None
    """The bound of the canary's answer divided by stable's."""
    interval: QueryIntervalText = "30s"
    """How often to ask, from 10s to 1h."""
    timeout: QueryTimeoutText = "10s"
    """How long one evaluation may take, from 1s to 60s; `compare` asks for two revisions."""
    failures_for_failed: Annotated[int, Field(ge=1, le=100)] = 2
    """How many bad answers in a row make the gate Failed, which rolls back."""
    max_errors: Annotated[int, Field(ge=1, le=100)] = 3
    """How many errors in a row (no answer, NaN, no series, several series, stale data) make the
    gate Error. Fewer keep the verdict before them."""
    max_age: SampleAgeText = "5m"
    """How young the data must be: when no metric that the query names has a sample of this age or
    younger, the answer is stale and counts as an error, whatever its value."""
    auth: PrometheusAuth | None = None
    """How to prove who is asking."""
