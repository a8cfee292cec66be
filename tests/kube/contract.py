"""What the operator relies on of a Kubernetes API, told once.

Run by test_contract.py against the fake in memory and against a real kube-apiserver through the
real client. A behaviour that is not here must not be expected of the fake.
"""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.port import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    EVENT,
    LEASE,
    LLM_DEPLOYMENT,
    SECRET,
    Conflict,
    Kind,
    NotFound,
    Reader,
    Rejected,
    StatusWriter,
    Writer,
)
from tests.kube.objects import config_map, deployment, llm_deployment, revision, version


class Kube(Reader, Writer, StatusWriter, Protocol):
    """All that the client offers."""


class Person(Protocol):
    """Somebody else who edits the same objects."""

    def merge(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> None:
        """A merge patch by field manager ``person``."""


class Contract:
    """Fixtures by the subclass: ``kube`` (Kube), ``person`` (Person), ``space`` (a namespace)."""

    async def test_what_is_not_there_is_not_found(self, kube: Kube, space: str) -> None:
        with pytest.raises(NotFound):
            await kube.get(CONFIG_MAP, space, "nothing")
        with pytest.raises(NotFound):
            await kube.patch(
                CONFIG_MAP, space, "nothing", [{"op": "add", "path": "/data", "value": {}}]
            )
        with pytest.raises(NotFound):
            await kube.replace(
                CONFIG_MAP,
                {
                    **config_map(space),
                    "metadata": {"namespace": space, "name": "one", "resourceVersion": "1"},
                },
            )

    async def test_creation_stamps_identity_and_time(self, kube: Kube, space: str) -> None:
        created = await kube.create(CONFIG_MAP, config_map(space, a="1"))
        metadata = created["metadata"]
        assert metadata["uid"]
        assert metadata["resourceVersion"]
        assert metadata["creationTimestamp"].endswith("Z")
        assert (await kube.get(CONFIG_MAP, space, "one")) == created

    async def test_a_name_is_created_once(self, kube: Kube, space: str) -> None:
        await kube.create(CONFIG_MAP, config_map(space, a="1"))
        with pytest.raises(Conflict):
            await kube.create(CONFIG_MAP, config_map(space, a="2"))

    async def test_list_selects_by_all_labels_and_names_the_kind(
        self, kube: Kube, space: str
    ) -> None:
        for name, carried in (("a", {"x": "1", "y": "1"}), ("b", {"x": "1"}), ("c", {})):
            manifest = config_map(space, name)
            manifest["metadata"]["labels"] = carried
            await kube.create(CONFIG_MAP, manifest)
        both = await kube.list(CONFIG_MAP, space, {"x": "1", "y": "1"})
        one = await kube.list(CONFIG_MAP, space, {"x": "1"})
        assert [m["metadata"]["name"] for m in both] == ["a"]
        assert [m["metadata"]["name"] for m in one] == ["a", "b"]
        assert {(m["apiVersion"], m["kind"]) for m in one} == {("v1", "ConfigMap")}
        everywhere = await kube.list(CONFIG_MAP, None, {"x": "1"})
        assert {"a", "b"} <= {
            m["metadata"]["name"] for m in everywhere if m["metadata"]["namespace"] == space
        }
        assert list(await kube.list(CONFIG_MAP, space, {"x": "2"})) == []

    async def test_apply_creates_and_then_changes(self, kube: Kube, space: str) -> None:
        first = await kube.apply(CONFIG_MAP, config_map(space, a="1"))
        second = await kube.apply(CONFIG_MAP, config_map(space, a="2"))
        assert first["metadata"]["uid"] == second["metadata"]["uid"]
        assert second["data"] == {"a": "2"}
        entries = second["metadata"]["managedFields"]
        assert [(e["manager"], e["operation"]) for e in entries] == [("llmrollouts", "Apply")]

    async def test_the_same_apply_again_writes_nothing(self, kube: Kube, space: str) -> None:
        first = await kube.apply(DEPLOYMENT, deployment(space, "A"))
        second = await kube.apply(DEPLOYMENT, deployment(space, "A"))
        assert version(first) == version(second)

    async def test_apply_takes_back_what_it_no_longer_says(self, kube: Kube, space: str) -> None:
        await kube.apply(CONFIG_MAP, config_map(space, a="1", b="1"))
        assert (await kube.apply(CONFIG_MAP, config_map(space, b="1")))["data"] == {"b": "1"}
        await kube.apply(DEPLOYMENT, deployment(space, "A", "B"))
        applied = await kube.apply(DEPLOYMENT, deployment(space, "B"))
        container = applied["spec"]["template"]["spec"]["containers"][0]
        assert [e["name"] for e in container["env"]] == ["B"]

    async def test_apply_leaves_the_fields_of_others(
        self, kube: Kube, person: Person, space: str
    ) -> None:
        await kube.apply(CONFIG_MAP, config_map(space, a="1"))
        person.merge(
            CONFIG_MAP, space, "one", {"metadata": {"labels": {"team": "x"}}, "data": {"b": "2"}}
        )
        applied = await kube.apply(CONFIG_MAP, config_map(space, a="3"))
        assert applied["data"] == {"a": "3", "b": "2"}
        assert applied["metadata"]["labels"] == {"team": "x"}

    async def test_apply_takes_a_field_over_from_others(
        self, kube: Kube, person: Person, space: str
    ) -> None:
        await kube.apply(DEPLOYMENT, deployment(space, "A"))
        person.merge(DEPLOYMENT, space, "workers", {"spec": {"replicas": 7}})
        assert (await kube.get(DEPLOYMENT, space, "workers"))["spec"]["replicas"] == 7
        applied = await kube.apply(DEPLOYMENT, deployment(space, "A"))
        assert applied["spec"]["replicas"] == 1
        others = [e for e in applied["metadata"]["managedFields"] if e["manager"] != "llmrollouts"]
        assert others == []

    async def test_generation_counts_changes_of_the_spec_only(
        self, kube: Kube, person: Person, space: str
    ) -> None:
        created = await kube.create(LLM_DEPLOYMENT, llm_deployment(space))
        assert created["metadata"]["generation"] == 1
        created["status"] = {"epoch": 1}
        written = await kube.replace_status(LLM_DEPLOYMENT, created)
        assert written["metadata"]["generation"] == 1
        person.merge(
            LLM_DEPLOYMENT, space, "chat", {"metadata": {"annotations": {labels.COMMAND: "x"}}}
        )
        assert await self._generation(kube, space) == 1
        person.merge(LLM_DEPLOYMENT, space, "chat", {"spec": {"replicas": 2}})
        assert await self._generation(kube, space) == 2

    async def _generation(self, kube: Kube, space: str) -> Any:
        return (await kube.get(LLM_DEPLOYMENT, space, "chat"))["metadata"]["generation"]

    async def test_status_is_written_by_its_subresource_only(self, kube: Kube, space: str) -> None:
        created = await kube.create(
            LLM_DEPLOYMENT, {**llm_deployment(space), "status": {"epoch": 9}}
        )
        assert not created.get("status")
        created["status"] = {"epoch": 1}
        created["spec"]["replicas"] = 5
        written = await kube.replace_status(LLM_DEPLOYMENT, created)
        assert written["status"] == {"epoch": 1}
        assert written["spec"]["replicas"] == 1
        written["status"] = {"epoch": 2}
        written["spec"]["replicas"] = 3
        replaced = await kube.replace(LLM_DEPLOYMENT, written)
        assert replaced["status"] == {"epoch": 1}
        assert replaced["spec"]["replicas"] == 3

    async def test_a_status_that_loses_fields_loses_them(self, kube: Kube, space: str) -> None:
        created = await kube.create(LLM_DEPLOYMENT, llm_deployment(space))
        created["status"] = {"epoch": 1, "message": "a"}
        written = await kube.replace_status(LLM_DEPLOYMENT, created)
        written["status"] = {"epoch": 2}
        assert (await kube.replace_status(LLM_DEPLOYMENT, written))["status"] == {"epoch": 2}

    async def test_an_old_version_replaces_nothing(
        self, kube: Kube, person: Person, space: str
    ) -> None:
        created = await kube.create(LLM_DEPLOYMENT, llm_deployment(space))
        # Any write in between counts, an annotation too: a command must not be overlooked (R31).
        person.merge(
            LLM_DEPLOYMENT, space, "chat", {"metadata": {"annotations": {labels.COMMAND: "x"}}}
        )
        created["status"] = {"epoch": 1}
        with pytest.raises(Conflict):
            await kube.replace_status(LLM_DEPLOYMENT, created)
        with pytest.raises(Conflict):
            await kube.replace(LLM_DEPLOYMENT, created)
        assert not (await kube.get(LLM_DEPLOYMENT, space, "chat")).get("status")

    async def test_a_write_that_changes_nothing_keeps_the_version(
        self, kube: Kube, space: str
    ) -> None:
        created = await kube.create(LLM_DEPLOYMENT, llm_deployment(space))
        created["status"] = {"epoch": 1}
        written = await kube.replace_status(LLM_DEPLOYMENT, created)
        assert version(await kube.replace_status(LLM_DEPLOYMENT, written)) == version(written)

    async def test_replace_needs_a_version(self, kube: Kube, space: str) -> None:
        await kube.create(CONFIG_MAP, config_map(space))
        with pytest.raises(ValueError, match="resourceVersion"):
            await kube.replace(CONFIG_MAP, config_map(space, a="1"))
        with pytest.raises(ValueError, match="resourceVersion"):
            await kube.replace_status(LLM_DEPLOYMENT, llm_deployment(space))

    async def test_another_object_of_the_same_name_is_not_replaced(
        self, kube: Kube, space: str
    ) -> None:
        old = await kube.create(CONFIG_MAP, config_map(space))
        await kube.delete(CONFIG_MAP, space, "one")
        await kube.create(CONFIG_MAP, config_map(space))
        with pytest.raises(Conflict):
            await kube.replace(CONFIG_MAP, old)

    async def test_a_command_is_removed_only_while_it_is_the_same(
        self, kube: Kube, space: str
    ) -> None:
        manifest = llm_deployment(space)
        manifest["metadata"]["annotations"] = {labels.COMMAND: "rollback/1", "other": "x"}
        await kube.create(LLM_DEPLOYMENT, manifest)
        path = "/metadata/annotations/" + labels.COMMAND.replace("/", "~1")
        sequence = "/metadata/annotations/" + labels.COMMAND_SEQUENCE.replace("/", "~1")

        def removal(value: str) -> list[Manifest]:
            return [
                {"op": "test", "path": path, "value": value},
                {"op": "remove", "path": path},
                {"op": "add", "path": sequence, "value": "1"},
            ]

        with pytest.raises(Conflict):
            await kube.patch(LLM_DEPLOYMENT, space, "chat", removal("rollback/2"))
        patched = await kube.patch(LLM_DEPLOYMENT, space, "chat", removal("rollback/1"))
        assert patched["metadata"]["annotations"] == {"other": "x", labels.COMMAND_SEQUENCE: "1"}
        with pytest.raises(Conflict):
            await kube.patch(LLM_DEPLOYMENT, space, "chat", removal("rollback/1"))
        with pytest.raises(Conflict):
            await kube.patch(LLM_DEPLOYMENT, space, "chat", [{"op": "remove", "path": path}])

    async def test_a_patch_that_makes_nonsense_is_rejected_not_a_conflict(
        self, kube: Kube, space: str
    ) -> None:
        await kube.create(CONTROLLER_REVISION, revision(space, {"a": 1}))
        replacement = {"op": "replace", "path": "/data", "value": {"a": 2}}
        with pytest.raises(Rejected):
            await kube.patch(CONTROLLER_REVISION, space, "chat-a", [replacement])

    async def test_delete_is_idempotent(self, kube: Kube, space: str) -> None:
        await kube.create(CONFIG_MAP, config_map(space))
        await kube.delete(CONFIG_MAP, space, "one")
        await kube.delete(CONFIG_MAP, space, "one")
        with pytest.raises(NotFound):
            await kube.get(CONFIG_MAP, space, "one")

    async def test_delete_with_another_uid_deletes_nothing(self, kube: Kube, space: str) -> None:
        created = await kube.create(DEPLOYMENT, deployment(space))
        with pytest.raises(Conflict):
            await kube.delete(
                DEPLOYMENT, space, "workers", uid="00000000-0000-4000-8000-00000000dead"
            )
        assert await kube.get(DEPLOYMENT, space, "workers")
        await kube.delete(DEPLOYMENT, space, "workers", uid=created["metadata"]["uid"])
        with pytest.raises(NotFound):
            await kube.get(DEPLOYMENT, space, "workers")

    async def test_what_has_a_finalizer_stays_and_says_that_it_goes(
        self, kube: Kube, space: str
    ) -> None:
        manifest = config_map(space)
        manifest["metadata"]["finalizers"] = ["example.com/wait"]
        await kube.create(CONFIG_MAP, manifest)
        await kube.delete(CONFIG_MAP, space, "one")
        found = await kube.get(CONFIG_MAP, space, "one")
        assert found["metadata"]["deletionTimestamp"]
        await kube.patch(
            CONFIG_MAP, space, "one", [{"op": "remove", "path": "/metadata/finalizers"}]
        )
        with pytest.raises(NotFound):
            await kube.get(CONFIG_MAP, space, "one")

    async def test_the_data_of_a_revision_never_changes_but_its_annotations_and_number_do(
        self, kube: Kube, space: str
    ) -> None:
        created = await kube.create(CONTROLLER_REVISION, revision(space, {"a": 1}))
        with pytest.raises(Rejected, match="immutable"):
            await kube.replace(CONTROLLER_REVISION, {**created, "data": {"a": 2}})
        created["metadata"]["annotations"] = {labels.REJECTED: "{}"}
        created["revision"] = 2
        replaced = await kube.replace(CONTROLLER_REVISION, created)
        assert replaced["revision"] == 2
        assert replaced["data"] == {"a": 1}

    @pytest.mark.parametrize(
        "data", [{"b": 1, "a": {"d": [1, 2], "c": None}}, {"a": "{% if x < 1 && y > 2 %} ä \u2028"}]
    )
    async def test_a_revision_can_be_annotated_and_renumbered_whatever_its_data(
        self, kube: Kube, space: str, data: Manifest
    ) -> None:
        created = await kube.create(CONTROLLER_REVISION, revision(space, data))
        name = created["metadata"]["name"]
        annotate = {"op": "add", "path": "/metadata/annotations", "value": {labels.REJECTED: "{}"}}
        renumber = {"op": "replace", "path": "/revision", "value": 7}
        patched = await kube.patch(CONTROLLER_REVISION, space, name, [annotate, renumber])
        assert patched["revision"] == 7
        assert patched["data"] == data

    async def test_a_sealed_config_map_never_changes(self, kube: Kube, space: str) -> None:
        await kube.apply(CONFIG_MAP, {**config_map(space, a="1"), "immutable": True})
        with pytest.raises(Rejected, match="immutable"):
            await kube.apply(CONFIG_MAP, {**config_map(space, a="2"), "immutable": True})

    # aiohttp advises against bodies of this size; no other request of ours has one.
    @pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
    async def test_a_config_map_beyond_a_mebibyte_is_rejected(self, kube: Kube, space: str) -> None:
        with pytest.raises(Rejected):
            await kube.apply(CONFIG_MAP, config_map(space, a="x" * (1024 * 1024 + 1)))

    async def test_a_selector_never_changes(self, kube: Kube, space: str) -> None:
        await kube.apply(DEPLOYMENT, deployment(space))
        other = deployment(space)
        other["spec"]["selector"] = {"matchLabels": {"app": "y"}}
        other["spec"]["template"]["metadata"]["labels"] = {"app": "y"}
        with pytest.raises(Rejected, match="immutable"):
            await kube.apply(DEPLOYMENT, other)

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "A", "a?b", "-a", "x" * 300])
    async def test_a_name_that_is_none_addresses_nothing(
        self, kube: Kube, space: str, name: str
    ) -> None:
        await kube.create(CONFIG_MAP, config_map(space, "kept"))
        with pytest.raises(Rejected):
            await kube.delete(CONFIG_MAP, space, name)
        with pytest.raises(Rejected):
            await kube.get(CONFIG_MAP, space, name)
        with pytest.raises(Rejected):
            await kube.apply(CONFIG_MAP, config_map(space, name))
        with pytest.raises(Rejected):
            await kube.create(CONFIG_MAP, config_map(space, name))
        assert await kube.get(CONFIG_MAP, space, "kept")

    async def test_a_lease_may_be_held_by_nobody(self, kube: Kube, space: str) -> None:
        spec = {"holderIdentity": "a", "leaseDurationSeconds": 6, "leaseTransitions": 1}
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}
        lease["metadata"] = {"namespace": space, "name": "l"}
        created = await kube.create(LEASE, lease)
        created["spec"]["holderIdentity"] = ""
        assert not (await kube.replace(LEASE, created))["spec"].get("holderIdentity")

    async def test_secrets_travel_as_they_are(self, kube: Kube, space: str) -> None:
        secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls"}
        secret["metadata"] = {"namespace": space, "name": "s"}  # type: ignore[assignment]
        secret["data"] = {"tls.crt": "YQ==", "tls.key": "Yg=="}  # type: ignore[assignment]
        await kube.create(SECRET, secret)
        assert (await kube.get(SECRET, space, "s"))["data"] == secret["data"]

    async def test_events_are_created(self, kube: Kube, space: str) -> None:
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": space, "name": "chat.1"},
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "type": "Normal",
            "reason": "Promoted",
            "action": "Promote",
            "note": "The canary is stable now.",
            "reportingController": "llmrollouts.dev/operator",
            "reportingInstance": "operator-0",
            "regarding": {
                "apiVersion": labels.API_VERSION,
                "kind": labels.KIND,
                "namespace": space,
                "name": "chat",
            },
        }
        assert (await kube.create(EVENT, event))["note"] == event["note"]
