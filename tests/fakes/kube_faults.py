"""What can go wrong between the operator and the API server, told to the fake call by call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from llmrollouts.kube.port import Conflict, Rejected, Transient


class Crashed(BaseException):
    """The process died here (kill -9): no handler of ordinary errors may see it."""


class Fault(Enum):
    """One way for one call to fail."""

    CONFLICT = auto()
    GONE = auto()  # 410
    THROTTLED = auto()  # 429 with Retry-After
    BROKEN = auto()  # 500
    TIMEOUT = auto()  # nothing was done
    ANSWER_LOST = auto()  # it was done, and nobody said so
    FORBIDDEN = auto()  # 403
    CRASH_BEFORE = auto()
    CRASH_AFTER = auto()
    HANG = auto()  # no answer until the caller gives up

    @property
    def is_done(self) -> bool:
        """Whether the write takes effect all the same."""
        return self in (Fault.ANSWER_LOST, Fault.CRASH_AFTER)

    def error(self, action: str) -> BaseException:
        """What the caller gets."""
        if self in CRASHES:
            return Crashed(action)
        if self is Fault.CONFLICT:
            return Conflict(f"{action}: 409 Conflict: the object has been modified")
        if self is Fault.FORBIDDEN:
            return Rejected(f"{action}: 403 Forbidden: not allowed")
        said = {
            Fault.GONE: "410 Expired",
            Fault.THROTTLED: "429 TooManyRequests",
            Fault.BROKEN: "500 InternalError",
        }.get(self, "no answer within 10.0 s")
        return Transient(f"{action}: {said}", 1.0 if self is Fault.THROTTLED else None)


# Every error of the API that the operator must survive at every call.
API_ERRORS: tuple[Fault, ...] = (
    Fault.CONFLICT,
    Fault.GONE,
    Fault.THROTTLED,
    Fault.BROKEN,
    Fault.TIMEOUT,
    Fault.ANSWER_LOST,
)
CRASHES: tuple[Fault, ...] = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, in the order of arrival. ``number`` counts from 1."""

    number: int
    verb: str
    kind: str
    namespace: str | None
    name: str

    @property
    def is_write(self) -> bool:
        return self.verb not in ("get", "list")

    def __str__(self) -> str:
        return f"{self.verb} {self.kind} {self.namespace or '*'}/{self.name or '*'}"


@dataclass(slots=True)
class _Planned:
    fault: Fault
    matches: Callable[[Call], bool]
    skip: int
    times: int


@dataclass(slots=True)
class Faults:
    """The plan of failures. ``down``: no call is answered at all until it is False again."""

    down: bool = False
    _planned: list[_Planned] = field(default_factory=list)

    def at_call(self, number: int, fault: Fault) -> None:
        """The n-th call of all (from 1, as in ``FakeKube.calls``) fails."""
        self._planned.append(_Planned(fault, lambda call: call.number == number, 0, 1))

    def fail(
        self,
        fault: Fault,
        verb: str | None = None,
        kind: str | None = None,
        name: str | None = None,
        *,
        skip: int = 0,
        times: int = 1,
    ) -> None:
        """``times`` calls that match fail, after ``skip`` of them have gone well."""

        def matches(call: Call) -> bool:
            return (
                verb in (None, call.verb)
                and kind in (None, call.kind)
                and name in (None, call.name)
            )

        self._planned.append(_Planned(fault, matches, skip, times))

    def at_write(self, number: int, fault: Fault) -> None:
        """The n-th write from now on (from 1) fails."""
        self._planned.append(_Planned(fault, lambda call: call.is_write, number - 1, 1))

    def clear(self) -> None:
        """No more failures."""
        self.down = False
        self._planned.clear()

    def of(self, call: Call) -> Fault | None:
        """The fault of this call; asking uses it up."""
        if self.down:
            return Fault.TIMEOUT
        for planned in self._planned:
            if planned.matches(call):
                if planned.skip:
                    planned.skip -= 1
                    continue
                planned.times -= 1
                if planned.times == 0:
                    self._planned.remove(planned)
                return planned.fault
        return None
