"""What goes wrong in the tap itself, or between it and the launcher, and who notices."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from tests.worker_image.tapped import DONE, ROLE, Tapped, chat
from worker_image.launcher.sampler import Sampler
from worker_image.launcher.tap.llmrollouts_tap import events, outlet, wire
from worker_image.launcher.tap.llmrollouts_tap.events import LONGEST_EVENT


async def test_fault_of_the_tap_reaches_no_request(
    tapped: Tapped, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(events.EventReader, "feed", fail)
    client = await tapped.play(ROLE, chat(content="a"), DONE)
    assert len(client.answered) == 5
    assert await tapped.heard() == {}
    assert tapped.sampler.arrivals["live"] == 1
    assert tapped.sampler.cohorts.in_flight == 0, "it is forgotten, not taken for a hang"
    assert "lost sight of a request: ZeroDivisionError" in caplog.text


async def test_event_without_an_end_is_given_up(tapped: Tapped) -> None:
    part = b"x" * (LONGEST_EVENT // 4)
    client = await tapped.play(*[part] * 6)
    assert len(client.answered) == 8
    assert await tapped.heard() == {}
    assert tapped.sampler.cohorts.in_flight == 0


async def test_tap_without_a_launcher_is_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for variables in (
        {wire.ADDRESS_VARIABLE: "", wire.TOKEN_VARIABLE: ""},
        {wire.ADDRESS_VARIABLE: "@llmrollouts-nobody", wire.TOKEN_VARIABLE: "00" * 16},
        {wire.ADDRESS_VARIABLE: "@llmrollouts-nobody", wire.TOKEN_VARIABLE: "zz"},
    ):
        caplog.clear()
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        client = await Tapped(Sampler()).play(ROLE, chat(content="a"), DONE)
        assert len(client.answered) == 5
        assert "The tap is off" in caplog.text


async def test_tap_without_permission_for_a_socket_is_off(
    tapped: Tapped, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refuse)
    client = await Tapped(tapped.sampler).play(ROLE, chat(content="a"), DONE)
    assert len(client.answered) == 5
    assert "Operation not permitted" in caplog.text
    assert Sampler().open() is None
    assert "no socket for it may be opened here" in caplog.text


async def test_records_wait_while_the_launcher_is_busy_and_none_is_lost(tapped: Tapped) -> None:
    """The kernel queues only ten datagrams; the launcher's loop is held up for longer."""
    asyncio.get_running_loop().remove_reader(tapped.sampler._socket.fileno())  # type: ignore[union-attr]  # opened by the fixture
    for _ in range(40):
        await tapped.play(ROLE, chat(content="a"), DONE)
    await asyncio.sleep(0.1)
    for _ in range(40):
        await tapped.heard()
        if tapped.sampler.ends["ok"] == 40:
            break
    assert tapped.sampler.ends == {"ok": 40}
    assert tapped.sampler.lost == 0


async def test_records_that_find_no_room_are_given_up_and_counted(
    tapped: Tapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "KEPT_RECORDS", 64)
    made, _ = outlet.open_outlet(os.environ)
    assert made is not None
    for _ in range(100):
        made.put(wire.RECORD.pack(wire.ALIVE, 0, 0, 0, 1.0, 0.0, 0))
    await tapped.heard()
    assert tapped.sampler.lost == 36
    made.close()


async def test_launcher_that_is_gone_is_noticed_once(
    tapped: Tapped, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = outlet.open_outlet(os.environ)
    assert made is not None
    tapped.sampler.close()
    for _ in range(3):
        made.put(wire.RECORD.pack(wire.ALIVE, 0, 0, 0, 1.0, 0.0, 0))
        await asyncio.sleep(0.12)
    assert caplog.text.count("Stopped reporting to the launcher") == 1
