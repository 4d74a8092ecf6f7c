"""Decryption in the engine: only keys for it, under their limits, piece by piece, and nothing said of why one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.errors import Busy, Denied, QianyanError, Refused, TooLarge, Unavailable
from core.model import KeyPurpose, KeyState
from core.store import key_uses
from core.store.keys import KeyLimits
from signer._native import sm2
from signer.engine.backend import DECRYPT_CHUNK, Readings
from signer.engine.settings import EngineSettings
from tests.engine_world import World, open_world


async def make(world: World, limits: KeyLimits | None = None) -> sm2.PublicKey:
    limits = limits or KeyLimits()
    await world.engine.create_key("k", KeyPurpose.ENCRYPT, "owner", "test", callers=["app"], limits=limits)
    return sm2.PublicKey.from_bytes(world.engine.public_key("k"))


def sealed(public: sm2.PublicKey, text: bytes) -> Readings:
    return [("der", public.encrypt(text))]


async def opened(world: World, ciphertexts: Sequence[Readings]) -> list[bytes | None]:
    found = await world.engine.decrypt("k", ciphertexts, caller="app")
    return [None if text is None else bytes(text) for text in found]


async def test_what_was_encrypted_is_decrypted_in_order(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        public = await make(world)
        texts = [b"x" * (1 + n) for n in range(2 * DECRYPT_CHUNK + 5)]
        assert await opened(world, [sealed(public, text) for text in texts]) == texts
        raw = public.encrypt(b"raw", encoding="c1c3c2")
        assert await opened(world, [[("c1c3c2", raw)]]) == [b"raw"]
        long = bytes(500_000)
        assert await opened(world, [sealed(public, long)]) == [long]
        both: Readings = [("c1c3c2", b"\x04" + bytes(200)), ("c1c3c2", raw)]
        assert await opened(world, [both]) == [b"raw"], "the reading whose hash is right"
    async with open_world(tmp_path) as world:
        (row,) = await world.audit_rows("decrypt.usage")
        assert (row.actor, row.subject) == ("app", "k")
        assert f'"decryptions":{len(texts) + 3}' in row.detail
        assert await world.audit_rows("sign.usage") == []
        assert len(await world.audit_rows("decrypt.reserve")) == 1


async def test_what_cannot_be_decrypted_fails_alone_and_says_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        public = await make(world)
        good = public.encrypt(b"text", encoding="c1c3c2")
        other = sm2.PrivateKey.generate().public_key.encrypt(b"text", encoding="c1c3c2")
        off_curve = good[:64] + bytes([good[64] ^ 1]) + good[65:]
        wrong = [
            other, off_curve, good[:-1] + bytes([good[-1] ^ 1]), good[:70] + bytes([good[70] ^ 1]) + good[71:],
            b"", b"\x04", good[:97], good[:-1], b"\x05" + good[1:], bytes(200), b"\xff" * 200,
        ]  # fmt: skip
        mixed: list[Readings] = [[("c1c3c2", text)] for bad in wrong for text in (bad, good)]
        mixed += [[("der", bad)] for bad in wrong]
        assert await opened(world, mixed) == [None, b"text"] * len(wrong) + [None] * len(wrong)


async def test_admission_is_that_of_signatures(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        public = await make(world, KeyLimits(max_uses=5))
        text = sealed(public, b"text")
        with pytest.raises(Denied) as denied:
            await world.engine.decrypt("k", [text], caller="stranger")
        assert denied.value.code == "key_caller"
        with pytest.raises(Denied):
            await world.engine.may_decrypt("k", caller="stranger")
        assert len(await world.engine.decrypt("k", [text] * 4, caller="app")) == 4
        with pytest.raises(Refused) as spent:
            await world.engine.decrypt("k", [text] * 2, caller="app")
        assert spent.value.code == "key_count"
        await world.engine.set_key_state("k", KeyState.FROZEN, "test")
        with pytest.raises(Refused) as frozen:
            await world.engine.decrypt("k", [text], caller="app")
        assert frozen.value.code == "key_frozen"
    async with open_world(tmp_path) as world:
        rows = await world.audit_rows("decrypt.refuse")
        assert [row.outcome for row in rows] == ["key_caller", "key_caller", "key_count", "key_frozen"]
        async with world.database.read() as connection:
            assert await key_uses.get(connection, "k") == key_uses.KeyUses(4, 4)


async def test_a_key_frozen_within_a_call_decrypts_no_further_piece(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        public = await make(world)
        text = sealed(public, b"text")
        waiting = asyncio.ensure_future(world.engine.decrypt("k", [text] * 16_000, caller="app"))
        await asyncio.sleep(0)
        await world.engine.set_key_state("k", KeyState.FROZEN, "test")
        with pytest.raises(Refused) as caught:
            await waiting
        assert caught.value.code == "key_frozen"


async def test_it_is_bounded_and_ends_what_it_began(tmp_path: Path) -> None:
    async with open_world(tmp_path, settings=EngineSettings(max_decrypting=100)) as world:
        public = await make(world)
        text = sealed(public, b"text")
        with pytest.raises(TooLarge):
            await world.engine.decrypt("k", [text] * 101, caller="app")
        waiting = asyncio.ensure_future(opened(world, [text] * 100))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await world.engine.decrypt("k", [text], caller="app")
        closing = asyncio.ensure_future(world.engine.close())
        await asyncio.sleep(0)
        assert await waiting == [b"text"] * 100
        await closing
        with pytest.raises(Unavailable) as caught:
            await world.engine.decrypt("k", [text], caller="app")
        assert caught.value.code == "stopping"


async def test_a_device_key_is_not_for_decryption(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        with pytest.raises(QianyanError) as caught:
            await world.engine.register_device_key("k", KeyPurpose.ENCRYPT, "owner", 1, "test", callers=["app"])
        assert caught.value.code == "hsm_missing"
