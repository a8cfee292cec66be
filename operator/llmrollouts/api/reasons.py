"""Every condition type and every reason that a user can meet, each with one line of meaning.

A condition is an observation; its ``reason`` is one word from here and its message tells a person
what to do next. Events use the same reasons. Decides nothing; the state machine and the
controller's adapters pick from it, and docs/api-reference.md prints it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class DocumentedName(StrEnum):
    """A word with one line that explains it: ``NAME = "Name", "What it says."``."""

    doc: str

    def __new__(cls, value: str, doc: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        return member


class ConditionType(DocumentedName):
    """What an entry of ``status.conditions`` is about."""

    READY = "Ready", "The stable revision has ready workers, and users are sent to them."
    PROGRESSING = "Progressing", "A new revision is on its way; the reason says how it stands."
    SOURCE_RESOLVED = (
        "SourceResolved",
        "The spec can be used: it is valid, allowed here, and its references exist.",
    )
    SOURCE_CHANGED = (
        "SourceChanged",
        "A referenced ConfigMap was edited in place; the stored revision still has the old text.",
    )
    REVISION_LOST = (
        "RevisionLost",
        "The stored record of a living revision is gone; its pods go on unharmed.",
    )
    INSTANT_ROLLBACK = (
        "InstantRollback",
        "The workers to go back to are warm and of full size: a rollback takes seconds.",
    )
    TRAFFIC_GUARANTEES = (
        "TrafficGuarantees",
        "Shares are programmed with a dead-man's switch and read back from every gateway.",
    )
    ROUTE_PROGRAMMED = (
        "RouteProgrammed",
        "With provider HTTPRoute: the route has the weights that were asked for, read back.",
    )
    LAPSED = "Lapsed", "The canary share is 0 for now, without a verdict on the revision."
    MEASURED = (
        "Measured",
        "The gates get the data that they need; False says which does not, and why.",
    )
    COMMAND_REFUSED = "CommandRefused", "The last command was not executed; the message says why."
    STATUS_REBUILT = (
        "StatusRebuilt",
        "The status was missing or unreadable and was made anew from the children.",
    )
    RECONCILED = (
        "Reconciled",
        "Present and False only while the operator cannot carry out its decisions; see the reason.",
    )


class Reason(DocumentedName):
    """Why a condition has its status, or what an event tells."""

    # Ready
    SERVING = "Serving", "The stable revision serves."
    NO_REVISION_YET = "NoRevisionYet", "No revision has become ready yet."
    WORKERS_STARTING = "WorkersStarting", "Workers are starting; the message names what they need."
    WORKERS_UNAVAILABLE = "WorkersUnavailable", "The stable revision has no ready worker."
    GATEWAY_UNAVAILABLE = "GatewayUnavailable", "No gateway is connected to the operator."
    FIRST_REVISION_FAILED = (
        "FirstRevisionFailed",
        "The first revision did not start; a changed spec starts afresh.",
    )

    # Progressing and events of a rollout
    COMPLETE = "Complete", "The revision of the spec is stable; nothing is on its way."
    ROLLOUT_STARTED = "RolloutStarted", "A new revision was stored and its rollout began."
    STEP_STARTED = "StepStarted", "A step began."
    STEP_RUNNING = "StepRunning", "A step is running; the message says what it waits for."
    STEP_PASSED = "StepPassed", "A step had its time, its requests and every gate passed."
    STEP_SKIPPED = "StepSkipped", "A person left the step out."
    WAITING_FOR_CAPACITY = (
        "WaitingForCapacity",
        "The canary's ready workers do not carry the step's share yet.",
    )
    WAITING_FOR_REQUESTS = (
        "WaitingForRequests",
        "The step had its time but too few requests; the message says how many more.",
    )
    WAITING_FOR_GATEWAYS = (
        "WaitingForGateways",
        "Not every gateway (or not the HTTPRoute) has confirmed what it was told.",
    )
    GATE_FAILED = "GateFailed", "A gate failed; the message carries its numbers."
    GATE_INCONCLUSIVE = "GateInconclusive", "A gate cannot decide; nothing is promoted on it."
    GATE_ERROR = "GateError", "A gate's source failed; nothing is promoted or rolled back on it."
    GATE_FROZEN = (
        "GateFrozen",
        "A limit is broken, but stable breaks it too: nothing moves until a person has looked.",
    )
    GATE_SILENT = "GateSilent", "A gate that must judge has not said anything yet."
    PROVEN = "Proven", "The revision was shown to be no worse than promotionMargin allows."
    NOT_PROVEN = (
        "NotProven",
        "No harm was seen, but it is not shown yet that the revision is no worse.",
    )
    DEADLINE_REACHED = (
        "DeadlineReached",
        "The step's deadline came before enough evidence; onInconclusive decided.",
    )
    WATCH_FAILED = (
        "WatchFailed",
        "The promoted revision failed while the old one was warm; users went back to it.",
    )
    COMMON_FAULT = (
        "CommonFault",
        "Containers of both revisions died within a minute: the canary is not blamed for it.",
    )

    # What a gate found (status.gates)
    NO_HARM = "NoHarm", "Nothing says that the canary is worse."
    SLOWER = "Slower", "The canary is slower than stable by more than the margin."
    MORE_ERRORS = "MoreErrors", "The canary fails more requests than stable."
    OBJECTIVE_MISSED = (
        "ObjectiveMissed",
        "The canary breaks a limit of spec.objectives and is worse than stable.",
    )
    TOO_FEW_SAMPLES = (
        "TooFewSamples",
        "Too few requests to decide; the message says how many more and how long that takes.",
    )
    STEP_IS_BLIND = (
        "StepIsBlind",
        "At its real rate of requests the step finds no slower revision; the message says why.",
    )
    LOAD_NOT_MATCHED = (
        "LoadNotMatched",
        "Canary and stable workers are not equally busy, so they cannot be compared.",
    )
    MEASUREMENT_DISAGREES = (
        "MeasurementDisagrees",
        "The workers count other requests than the gateways: the numbers are not believed.",
    )
    NO_TAP = (
        "NoTap",
        "The image runs without the tap; its own histograms are used and see less.",
    )
    NO_WORKER_FOUND = (
        "NoWorkerFound",
        "The gate found no worker to measure; the message names the selector.",
    )
    MEASURED = "Measured", "Every gate gets the data that it needs."
    PAUSED = "Paused", "A person paused the rollout; `resume` goes on."
    RESUMED = "Resumed", "A person resumed the rollout."
    HELD = "Held", "The rollout needs a person; the message says which command does what."
    PROMOTING = "Promoting", "All steps passed; users move to the new revision."
    PROMOTED = "Promoted", "The new revision is stable."
    ROLLING_BACK = "RollingBack", "Users go back to the stable revision."
    ROLLED_BACK = (
        "RolledBack",
        "No user request reaches the canary: every gateway confirmed it, or the route, read back.",
    )
    REJECTED = "Rejected", "The revision failed; it gets no traffic until a person says `retry`."
    SUPERSEDED = "Superseded", "The spec names another revision; this one was taken out."
    REVERTED = "Reverted", "The spec went back to the stable revision."
    WORKER_DIED = "WorkerDied", "Canary containers died by their own fault for the second time."
    COMMANDED = "Commanded", "A person asked for it."
    RETIRED = "Retired", "The workers of a revision that is no longer needed are gone."
    NO_ROOM = "NoRoom", "maxExtraReplicas leaves no room for a canary worker."
    NO_STEPS = "NoSteps", "The strategy has no step; nothing starts."
    WAITING_FOR_SOURCE = "WaitingForSource", "The wanted revision cannot be read or stored yet."
    WAITING_FOR_RETIREMENT = (
        "WaitingForRetirement",
        "Workers of an earlier revision leave before the next revision starts.",
    )
    NOT_READY_IN_TIME = "NotReadyInTime", "Workers were not ready within readyTimeout."

    # What a gate from Prometheus found
    WITHIN_LIMIT = "WithinLimit", "The answer keeps its limit."
    LIMIT_BROKEN = (
        "LimitBroken",
        "The answer breaks its limit; the message says how often in a row.",
    )
    NOT_ASKED_YET = "NotAskedYet", "The query was not answered in this step yet."
    GATE_INVALID = "GateInvalid", "The gate's fields contradict each other; the message says which."
    ADDRESS_NOT_ALLOWED = (
        "AddressNotAllowed",
        "The operator's configuration does not allow this Prometheus, or where its name leads to.",
    )
    SECRET_MISSING = "SecretMissing", "A referenced Secret or its key does not exist."
    SECRET_FORBIDDEN = "SecretForbidden", "The operator may not read the referenced Secret."
    SECRET_UNUSABLE = "SecretUnusable", "A referenced Secret holds no usable credential."
    NOT_REACHED = "NotReached", "The Prometheus could not be reached."
    NOT_ANSWERED_IN_TIME = "NotAnsweredInTime", "The answer did not come in time."
    REQUEST_REFUSED = "RequestRefused", "The Prometheus refused the request."
    QUERY_INVALID = "QueryInvalid", "Prometheus does not understand the query."
    UNUSABLE_ANSWER = "UnusableAnswer", "The answer is none that a Prometheus gives, or too large."
    NO_SERIES = "NoSeries", "The query found no series; the message shows the query."
    SEVERAL_SERIES = "SeveralSeries", "The query found several series where one number is needed."
    NOT_A_NUMBER = "NotANumber", "The answer is NaN or infinite."
    STALE_ANSWER = "StaleAnswer", "The answer or the data behind it is older than maxAge."
    NOT_COMPARABLE = "NotComparable", "Stable's answer is 0 or below, so there is no ratio to it."
    COMPARISON_RESTS = (
        "ComparisonRests",
        "The other revision gets no requests, or too few, so a comparison with it is not asked.",
    )
    GATE_BROKEN = "GateBroken", "The operator met an error of its own; its log has the trace."

    # SourceResolved
    RESOLVED = "Resolved", "Every reference was read and stored with the revision."
    INVALID_SPEC = "InvalidSpec", "The spec breaks a rule that the API server did not check."
    CONFIG_MAP_MISSING = "ConfigMapMissing", "A referenced ConfigMap does not exist."
    CONFIG_MAP_KEY_MISSING = "ConfigMapKeyMissing", "A referenced ConfigMap lacks the key."
    SOURCE_TOO_LARGE = "SourceTooLarge", "A text is larger than a revision may store."
    SOURCE_FORBIDDEN = "SourceForbidden", "The operator may not read the reference."
    IMAGE_MISSING = "ImageMissing", "No engine image is given and the operator has no default."
    IMAGE_NOT_PINNED = "ImageNotPinned", "An image is named by tag; this operator wants a digest."
    IMAGE_NOT_ALLOWED = "ImageNotAllowed", "The operator's configuration does not allow the image."
    MODEL_NOT_ALLOWED = "ModelNotAllowed", "The operator's configuration does not allow the model."
    NAME_TOO_LONG = "NameTooLong", "The name leaves no room for its children's names."

    # SourceChanged, RevisionLost
    UNCHANGED = "Unchanged", "References read the same as when the revision was stored."
    EDITED_IN_PLACE = "EditedInPlace", "A reference reads differently now; `refresh` takes it in."
    STORED = "Stored", "The record of every living revision is there."
    RECORD_DELETED = "RecordDeleted", "A record was deleted and could not be rewritten."
    RECORD_REWRITTEN = "RecordRewritten", "A deleted record was rewritten from the children."

    # InstantRollback
    STABLE_AT_FULL_SIZE = "StableAtFullSize", "The stable workers are all kept."
    WARM_UNTIL = "WarmUntil", "The replaced revision is kept until the time in the message."
    TOO_FEW_EXTRA_REPLICAS = (
        "TooFewExtraReplicas",
        "maxExtraReplicas makes stable shrink; the message says what share can return at once.",
    )
    NO_WARM_REVISION = "NoWarmRevision", "No replaced revision is warm: going back loads weights."

    # TrafficGuarantees
    GATEWAYS_SETTLED = "GatewaysSettled", "Every gateway acknowledged what it was told."
    GATEWAYS_UNSETTLED = "GatewaysUnsettled", "A gateway has not acknowledged; see the message."
    PROVIDER_WITHOUT_TTL = (
        "ProviderWithoutTTL",
        "The traffic provider knows no time to live and no load reports.",
    )

    # RouteProgrammed
    WEIGHTS_SET = "WeightsSet", "The route has the weights, and its gateways have accepted it."
    WEIGHTS_UNSET = "WeightsUnset", "The route does not have the weights yet; the message says why."
    ROUTE_MISSING = "RouteMissing", "The HTTPRoute of spec.traffic does not exist."
    ROUTE_API_MISSING = (
        "RouteAPIMissing",
        "The cluster has no HTTPRoute: the Gateway API is not installed.",
    )
    ROUTE_RULE_MISSING = (
        "RouteRuleMissing",
        "No rule of the route is the one whose weights are to be set; see the message.",
    )
    ROUTE_BACKENDS_MISSING = (
        "RouteBackendsMissing",
        "The rule does not list the two Services; the message tells what to write.",
    )
    ROUTE_NOT_ACCEPTED = (
        "RouteNotAccepted",
        "No gateway has accepted the route in its present form.",
    )
    ROUTE_REFUSED = (
        "RouteRefused",
        "The API server refuses to let the operator read or change the route or the Services.",
    )
    SERVICE_TAKEN = "ServiceTaken", "A Service with the name that is needed belongs to another."

    # Lapsed
    HEALTHY = "Healthy", "No lapse."
    NO_READY_CANARY = "NoReadyCanary", "No canary worker is ready."
    STALE_EVIDENCE = "StaleEvidence", "The newest evidence is older than 15 seconds."
    REPEATED_LAPSE = "RepeatedLapse", "The share lapsed twice for one cause; a person is needed."

    # Commands
    COMMAND_DONE = "CommandDone", "The command was executed."
    NOTHING_TO_DO = "NothingToDo", "The command asks for what is already so."
    COMMAND_INVALID = "CommandInvalid", "The annotation is no command."
    COMMAND_IN_GIT = "CommandInGit", "The command stands in the applied manifest: refused."
    NOT_THE_CANARY = "NotTheCanary", "The command names a revision that is not the canary."
    UNKNOWN_REVISION = "UnknownRevision", "The command names a revision that is not stored."

    # StatusRebuilt
    STATUS_READABLE = "StatusReadable", "The status was read as written."
    STATUS_UNREADABLE = "StatusUnreadable", "The status could not be read; see the message."
    STATUS_MISSING = "StatusMissing", "There are children but no status."

    # Reconciled
    RECONCILE_ERROR = (
        "ReconcileError",
        "The operator met an error of its own with this object; it retries, traffic stays.",
    )
    API_REJECTED = (
        "APIRejected",
        "The API server refused a write (RBAC, quota, admission); the message says which.",
    )
