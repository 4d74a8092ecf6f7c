"""Status sets by a key that the authority has certified for it: made, renewed, ended, revoked; what readers refuse."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509

from core import oids
from core.asn1.x509 import Extension, load_certificate
from core.clock import from_datetime
from core.errors import NotFound, Refused
from core.model import KeyPurpose, KeyState
from core.store import authorities, keys
from core.store.keys import KeyRecord
from qianyan_status import Status, StatusSetError, load
from qianyan_status._file import split
from signer.engine.verify import verify_signature
from signer.issuance import template
from signer.issuance.set_signer import certify_set_signer, remove_set_signer, renew_set_signer
from status.set.format import PURPOSE_SIGNER, join
from status.set.service import StatusSetService
from status.set.settings import StatusSetSettings
from tests.crl_world import DAY_MS, KeySigner
from tests.running import Installation, Service
from tests.set_world import SetWorld, leaf, open_set_world


class AwayKey(RuntimeError):
    """The authority's key was asked for, which is not there."""


def key_away(key_id: str) -> KeySigner:
    raise AwayKey(key_id)


class Delegated:
    """A world whose authority has a signer for its sets; its service reaches no other key."""

    def __init__(self, world: SetWorld) -> None:
        self.world = world
        self.key = KeySigner("set-issuing")
        self.service = StatusSetService(
            world.database,
            world.follower,
            key_away,
            verify_signature,
            world.clock,
            StatusSetSettings(),
            index_oid=oids.STATUS_INDEX_DEFAULT,
            delegate_for=lambda _: self.key,
        )

    async def certify(self, days: int = 365) -> bytes:
        world = self.world
        return await certify_set_signer(
            *(world.database, world.signer, world.clock, "test"), authority_id="issuing", name={"CN": "set"}, days=days
        )

    async def renew(self) -> bytes | None:
        world = self.world
        return await renew_set_signer(world.database, world.signer, world.clock, "test", authority_id="issuing")


@pytest_asyncio.fixture
async def delegated(tmp_path: Path) -> AsyncIterator[Delegated]:
    async with open_set_world(tmp_path) as world:
        made = Delegated(world)
        now_ms = world.clock()
        record = KeyRecord(
            "set-issuing", KeyPurpose.STATUS_SET, KeyState.ACTIVE, made.key.public_key, "authority", now_ms, now_ms
        )
        async with world.database.write() as connection:
            await keys.add(connection, record)
        yield made


async def test_sets_and_deltas_need_the_authoritys_key_no_more(delegated: Delegated) -> None:
    world = delegated.world
    made = await delegated.certify()
    (serial, encoded), (_, other) = await world.issue_many(2, encoded=True)
    await delegated.service.build("issuing")
    await world.revoke(serial)
    world.clock.now_ms += 60_000
    await delegated.service.build("issuing")
    published = await world.published()
    assert published.delta.number > published.base.number + 1
    for body in (published.base.body, published.delta.body):
        assert split(body).signer == made
    loaded = world.load(published)
    assert loaded.query(encoded).status is Status.REVOKED
    assert loaded.query(other).status is Status.GOOD
    assert loaded.query(made).status is Status.GOOD, "the signer's own certificate is one of the authority's"
    purposes = load_certificate(made).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [one.dotted_string for one in purposes] == [template.SET_SIGNING] == [PURPOSE_SIGNER]
    with pytest.raises(x509.ExtensionNotFound):
        load_certificate(made).extensions.get_extension_for_class(x509.OCSPNoCheck)


async def test_it_is_renewed_before_its_end(delegated: Delegated) -> None:
    """The set of the old certificate goes on with deltas of the new one."""
    world = delegated.world
    first = await delegated.certify(days=40)
    await delegated.service.build("issuing")
    assert await delegated.renew() is None
    world.clock.now_ms += 11 * DAY_MS
    second = await delegated.renew()
    assert second is not None
    assert second != first
    await delegated.service.build("issuing")
    published = await world.published()
    assert split(published.delta.body).signer == second
    assert world.load(published).query(second).status is Status.GOOD
    async with world.database.read() as connection:
        authority = await authorities.get(connection, "issuing")
    assert (authority.set_key_id, authority.set_certificate) == ("set-issuing", second)


async def test_nothing_outlives_its_signer(delegated: Delegated) -> None:
    """nextUpdate is not past the certificate's end, and past that nothing is signed, by nobody else either."""
    world = delegated.world
    made = await delegated.certify(days=1)
    end_ms = from_datetime(load_certificate(made).not_valid_after_utc)
    world.clock.now_ms = end_ms - 3_600_000
    await delegated.service.build("issuing")
    assert (await world.published()).delta.next_update_ms == end_ms
    world.clock.now_ms = end_ms + 1000
    with pytest.raises(Refused) as refused:
        await delegated.service.build("issuing")
    assert refused.value.code == "set_signer_expired"
    await delegated.certify()
    await delegated.service.build("issuing")


async def test_a_revoked_signer_signs_nothing_and_is_replaced(delegated: Delegated) -> None:
    world = delegated.world
    made = await delegated.certify()
    await delegated.service.build("issuing")
    await world.revoke(load_certificate(made).serial_number)
    with pytest.raises(Refused) as refused:
        await delegated.service.build("issuing", whole=True)
    assert (refused.value.code, "signer is revoked" in str(refused.value)) == ("set_unreadable", True)
    await remove_set_signer(world.database, world.clock, "test", authority_id="issuing")
    with pytest.raises(AwayKey):
        await delegated.service.build("issuing", whole=True)
    await world.service.build("issuing", whole=True)  # which has the authority's key
    published = await world.published()
    assert split(published.base.body).signer is None
    assert world.load(published).query(made).status is Status.REVOKED
    with pytest.raises(NotFound):
        await remove_set_signer(world.database, world.clock, "test", authority_id="issuing")


async def test_a_key_of_another_purpose_is_none(tmp_path: Path) -> None:
    async with open_set_world(tmp_path) as world:
        made = Delegated(world)
        with pytest.raises(NotFound):
            await made.certify()
        now_ms = world.clock()
        record = KeyRecord("set-issuing", KeyPurpose.OCSP, KeyState.ACTIVE, made.key.public_key, "x", now_ms, now_ms)
        async with world.database.write() as connection:
            await keys.add(connection, record)
        with pytest.raises(Refused) as refused:
            await made.certify()
        assert refused.value.code == "key_purpose"


def usages(*dotted: str) -> Extension:
    return Extension.of(x509.ExtendedKeyUsage([x509.ObjectIdentifier(one) for one in dotted]))


def key_usage(*, digital_signature: bool) -> Extension:
    others = (False, not digital_signature, False, False, False, False, False, False)
    return Extension.of(x509.KeyUsage(digital_signature, *others), critical=True)


async def test_what_a_reader_refuses_of_a_signer(delegated: Delegated) -> None:
    """Everything but a certificate of this authority's, for this purpose, in force when the set was made."""
    world, key = delegated.world, delegated.key
    await delegated.certify()
    await delegated.service.build("issuing")
    tbs = split((await world.published()).base.body).tbs
    now_ms = world.clock() // 1000 * 1000
    stranger = KeySigner("stranger")

    def code(**changed: object) -> str:
        values: dict[str, object] = {
            "by": world.signer,
            "serial": 99,
            "not_before_ms": now_ms,
            "not_after_ms": now_ms + DAY_MS,
            "place": None,
            "more": (usages(PURPOSE_SIGNER), key_usage(digital_signature=True)),
            "key": key.public_key,
            **changed,
        }
        signature = values.pop("signature", None) or key.sign_now(tbs)
        certificate = values.pop("certificate", None) or leaf(**values)  # type: ignore[arg-type]
        body = join(tbs, signature, certificate)  # type: ignore[arg-type]
        try:
            load(body, issuer=world.issuer, verify=verify_signature, clock=lambda: now_ms // 1000)
        except StatusSetError as error:
            return error.code
        return "taken"

    assert code() == "taken"
    assert code(more=(usages("1.3.6.1.5.5.7.3.9", PURPOSE_SIGNER),)) == "taken"
    assert code(more=(usages("1.3.6.1.5.5.7.3.9"),)) == "signer"
    assert code(more=(usages("2.5.29.37.0"),)) == "signer"
    assert code(more=()) == "signer"
    assert code(more=(usages(PURPOSE_SIGNER), key_usage(digital_signature=False))) == "signer"
    assert code(not_before_ms=now_ms + 1000) == "signer"
    assert code(not_before_ms=now_ms - DAY_MS, not_after_ms=now_ms - 1000) == "signer"
    assert code(not_after_ms=now_ms) == "taken"
    assert code(by=stranger) == "signature"
    assert code(by=key) == "signature"
    assert code(signature=stranger.sign_now(tbs)) == "signature"
    assert code(signature=world.signer.sign_now(tbs)) == "signature"
    assert code(certificate=world.issuer) == "signer"


def served(service: Service, holds: Callable[[bytes | None], bool]) -> bytes:
    """The set that is served once its signer's certificate is as asked for."""
    deadline = time.monotonic() + 120
    while True:
        answer = service.get("/set/issuing.set")
        if answer.status == 200 and holds(split(answer.body).signer):
            return answer.body
        assert time.monotonic() < deadline, answer
        threading.Event().wait(0.1)


def test_the_command_and_the_service(tmp_path: Path) -> None:
    """A running service takes it up; one that starts with 20 days left renews it. Sets have its certificate."""
    installation = Installation(tmp_path / "var").made()
    installation.set("status_set", "issued_s = 0.0")
    with Service(installation) as service:
        served(service, lambda signer: signer is None)
        made = installation.run("ca", "set-signer", "--days", "20", "--json")
        assert made.status == 0, made.stderr
        assert made.json["key"] == "set-issuing"
        deadline = time.monotonic() + 180  # its issuance alone makes a delta due
        delta = service.get("/set/issuing-delta.set").body
        while (signer := split(delta).signer) is None:
            assert time.monotonic() < deadline, delta
            threading.Event().wait(0.1)
            delta = service.get("/set/issuing-delta.set").body
        body = served(service, lambda _: True)
        issuer = service.get("/ca/issuing.cer").body
        assert load_certificate(signer).subject.rfc4514_string() == "CN=Status set signer"
        assert load(body, delta, issuer=issuer, verify=verify_signature).query(signer).status is Status.GOOD
    key = next(one for one in installation.run("key", "list", "--json").json if one["id"] == "set-issuing")
    assert key["purpose"] == "status_set"
    with Service(installation) as service:
        deadline = time.monotonic() + 120
        while True:
            (row,) = [one for one in installation.run("ca", "list", "--json").json if one["id"] == "issuing"]
            if row["set_signer_not_after"] > made.json["not_after"]:
                break
            assert time.monotonic() < deadline, row
    removed = installation.run("ca", "set-signer", "--remove", "--json")
    assert removed.json == {"authority": "issuing", "key": None, "not_after": None}
