"""The runtime layer: what each share and mirror is at this moment.

Zero is written by absence, so that deployments at rest take no room in the heartbeat.
Pure; called by the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import envoy_data_plane.google.protobuf as pb

from llmrollouts.api.share import WHOLE
from llmrollouts.rollout.intent import DeploymentTraffic
from llmrollouts.traffic import wire
from llmrollouts.traffic.names import LAYER, mirror_key, share_key
from llmrollouts.traffic.routes import canaries

_RUNTIME_NAME: Final = 1
_RUNTIME_LAYER: Final = 2


def fractions(traffic: DeploymentTraffic) -> dict[str, int]:
    """Runtime key -> parts per million, for one deployment; no entry means 0.

    Sums as routes.py explains. The default's own share stays in the layer: during a promotion the
    old routes still read it until all proxies have the new default.
    """
    out: dict[str, int] = {}
    total = 0
    for revision in canaries(traffic):
        if revision.share:
            total = min(WHOLE, total + revision.share.ppm)
            out[share_key(traffic.uid, revision.revision)] = total
    for revision in traffic.revisions:
        if revision.revision == traffic.default and revision.share:
            out[share_key(traffic.uid, revision.revision)] = revision.share.ppm
    if total < WHOLE:
        for revision in canaries(traffic):
            if revision.mirror:
                key = mirror_key(traffic.uid, revision.revision)
                out[key] = min(WHOLE, total + revision.mirror.ppm)
    return out


def encode_fractions(entries: Mapping[str, int]) -> bytes:
    """A part of the layer: a serialized ``Struct``; parts concatenate."""
    return bytes(
        pb.Struct(
            fields={
                key: pb.Value(
                    struct_value=pb.Struct(
                        fields={
                            "numerator": pb.Value(number_value=float(ppm)),
                            "denominator": pb.Value(string_value="MILLION"),
                        }
                    )
                )
                for key, ppm in sorted(entries.items())
            }
        )
    )


def encode_layer(parts: bytes) -> bytes:
    """The ``Runtime`` resource around the concatenated parts."""
    return wire.delimited(_RUNTIME_NAME, LAYER.encode()) + wire.delimited(_RUNTIME_LAYER, parts)
