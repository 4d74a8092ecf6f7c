"""Who may use a key through GB/T 38629: codes, waits, the audit record, tokens, and the bounds on sessions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from core.clock import system_clock
from core.errors import Conflict, Malformed, NotFound, Refused
from core.model import KeyPurpose
from core.store import keys
from signer._native import sm2
from signer.signing.svs_keys import code_digest, make_code
from signer.signing.svs_sessions import z_value
from signer.signing.svs_settings import SvsSettings
from tests.cms_site import Site, open_site
from tests.engine_world import in_another_process
from tests.svs_client import SGD_SM3_SM2, SvsClient

CODE = b"Code-of-Key-1"
DATA = {"inDataLen": 4, "inData": b"data"}
NAMES = {"signMethod": SGD_SM3_SM2, "keyIndex": 1, "keyValue": CODE}
WRONG = {**NAMES, "keyValue": b"wrong"}
SETTINGS = SvsSettings(
    code_free_failures=3, code_backoff_first_s=2, code_backoff_max_s=10, code_forget_s=60, max_sessions=4,
    session_idle_s=60, max_session_bytes=100_000, max_buffered_bytes=50_000,
)  # fmt: skip


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path, svs=SETTINGS) as site:
        await site.key("k", index=1, code=CODE)
        yield site


def client(site: Site, mapping: str = "json", token: str | None = None) -> SvsClient:
    assert site.client is not None
    return SvsClient(site.client, mapping, token)


async def sign(site: Site, names: dict[str, Any] = NAMES) -> int:
    return (await client(site).call("signData", **names, **DATA)).code


async def test_wrong_codes_make_the_next_wait_longer_and_longer(site: Site) -> None:
    assert [await sign(site, WRONG) for _ in range(2)] == [6, 6]
    assert await sign(site) == 0
    assert await sign(site, WRONG) == 6  # the third: from here on it waits; the success above forgave nothing
    for wait_s in (2, 4, 8, 10, 10):
        answer = await client(site).call("signData", **NAMES, **DATA)
        assert (answer.code, answer.headers["Retry-After"]) == (6, str(wait_s))
        site.steady[0] += wait_s * 1000 - 1
        assert await sign(site) == 6
        site.steady[0] += 1
        assert await sign(site, WRONG) == 6  # looked at, and wrong
    site.steady[0] += 10_000
    assert await sign(site) == 0
    site.steady[0] += 10 * 60_000
    assert [await sign(site, WRONG) for _ in range(2)] == [6, 6]
    assert await sign(site) == 0  # all of it is forgotten by then


async def test_many_at_once_do_not_get_round_the_wait(site: Site) -> None:
    codes = await asyncio.gather(*(sign(site, WRONG) for _ in range(20)))
    assert set(codes) == {6}
    assert len(await site.world.audit_rows("key.code")) == 3
    assert await sign(site) == 6


async def test_every_wrong_code_is_audited_and_no_code_is_written_down(site: Site) -> None:
    for _ in range(5):
        await sign(site, WRONG)
    site.steady[0] += 2_000
    await sign(site, WRONG)
    rows = await site.world.audit_rows("key.code")
    assert [(row.actor, row.subject, row.outcome) for row in rows] == [("svs", "k", "key_value")] * 4
    told = [json.loads(row.detail) for row in rows]
    assert [row["failures"] for row in told] == [1, 2, 3, 4]
    assert [row["ignored"] for row in told] == [0, 0, 0, 2]
    assert "wrong" not in "".join(row.detail for row in rows)


async def test_indexes_that_nobody_has_are_counted_together(site: Site) -> None:
    assert [await sign(site, {**NAMES, "keyIndex": n}) for n in range(10, 20)] == [5] * 10
    assert len(await site.world.audit_rows("key.index")) == 3
    assert await sign(site) == 0  # and hold up nobody else


async def test_another_keys_code_is_not_this_keys(site: Site) -> None:
    await site.key("other", index=2, code=b"another code")
    assert await sign(site, {**NAMES, "keyIndex": 2}) == 6
    assert await sign(site, {**NAMES, "keyIndex": 2, "keyValue": b"another code"}) == 0
    await site.key("closed", index=3)  # has no code: nothing opens it
    assert [await sign(site, {**NAMES, "keyIndex": 3, "keyValue": code}) for code in (b"x", bytes(32))] == [6, 6]


async def test_a_code_changed_by_another_process_counts_at_once(site: Site) -> None:
    assert await sign(site) == 0
    statement = (
        "from core.store import keys; from signer.signing.svs_keys import code_digest; from core.clock import "
        "system_clock\n"
        "        async with world.database.write() as c: await keys.set_service(c, 'k', 7, code_digest('k', b'new'), "
        "None, at_ms=system_clock())"
    )
    await in_another_process(site.world.directory, statement)
    assert await sign(site) == 5
    assert await sign(site, {**NAMES, "keyIndex": 7}) == 6
    assert await sign(site, {**NAMES, "keyIndex": 7, "keyValue": b"new"}) == 0


async def test_a_key_of_another_purpose_is_none(site: Site) -> None:
    await site.world.engine.create_key("ca", KeyPurpose.CERTIFICATE, "owner", "test")
    async with site.world.database.write() as connection:
        await keys.set_service(connection, "ca", 4, code_digest("ca", CODE), None, at_ms=system_clock())
    assert await sign(site, {**NAMES, "keyIndex": 4}) == 5


async def test_a_code_as_text_is_taken_too(site: Site) -> None:
    for written in ("Code-of-Key-1", "Q29kZS1vZi1LZXktMQ=="):
        for mapping in ("json", "form"):
            answer = await client(site, mapping).call("signData", **{**NAMES, "keyValue": written}, **DATA)
            assert answer.code == 0


async def test_a_token_where_a_setting_asks_for_one(tmp_path: Path) -> None:
    async with open_site(tmp_path, svs=SvsSettings(require_token=True)) as site:
        await site.key("k", index=1, code=CODE)
        assert site.client is not None
        for token, status in ((None, 401), ("read", 403)):
            headers = {} if token is None else {"Authorization": token}
            async with site.client.post("/SignServer/SignData", data=b"{}", headers=headers) as response:
                assert response.status == status
        answer = await client(site, token="sign").call("signData", **NAMES, **DATA)
        assert answer.code == 0
        assert (await client(site, token="sign").call("signData", **WRONG, **DATA)).code == 6


async def test_turned_off_it_is_not_there(tmp_path: Path) -> None:
    async with open_site(tmp_path, svs=SvsSettings(enabled=False)) as site:
        assert site.client is not None
        async with site.client.post("/SignServer/SignData", data=b"") as response:
            assert response.status == 404


# ---- sessions


async def begin(site: Site, **members: Any) -> tuple[int, bytes]:
    answer = await client(site).call("signDataInit", signMethod=SGD_SM3_SM2, **members)
    return answer.status, answer.octets("SessionID") if answer.code == 0 else b""


async def test_sessions_are_bounded_in_number_and_end_when_idle(site: Site) -> None:
    began = [await begin(site) for _ in range(4)]
    assert len({session for _, session in began}) == 4
    assert await begin(site) == (503, b"")
    site.steady[0] += 50_000
    kept = began[0][1]
    assert (await client(site).call("signDataUpdate", SessionID=kept, **DATA)).code == 0
    site.steady[0] += 11_000
    assert (await client(site).call("signDataUpdate", SessionID=began[1][1], **DATA)).code == 0xD
    assert (await client(site).call("signDataUpdate", SessionID=kept, **DATA)).code == 0
    assert [(await begin(site))[0] for _ in range(4)] == [200, 200, 200, 503]


async def test_sessions_are_bounded_in_bytes(site: Site) -> None:
    piece = {"inData": bytes(30_000), "inDataLen": 30_000}
    point = sm2.PrivateKey.generate().public_key.to_bytes()
    _, hashed = await begin(site, signerPublicKey=point)
    codes = [(await client(site).call("signDataUpdate", SessionID=hashed, **piece)).code for _ in range(4)]
    assert codes == [0, 0, 0, 0xD]
    (_, first), (_, second) = await begin(site), await begin(site)
    assert (await client(site).call("signDataUpdate", SessionID=first, **piece)).code == 0
    answer = await client(site).call("signDataUpdate", SessionID=second, **piece)  # what is kept is kept for all
    assert (answer.code, answer.status) == (0xE, 503)
    assert (await client(site).call("signDataFinal", SessionID=first, keyIndex=1, keyValue=CODE)).code == 0
    assert (await client(site).call("signDataUpdate", SessionID=second, **piece)).code == 0


@pytest.mark.parametrize("user_id", [b"", b"1234567812345678", bytes(8_191)])
def test_z_is_that_of_the_native_core(user_id: bytes) -> None:
    from signer._native import sm3

    public = sm2.PrivateKey.generate().public_key
    assert sm3.sm3(z_value(public.to_bytes(), user_id) + b"m") == public.digest(b"m", user_id=user_id)


# ---- the store


async def test_what_the_store_refuses(site: Site) -> None:
    second = await site.key("second")
    async with site.world.database.write() as connection:

        async def set_service(key_id: str, *values: Any) -> None:
            await keys.set_service(connection, key_id, *values, at_ms=system_clock())

        for key_id, values, error, code in [
            ("none", (5, None, None), NotFound, "key_unknown"),
            ("second", (-1, None, None), Refused, "service_index"),
            ("second", (1 << 31, None, None), Refused, "service_index"),
            ("second", (None, bytes(32), None), Refused, "service_code"),
            ("second", (5, b"short", None), Refused, "service_code"),
            ("k", (1, None, second.certificate), Refused, "key_certificate"),
            ("k", (1, None, b"junk"), Malformed, "der"),
        ]:
            with pytest.raises(error) as caught:
                await set_service(key_id, *values)
            assert caught.value.code == code
    with pytest.raises(Conflict) as conflict:
        async with site.world.database.write() as connection:
            await keys.set_service(connection, "second", 1, None, None, at_ms=system_clock())
    assert conflict.value.code == "service_index"
    async with site.world.database.write() as connection:
        record = await keys.set_service(connection, "k", None, None, None, at_ms=system_clock())
    assert (record.service_index, record.service_code, record.certificate) == (None, None, None)
    assert await sign(site) == 5


def test_codes_are_long_and_differ() -> None:
    codes = {make_code() for _ in range(100)}
    assert len(codes) == 100
    assert all(len(code) == 40 for code in codes)
    assert code_digest("a", b"b") != code_digest("ab", b"")
