"""The native loop by itself: positions are signed once, late calls write nowhere, bounds hold."""

from __future__ import annotations

import secrets
import threading
from pathlib import Path

import pytest

from core.errors import Unavailable
from signer._native import sm2
from signer.engine.sdf import _lane, abi
from signer.engine.sdf._lane import Run
from signer.engine.sdf.rights import Rights
from signer.engine.sdf.session import Connection, DeviceKey, Session
from tests.hsm_world import INDEX, make_devices, until
from tests.softsdf import PASSWORD, SoftDevice

MARK = b"\7" * 64


def run_of(count: int, key: sm2.PrivateKey | None = None) -> tuple[Run, bytearray]:
    public = (key or sm2.PrivateKey.generate()).public_key.to_bytes()
    out = bytearray(64 * count)
    return Run(DeviceKey(INDEX, public), secrets.token_bytes(32 * count), out, range(count)), out


def session_on(device: SoftDevice) -> Session:
    session = Session(Connection(abi.Library(str(device.library))), lambda index: bytearray(PASSWORD), Rights(set()))
    session.ready(INDEX)
    return session


@pytest.mark.parametrize(
    ("digests", "out", "positions"),
    [(32, 64, [1]), (32, 64, [-1]), (64, 64, [0, 1]), (31, 64, [0]), (64, 128, [0, 1 << 31]), (32, 64, [])],
)
def test_positions_that_have_no_room(digests: int, out: int, positions: list[int]) -> None:
    key = DeviceKey(INDEX, sm2.PrivateKey.generate().public_key.to_bytes())
    with pytest.raises(ValueError, match="positions"):
        Run(key, bytes(digests), bytearray(out), positions)
    run, _ = run_of(2)
    with pytest.raises(ValueError, match="64 bytes"):
        run.put(2, MARK)
    with pytest.raises(ValueError, match="64 bytes"):
        run.put(0, MARK[1:])


def test_positions_are_taken_in_order_and_a_run_is_over_with_the_last() -> None:
    run, out = run_of(3)
    assert [run.take(), run.take()] == [0, 1]
    run.give_back(1)
    assert [run.take(), run.take(), run.take()] == [1, 2, None]
    for position in range(3):
        assert not run.wait(0)
        run.put(position, bytes([position]) * 64)
    assert run.wait(30)
    assert run.over
    assert out == b"".join(bytes([position]) * 64 for position in range(3))
    run.fail(Unavailable("too late"))
    assert run.error is None, "what is complete does not fail"


def test_a_run_that_is_given_up_has_nothing_to_take_and_wakes_who_waits() -> None:
    run, _ = run_of(2)
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(run.wait(60)))
    waiting.start()
    run.fail(Unavailable("given up"))
    waiting.join(30)
    assert woken == [True]
    assert run.waiting == 0
    assert run.take() is None
    assert isinstance(run.error, Unavailable)


def test_lanes_share_runs_and_sign_each_position_once(tmp_path: Path) -> None:
    key = sm2.PrivateKey.generate()
    device = make_devices(tmp_path, 1, key)[0]
    (one, first), (two, second) = run_of(400, key), run_of(300, key)
    sessions = [session_on(device) for _ in range(4)]
    threads = [threading.Thread(target=lambda s=s: s.lane.work([one, two], 1 << 30)) for s in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert one.over
    assert two.over
    assert sm2.verify_many(key.public_key, one.digests, bytes(first)) == b"\1" * 400
    assert sm2.verify_many(key.public_key, two.digests, bytes(second)) == b"\1" * 300
    assert sum(session.lane.signatures for session in sessions) == device["signatures"] == 700


def test_a_call_that_returns_after_it_was_claimed_writes_nothing(tmp_path: Path) -> None:
    key = sm2.PrivateKey.generate()
    device = make_devices(tmp_path, 1, key)[0]
    session = session_on(device)
    run, out = run_of(1, key)
    device["hang"] = 1
    outcomes: list[int] = []
    thread = threading.Thread(target=lambda: outcomes.append(session.lane.work([run], 1)))
    thread.start()
    until(lambda: device["hanging"] == 1)
    assert session.since is not None
    assert session.lane.claim() == (run, 0)
    assert session.lane.claim() is None, "a flight is claimed once"
    run.put(0, MARK)
    device["hang"] = 0
    thread.join(30)
    assert not session.lane.land()
    assert outcomes in ([_lane.CLAIMED], [_lane.VERIFY])
    assert bytes(out) == MARK
    assert session.lane.signatures == 0


def test_a_retired_lane_gives_back_and_a_call_interrupts(tmp_path: Path) -> None:
    key = sm2.PrivateKey.generate()
    session = session_on(make_devices(tmp_path, 1, key)[0])
    run, _ = run_of(10, key)
    session.lane.call()
    assert session.lane.work([run], 1 << 30) == _lane.CALLED
    assert run.waiting == 9
    assert session.lane.work([run], 2) == _lane.VERIFY
    assert session.lane.flight == (run, 1)
    assert session.lane.land()
    run.put(1, session.lane.raw)
    session.lane.retire()
    assert session.lane.work([run], 1 << 30) == _lane.RETIRED
    assert run.waiting == 8
    assert not session.lane.take_off(run, 0)
