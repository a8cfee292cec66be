"""What the operator's configuration may change of the proxies' behaviour. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Timing:
    """The dead-man's switch, in seconds. No installation changes these; tests do, to be quick.

    ttl: a share survives this long in a proxy that hears nothing. heartbeat: how often it hears
    the whole layer, changed or not. lease: a share survives this long in the operator without a
    completed round on fresh evidence.
    """

    ttl: float = 12.0
    heartbeat: float = 2.0
    lease: float = 8.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Times in seconds, sizes in bytes.

    idle_timeout: a request during which nothing moves in either direction for this long is ended;
        there is no limit on its whole length.
    connect_timeout: to a worker; afterwards another one (or stable) is tried.
    upstream_idle: how long an unused connection to a worker is kept. Shorter than the engine's
        own keep-alive (5 s in vLLM), so that no request is sent into a connection that closes.
    retry_body: a request whose body is larger than this is not retried.
    """

    idle_timeout: float = 600.0
    connect_timeout: float = 0.5
    upstream_idle: float = 3.0
    retry_body: int = 8 * 1024 * 1024
    listen_address: str = "0.0.0.0"  # noqa: S104 - the users' port of a pod
    listen_port: int = 8080
    timing: Timing = field(default_factory=Timing)
