"""Backups in m of n shares: any m restore, fewer do not, and what is wrong with a share is told."""

from __future__ import annotations

import itertools
import secrets
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import system_clock
from core.errors import Malformed, QianyanError, Refused, SettingsError
from core.model import KeyPurpose, KeyState
from signer._native import shamir
from signer.engine import shares
from signer.engine.backup import Backup, backup_keys, record_backup, restore_keys
from signer.engine.shares import Share
from tests.engine_world import World, key_store, open_world


def times(x: int, y: int) -> int:
    """The product in GF(2^8), by long multiplication and division."""
    product = 0
    for bit in range(8):
        if y >> bit & 1:
            product ^= x << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x11B << (bit - 8)
    return product


@given(st.binary(min_size=1, max_size=64), st.integers(1, 6), st.integers(0, 6))
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, threshold: int, more: int) -> None:
    made = shamir.split(bytearray(secret), threshold, threshold + more)
    numbers = secrets.SystemRandom().sample(range(len(made)), threshold)
    out = bytearray(len(secret))
    shamir.combine({number + 1: made[number] for number in numbers}, out)
    assert out == secret


def test_the_shares_lie_on_a_polynomial_of_the_right_degree() -> None:
    secret = bytearray(b"\x00\x01\xffa secret of 20 o")
    made = shamir.split(secret, 3, 255)
    # Lagrange with the slow product, at 0 and at another share's x: three points determine every other one.
    for at, expected in ((0, secret), (200, made[199])):
        points = {x: made[x - 1] for x in (7, 90, 255)}
        found = bytearray(len(secret))
        for x, y in points.items():
            weight = 1
            for other in points:
                if other != x:
                    inverse = next(z for z in range(1, 256) if times(z, other ^ x) == 1)
                    weight = times(weight, times(other ^ at, inverse))
            for i, octet in enumerate(y):
                found[i] ^= times(weight, octet)
        assert found == expected


def test_fewer_shares_say_nothing() -> None:
    """With two of three, every secret is as likely: over many splits of one secret, the wrong sum is never it twice."""
    secret = bytearray(16)
    guesses = set()
    for _ in range(50):
        made = shamir.split(secret, 3, 3)
        out = bytearray(16)
        shamir.combine({1: made[0], 2: made[1]}, out)
        guesses.add(bytes(out))
    assert len(guesses) == 50
    assert bytes(secret) not in guesses


@pytest.mark.parametrize(("threshold", "count"), [(0, 3), (4, 3), (2, 256), (-1, -1)])
def test_numbers_out_of_bounds(threshold: int, count: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        shamir.split(bytearray(16), threshold, count)


def test_combine_refuses_what_is_no_share() -> None:
    for wrong in ({}, {0: bytearray(16)}, {256: bytearray(16)}, {1: bytearray(15)}):
        with pytest.raises(ValueError, match="share"):
            shamir.combine(wrong, bytearray(16))


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8), st.integers(1, 255))
def test_a_share_is_printed_and_read(secret: bytes, set_id: bytes, number: int) -> None:
    share = Share(set_id, 3, 255, number, bytearray(secret))
    text = share.encode()
    assert len(text) == 5 + 52 + 12
    for form in (text, text.lower(), text.replace(b"-", b" ", -1).replace(b"QYS1 ", b"QYS1-")):
        assert Share.decode(bytearray(form), "paper") == share
    assert "secret" not in repr(share)


def test_a_slip_of_the_pen_is_found(tmp_path: Path) -> None:
    text = Share(bytes(8), 2, 3, 1, bytearray(secrets.token_bytes(16))).encode()
    for at in range(5, len(text)):
        if text[at : at + 1] == b"-":
            continue
        other = bytearray(text)
        other[at] = ord("A") if other[at] != ord("A") else ord("B")
        with pytest.raises(Refused) as caught:
            Share.decode(other, "paper")
        assert caught.value.code == "share_damaged"
    for bad in (b"", b"QYS1-", text[:-1], text + b"A", text.replace(b"QYS1", b"QYS2"), text[:-1] + b"!"):
        (tmp_path / "share").write_bytes(b"words\n" + bytes(bad))
        with pytest.raises(Refused) as caught:
            shares.read_file(tmp_path / "share")
        assert caught.value.code == "share_damaged"
    with pytest.raises(SettingsError):
        shares.read_file(tmp_path / "none")


async def backed_up(world: World, threshold: int = 3, count: int = 5) -> tuple[Backup, list[Share]]:
    backup, made = await backup_keys(world.database, world.keystore, [], threshold, count, system_clock)
    return Backup.decode(backup.encode()), made


async def code_of_restore(world: World, backup: Backup, found: list[Share]) -> str:
    try:
        outcome = await restore_keys(world.database, world.keystore, backup, found, "test", system_clock)
    except QianyanError as error:
        return error.code
    return " ".join(f"{key}:{result}" for key, result in sorted(outcome.items()))


async def test_any_three_of_five_restore_and_two_do_not(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        world.keystore.create_master()
        await world.engine.create_key("d", KeyPurpose.DATA, "owner", "test", callers=["app"])
        await world.engine.create_key("e", KeyPurpose.ENCRYPT, "owner", "test", callers=["app"])
        wrapped = world.keystore.wrap(world.keystore.load("d"))
        backup, made = await backed_up(world)
        for chosen in itertools.combinations(made, 3):
            for name in ("d", "e", "kmc-master"):
                (tmp_path / "keys" / f"{name}.pem").unlink()
            world.keystore.close()
            world.keystore = key_store(tmp_path)
            for few in itertools.combinations(chosen, 2):
                assert await code_of_restore(world, backup, list(few)) == "shares_few"
            assert await code_of_restore(world, backup, list(chosen)) == "d:restored e:restored kmc-master:restored"
            assert world.keystore.load("d").public_key.to_bytes() == world.engine.public_key("d")
            assert world.keystore.unwrap(wrapped).public_key.to_bytes() == world.engine.public_key("d")
        assert await code_of_restore(world, backup, made) == "d:kept e:kept kmc-master:kept"
        rows = await world.audit_rows("key.restore")
        assert {row.outcome for row in rows} == {"shares_few", "restored", "kept"}
    async with open_world(tmp_path) as world:
        assert len(await world.engine.sign_digests("d", bytes(32), caller="app")) == 64


async def test_a_wrong_share_is_told_from_a_missing_one(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("k",)) as world:
        backup, made = await backed_up(world)
        _, of_another = await backed_up(world)
        forged = Share(made[0].set_id, 3, 5, 1, bytearray(16))
        renumbered = Share(made[0].set_id, 3, 5, 4, bytearray(made[0].secret))
        beyond = Share(made[0].set_id, 3, 200, 200, bytearray(made[0].secret))
        for found, code in (
            ([], "shares_few"),
            (made[:2], "shares_few"),
            ([*made[:2], made[1]], "share_twice"),
            ([*made[:2], of_another[2]], "share_set"),
            ([*made[1:3], forged], "share_wrong"),
            ([*made[:3], renumbered], "share_wrong"),
            ([*made[:3], beyond], "share_wrong"),
            (made[2:], "k:kept"),
        ):
            assert await code_of_restore(world, backup, found) == code
        rows = await world.audit_rows("key.restore")
        assert [row.outcome for row in rows][:-1] == [
            "shares_few", "shares_few", "share_twice", "share_set", "share_wrong", "share_wrong", "share_wrong",
        ]  # fmt: skip


async def test_a_working_key_is_never_overwritten_and_a_damaged_one_is_set_aside(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("good", "damaged", "gone")) as world:
        backup, made = await backed_up(world)
        directory = tmp_path / "keys"
        working = (directory / "good.pem").read_bytes()
        (directory / "damaged.pem").write_bytes(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n")
        (directory / "gone.pem").unlink()
        outcome = "damaged:replaced gone:restored good:kept"
        assert await code_of_restore(world, backup, made[:3]) == outcome
        assert (directory / "good.pem").read_bytes() == working
        assert [path.read_bytes()[-5:] for path in directory.glob("damaged.pem.damaged-*")] == [b"AAAA\n"]
        for name in ("good", "damaged", "gone"):
            assert world.keystore.load(name).public_key.to_bytes() == world.engine.public_key(name)


async def test_a_file_under_another_passphrase_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("k",)) as world:
        backup, made = await backed_up(world)
        before = (tmp_path / "keys" / "k.pem").read_bytes()
        mine, world.keystore = world.keystore, key_store(tmp_path, b"another passphrase")
        assert await code_of_restore(world, backup, made[:3]) == "passphrase_wrong"
        world.keystore = mine
        assert (tmp_path / "keys" / "k.pem").read_bytes() == before


async def test_keys_that_the_store_does_not_know_are_not_written(tmp_path: Path) -> None:
    async with open_world(tmp_path / "", keys=("k", "l")) as world:
        backup, made = await backed_up(world)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with open_world(elsewhere, keys=("k",)) as world:
        assert await code_of_restore(world, backup, made[:3]) == "key_mismatch"
    empty = tmp_path / "empty"
    empty.mkdir()
    async with open_world(empty) as world:
        assert await code_of_restore(world, backup, made[:3]) == "k:unknown l:unknown"
        assert list((empty / "keys").iterdir()) == []


async def test_a_changed_backup_restores_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("k", "l")) as world:
        backup, made = await backed_up(world)
        (tmp_path / "keys" / "k.pem").unlink()
        text = backup.encode()
        sealed = text.index(b'"sealed": "', text.index(b'"sealed": "') + 5) + 30  # of the second key
        for changed in (
            text[:sealed] + (b"A" if text[sealed : sealed + 1] != b"A" else b"B") + text[sealed + 1 :],
            text.replace(backup.created_at.encode(), b"2020-01-01T00:00:00Z"),
            text.replace(b'"id": "l"', b'"id": "m"').replace(b'    "l"\n', b'    "m"\n'),
        ):
            assert changed != text
            code = await code_of_restore(world, Backup.decode(changed), made[:3])
            assert code == "backup_damaged"
            assert not (tmp_path / "keys" / "k.pem").exists(), "every key is opened before the first is written"
        for bad in (b"", b"[]", b"{}", text[:-30], text.replace(b'"version": 1', b'"version": 2')):
            with pytest.raises(Malformed):
                Backup.decode(bad)


async def test_what_goes_into_a_backup(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("a", "b", "c")) as world:
        await world.engine.set_key_state("b", KeyState.COMPROMISED, "test")
        await world.engine.set_key_state("c", KeyState.RETIRED, "test")
        backup, _ = await backed_up(world)
        assert [key.id for key in backup.keys] == ["a", "c"]
        some, _ = await backup_keys(world.database, world.keystore, ["a"], 2, 2, system_clock)
        assert [key.id for key in some.keys] == ["a"]
        await record_backup(world.database, some, "test", system_clock)
        (row,) = await world.audit_rows("key.backup")
        assert row.subject == some.set_id.hex()
        for threshold, count in ((1, 3), (4, 3), (2, 256)):
            with pytest.raises(Refused):
                await backup_keys(world.database, world.keystore, [], threshold, count, system_clock)
        with pytest.raises(QianyanError, match="no key"):
            await backup_keys(world.database, world.keystore, ["none"], 2, 3, system_clock)


async def test_a_restored_key_is_used_by_a_running_engine(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("k",)) as world:
        backup, made = await backed_up(world)
        await world.engine.set_key_state("k", KeyState.FROZEN, "test")
        (tmp_path / "keys" / "k.pem").unlink()
        await world.engine.set_key_state("k", KeyState.ACTIVE, "test")
        with pytest.raises(QianyanError) as caught:
            await world.engine.sign_digests("k", bytes(32), caller="app")
        assert caught.value.code == "key_unreadable"
        assert await code_of_restore(world, backup, made[1:4]) == "k:restored"
        assert len(await world.engine.sign_digests("k", bytes(32), caller="app")) == 64
