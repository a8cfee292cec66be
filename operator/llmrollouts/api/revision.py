"""What a revision is: model, engine, resources, prompt, retrieval and placement.

No field here has a default: a revision's identity is what the user gave, and a new default of a
newer operator must not look like a new revision. What an absent field means is decided once, by
the makers in resources/, when the revision is stored. The rules about model addresses, engine
arguments and variables are checked by the API server and, before a revision is stored, by
resources/policy.py; not while a spec is read, because a spec that cannot be read keeps the operator
from looking after the revision that serves.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints

from llmrollouts.api import engine_settings
from llmrollouts.api.model import ApiModel
from llmrollouts.api.model_uri import FORMS, UNKNOWN_FORM
from llmrollouts.api.model_uri import MAX_LENGTH as MAX_URI_LENGTH
from llmrollouts.api.rules import ATOMIC_LIST, ATOMIC_MAP, NAMED_LIST, Rule, Schema, matches, rules
from llmrollouts.api.texts import (
    IMAGE_PATTERN,
    SHORT_KEYS,
    DataKey,
    Digest,
    LabelText,
    ObjectName,
    Quantity,
    ShutdownTimeoutText,
)

MAX_TEXT: Final = 65_536  # characters of a chat template or other text kept with a revision


class ConfigMapKeyRef(ApiModel):
    """One entry of a ConfigMap in the namespace of the LLMDeployment."""

    name: ObjectName
    """The name of the ConfigMap."""
    key: DataKey
    """The entry of its data."""


# Fields of the first type end in SecretRef, or have the name that a pod gives them; those of the
# second end in SecretKeyRef.
class SecretRef(ApiModel):
    """A whole Secret in the namespace of the LLMDeployment."""

    name: ObjectName
    """The name of the Secret."""


class SecretKeyRef(ApiModel):
    """One entry of a Secret in the namespace of the LLMDeployment."""

    name: ObjectName
    """The name of the Secret."""
    key: DataKey
    """The entry of its data."""


_FORM_RULES = tuple(
    Rule(f"!self.startsWith('{scheme}://') || self.matches(r'{pattern}')", message)
    for scheme, (pattern, message) in FORMS.items()
)


class ModelSource(ApiModel):
    """Which model the workers load, named so that it cannot change under a running rollout."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.tokenSecretKeyRef) || self.uri.startsWith('hf://')",
                "tokenSecretKeyRef is used for hf:// models only: remove it",
            ),
            Rule(
                "!has(self.checksums) || !self.uri.startsWith('s3://')",
                "the files of an s3:// model are streamed into the GPU and cannot be verified: "
                "remove checksums, or serve the model from pvc://, oci:// or hf://",
            ),
        )
    )

    uri: Annotated[
        str,
        StringConstraints(min_length=1, max_length=MAX_URI_LENGTH),
        Rule(f"self.matches('^({'|'.join(FORMS)})://')", UNKNOWN_FORM),
        *_FORM_RULES,
    ]
    """Where the weights come from: hf://<org>/<name>@<commit of 40 hex digits>, s3://<bucket>/<path>,
    oci://<registry>/<path>@sha256:<digest>, pvc://<claim>/<path>, or file:///<path inside of the
    engine image>."""
    served_name: (
        Annotated[
            str,
            StringConstraints(
                pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]*$", min_length=1, max_length=128
            ),
            matches(
                "^[A-Za-z0-9][A-Za-z0-9._/:-]*$",
                "a served name begins with a letter or digit and has letters, digits and . _ / : -",
            ),
        ]
        | None
    ) = None
    """The name that clients give as `model` in requests. Default: the LLMDeployment's name."""
    checksums: (
        Annotated[dict[str, Digest], Field(max_length=512), SHORT_KEYS, ATOMIC_MAP] | None
    ) = None
    """Weight files and their checksums (`sha256:<hex>`), verified as the files load. A file that
    differs keeps the worker from becoming ready."""
    token_secret_key_ref: SecretKeyRef | None = None
    """The entry of a Secret with the token for a hf:// model that is not public."""


class EnvVar(ApiModel):
    """One environment variable."""

    name: Annotated[
        str,
        StringConstraints(pattern=engine_settings.VARIABLE_PATTERN, min_length=1, max_length=128),
        matches(
            engine_settings.VARIABLE_PATTERN,
            "the name of a variable has letters, digits and underscores",
        ),
        Rule(engine_settings.VARIABLE_RULE, engine_settings.VARIABLE_MESSAGE),
    ]
    """The name of the variable. Those that could load code, open development endpoints or bypass
    the measurement are refused."""
    value: Annotated[str, StringConstraints(max_length=2048)]
    """Its value, taken as it is: no variables are expanded in it."""


class Engine(ApiModel):
    """How vLLM runs the model."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.device) || self.device != 'CPU' || !has(self.gpuMemoryUtilization)",
                "gpuMemoryUtilization has no meaning with device CPU: remove one of the two",
            )
        )
    )

    image: (
        Annotated[
            str,
            StringConstraints(pattern=IMAGE_PATTERN, min_length=1, max_length=512),
            matches(
                IMAGE_PATTERN,
                "an image is written <registry>/<path>@sha256:<64 hex digits>, or with a tag where "
                "the operator allows tags",
            ),
        ]
        | None
    ) = None
    """The engine's image, by digest (`…@sha256:…`) unless the operator's administrator allows tags.
    Default: the operator's own vLLM image for the device."""
    device: Literal["GPU", "CPU"] | None = None
    """GPU (the default), or CPU for machines without one."""
    max_model_len: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """The longest prompt and answer together, in tokens. Default: what the model says."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    """The number format of weights and activations. Default: auto."""
    tensor_parallel_size: Annotated[int, Field(ge=1, le=64)] | None = None
    """How many GPUs of one worker share each layer. Default: 1."""
    gpu_memory_utilization: (
        Annotated[
            str,
            StringConstraints(
                pattern=r"^(0\.(0[5-9]|[1-9])[0-9]{0,3}|1(\.0{1,4})?)$", max_length=6
            ),
            matches(
                r"^(0\.(0[5-9]|[1-9])[0-9]{0,3}|1(\.0{1,4})?)$",
                'the share of GPU memory is a decimal in quotes between "0.05" and "1", '
                'such as "0.9"',
            ),
        ]
        | None
    ) = None
    """The part of each GPU's memory that vLLM may use, a decimal between "0.05" and "1". Default:
    vLLM's own."""
    extra_args: (
        Annotated[
            list[
                Annotated[
                    str,
                    StringConstraints(min_length=1, max_length=512),
                    Rule(engine_settings.ARGUMENT_RULE, engine_settings.ARGUMENT_MESSAGE),
                ]
            ],
            Field(max_length=64),
            Rule(
                "self.size() == 0 || self[0].startsWith('--')",
                "the first item must be an argument that begins with --",
            ),
            ATOMIC_LIST,
        ]
        | None
    ) = None
    """Further arguments of `vllm serve`, from an allow-list: those that run code of the model, read
    pickles, open ports or blind the measurement are refused."""
    env: Annotated[list[EnvVar], Field(max_length=64), NAMED_LIST] | None = None
    """Environment variables of the engine. Secrets do not belong here."""
    tap: bool | None = None
    """Whether the engine runs the tap by which the canary gate measures it. Default: true. False is
    for images whose vLLM does not take `--middleware`: their rollouts are judged by the histograms
    of the engine itself, which see less and prove nothing (docs/concepts-gate.md)."""
    shutdown_timeout: ShutdownTimeoutText | None = None
    """How long running answers may finish once a worker was told to stop. Default: the
    operator's (2m)."""


_Quantities = Annotated[dict[str, Quantity], Field(max_length=16), SHORT_KEYS, ATOMIC_MAP]


class Resources(ApiModel):
    """What one worker gets of its node."""

    limits: _Quantities | None = None
    """Upper bounds by resource name, such as `memory: 64Gi` or `nvidia.com/gpu: 1`. Without an
    accelerator here a GPU worker gets `nvidia.com/gpu` = tensorParallelSize."""
    requests: _Quantities | None = None
    """What the scheduler sets aside, by resource name. Default: the limits."""


def _one_of(first: str, second: str, what: str) -> dict[str, Any]:
    return rules(
        Rule(
            f"has(self.{first}) != has(self.{second})",
            f"set either {first} or {second}, not both and not neither; without {what} leave this "
            "out",
        )
    )


class Prompt(ApiModel):
    """The template that makes the model's input from a chat."""

    model_config = ConfigDict(
        json_schema_extra=_one_of("chatTemplate", "configMapKeyRef", "a template of your own")
    )

    chat_template: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)] | None = (
        None
    )
    """A chat template (Jinja), at most 64 KiB."""
    config_map_key_ref: ConfigMapKeyRef | None = None
    """Where a chat template stands. It is read once, when the revision is stored; a later edit of
    the ConfigMap changes nothing until `refresh`."""


class Retrieval(ApiModel):
    """The configuration of retrieval, which is released and rolled back with the model."""

    model_config = ConfigDict(
        json_schema_extra=_one_of("config", "configMapKeyRef", "a retrieval configuration")
    )

    config: (
        Annotated[
            dict[str, Any],
            Field(max_length=256),
            Schema((("x-kubernetes-preserve-unknown-fields", True),)),
        ]
        | None
    ) = None
    """Any structure; the workers get it as /etc/llmrollouts/retrieval.json. At most 64 KiB."""
    config_map_key_ref: ConfigMapKeyRef | None = None
    """Where the configuration stands. It is read once, when the revision is stored."""


class Toleration(ApiModel):
    """A taint of nodes that the workers accept."""

    key: Annotated[str, StringConstraints(max_length=253)] | None = None
    """The taint's key; absent with operator Exists: every taint."""
    operator: Literal["Exists", "Equal"] | None = None
    """Equal (the default) compares the value, Exists does not."""
    value: LabelText | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; absent: every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None
    """How long a NoExecute taint is borne."""


class Placement(ApiModel):
    """On which nodes workers run, and how their images are pulled."""

    node_selector: (
        Annotated[dict[str, LabelText], Field(max_length=32), SHORT_KEYS, ATOMIC_MAP] | None
    ) = None
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32), ATOMIC_LIST] | None = None
    """Taints that the workers accept."""
    priority_class_name: ObjectName | None = None
    """The priority class of the pods."""
    runtime_class_name: ObjectName | None = None
    """The runtime class of the pods."""
    image_pull_secrets: Annotated[list[SecretRef], Field(max_length=8), ATOMIC_LIST] | None = None
    """Secrets with the credentials of image registries, as a pod names them."""


class Revision(ApiModel):
    """Everything that changes behaviour: promoted and rolled back as one. Any edit of it starts a
    rollout."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.resources) || !has(self.resources.limits) || "
                "!('nvidia.com/gpu' in self.resources.limits) || "
                "int(self.resources.limits['nvidia.com/gpu']) >= "
                "(has(self.engine) && has(self.engine.tensorParallelSize) ? "
                "self.engine.tensorParallelSize : 1)",
                "a worker needs at least tensorParallelSize GPUs: raise resources.limits"
                "['nvidia.com/gpu'] (a whole number) or lower engine.tensorParallelSize",
            )
        )
    )

    model: ModelSource
    """Which model the workers load."""
    engine: Engine | None = None
    """How vLLM runs it."""
    resources: Resources | None = None
    """What one worker gets of its node."""
    prompt: Prompt | None = None
    """The chat template, where it is not the model's own."""
    retrieval: Retrieval | None = None
    """The configuration of retrieval."""
    placement: Placement | None = None
    """On which nodes workers run."""
