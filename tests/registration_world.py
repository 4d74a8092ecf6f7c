"""A registration authority to sign requests for: its people with keys and certificates, and messages of every kind.

The messages are made here by the store's own encoder or, where a test wants them wrong, by hand; the client library and
BouncyCastle make theirs in tests of their own.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from core import oids
from core.asn1 import der
from core.clock import system_clock, to_datetime
from core.errors import QianyanError
from core.store.database import Database, open_database
from signer._native import sm2, sm3
from signer.issuance.desk import Desk
from signer.issuance.issuer import Issuer
from signer.issuance.profiles import load_profiles
from signer.registration.office import Office, make_office
from signer.registration.records import PersonWish, RaWish
from signer.registration.roles import Role
from signer.registration.settings import RegistrationSettings
from signer.signing.cms import IssuerAndSerial, SignedData, SignerInfo
from tests.holder_world import SETTINGS, credit_code, desk_on
from tests.issuance_support import (
    Installation,
    Request,
    SettableClock,
    installation,
    keystore_in,
    local_signers,
    subject_of,
)

_ids = itertools.count(1)
ACTOR = "cli:test"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Signer:
    """Somebody with a key and a certificate (DER)."""

    key: sm2.PrivateKey = field(default_factory=sm2.PrivateKey.generate)
    certificate: bytes = b""

    def csr(self, name: str = "经办员") -> bytes:
        """A request for a certificate of the key."""
        return Request(subject_of({"C": "CN", "O": "登记处", "CN": name}), key=self.key).encode()


def attribute(dotted: str, value: bytes) -> bytes:
    """Attribute ::= SEQUENCE { type, SET OF value }."""
    return der.sequence(der.oid(dotted), der.tlv(der.SET, value))


def signer_info(
    signer: Signer, content: bytes, at_ms: int, *, more: Iterable[bytes] = (), timed: bool = True
) -> SignerInfo:
    """A signer's, with the attributes that are asked for."""
    attributes = [
        attribute(oids.CONTENT_TYPE, der.oid(oids.GM_DATA)),
        attribute(oids.MESSAGE_DIGEST, der.octet_string(sm3.sm3(content))),
        *([attribute(oids.SIGNING_TIME, der.x509_time(to_datetime(at_ms)))] if timed else []),
        *more,
    ]
    encoded = b"".join(sorted(attributes))
    signature = sm2.signature_to_der(signer.key.sign(der.tlv(der.SET, encoded)))
    return SignerInfo(IssuerAndSerial.of_certificate(signer.certificate), signature, encoded, sm3.sm3(content))


def message(content: bytes, signers: Sequence[Signer], *, at_ms: int | None = None) -> bytes:
    """SignedData over `content`."""
    at = system_clock() if at_ms is None else at_ms
    infos = tuple(signer_info(signer, content, at) for signer in signers)
    return SignedData(content, infos, tuple({signer.certificate: None for signer in signers})).encode()


def content_of(
    kind: str, payload: dict[str, Any], *, request_id: str | None = None, ra: str = "gz", **more: Any
) -> bytes:
    """The JSON that is signed."""
    value = {"version": 1, "request_id": request_id or f"r-{next(_ids)}", "ra": ra, "kind": kind, "payload": payload}
    return json.dumps(value | more, ensure_ascii=False).encode()


def rejection(content: bytes, reason: str) -> bytes:
    """The JSON of a rejection of the request that `content` is."""
    body = json.loads(content)
    named = {name: body[name] for name in ("version", "request_id", "ra")}
    return json.dumps(named | {"decision": "reject", "reason": reason}, ensure_ascii=False).encode()


def holder(number: str | None = None, **more: str) -> dict[str, str]:
    """A holder that no other test has."""
    return {"kind": "organisation", "number": number or credit_code(), "name": "粤港测试有限公司", **more}


def issue_payload(request: Request | None = None, **more: Any) -> dict[str, Any]:
    """What an issue asks for."""
    csr = b64((request or Request()).encode())
    return {"csr": csr, "profile": "organisation", "holder": holder(), **more}


@dataclass
class World:
    """An installation with an office, the authority "gz" and its people."""

    installation: Installation
    desk: Desk
    office: Office
    people: dict[str, Signer] = field(default_factory=dict)

    @property
    def operator(self) -> Signer:
        return self.people["li"]

    @property
    def approver(self) -> Signer:
        return self.people["wang"]

    async def appoint(self, person: str, *roles: Role, ra: str = "gz", signer: Signer | None = None) -> Signer:
        """A person with a certificate issued here."""
        signer = signer or Signer()
        wish = PersonWish(person, "李小龙", frozenset(roles), csr=signer.csr(person))
        made = await self.office.administration.appoint(ra, wish, actor=ACTOR)
        assert made.issued is not None
        signer.certificate = made.issued.certificates[0].der
        self.people[person] = signer
        return signer

    async def submit(self, content: bytes, *signers: Signer, at_ms: int | None = None) -> tuple[int, dict[str, Any]]:
        """Status and members; of a refusal its kind's name and code."""
        signers = signers or (self.operator, self.approver)
        return await self.send(message(content, signers, at_ms=at_ms))

    async def send(self, encoded: bytes) -> tuple[int, dict[str, Any]]:
        """A message as it is."""
        try:
            answered = await self.office.requests.submit(encoded, source="192.0.2.1")
        except QianyanError as error:
            return 0, {"code": error.code, "kind": error.kind, "detail": error.detail}
        return answered.status, answered.members

    async def approve(self, content: bytes, signer: Signer, *, at_ms: int | None = None) -> tuple[int, dict[str, Any]]:
        """The approval of the request that `content` is."""
        body = json.loads(content)
        try:
            encoded = message(content, [signer], at_ms=at_ms)
            answered = await self.office.requests.approve(body["ra"], body["request_id"], encoded, source="192.0.2.1")
        except QianyanError as error:
            return 0, {"code": error.code, "kind": error.kind, "detail": error.detail}
        return answered.status, answered.members

    async def reject(self, content: bytes, signer: Signer, reason: str = "缺少材料") -> tuple[int, dict[str, Any]]:
        """The rejection of the request that `content` is."""
        body = json.loads(content)
        try:
            encoded = message(rejection(content, reason), [signer])
            answered = await self.office.requests.reject(body["ra"], body["request_id"], encoded, source="192.0.2.1")
        except QianyanError as error:
            return 0, {"code": error.code, "kind": error.kind, "detail": error.detail}
        return answered.status, answered.members


def office_on(
    world: Installation,
    desk: Desk,
    settings: RegistrationSettings | None = None,
    registry: CollectorRegistry | None = None,
    **more: Any,
) -> Office:
    """Another process's office over the same store, as far as that can be told."""
    chosen = settings or RegistrationSettings(refusals_per_minute=6000)
    return make_office(world.database, desk, load_profiles(), chosen, SETTINGS, world.clock, registry=registry, **more)


EVERYTHING = RaWish(name="广州登记处", profiles=("*",), regions=("*",), customers=("*",))


async def _populate(world: World) -> None:
    """li enters, wang and chen approve, zhou is for courts, wu audits."""
    await world.office.administration.register("gz", EVERYTHING, actor=ACTOR)
    await world.appoint("li", Role.OPERATOR)
    await world.appoint("wang", Role.APPROVER)
    await world.appoint("chen", Role.APPROVER, Role.OPERATOR)
    await world.appoint("zhou", Role.JUDICIAL)
    await world.appoint("wu", Role.AUDITOR)


_templates: list[tuple[Path, dict[str, Signer]]] = []


async def _template() -> tuple[Path, dict[str, Signer]]:
    """A directory with the authority and its people, made once in a process: most tests begin with a copy of it."""
    if not _templates:
        directory = Path(tempfile.mkdtemp(prefix="registration-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        async with installation(directory) as inside:
            desk = desk_on(inside)
            world = World(inside, desk, office_on(inside, desk))
            await _populate(world)
            await desk.close()
        _templates.append((directory, world.people))
    return _templates[0]


@asynccontextmanager
async def _copied(directory: Path) -> AsyncIterator[tuple[Installation, dict[str, Signer]]]:
    """A copy of the template, opened."""
    made, people = await _template()
    await asyncio.to_thread(shutil.copytree, made, directory, dirs_exist_ok=True)
    database = await open_database(f"sqlite+aiosqlite:///{directory}/store.sqlite3")
    keystore = keystore_in(directory / "keys")
    clock, used = SettableClock(), list[str]()
    signer_for = local_signers(keystore, used)
    issuer = Issuer(database, signer_for, keystore, load_profiles(), SETTINGS, clock)
    try:
        yield Installation(directory, database, keystore, clock, signer_for, issuer, used), dict(people)
    finally:
        await database.close()
        keystore.close()


@asynccontextmanager
async def _served(
    inside: Installation, settings: RegistrationSettings | None, people: dict[str, Signer] | None
) -> AsyncIterator[World]:
    desk = desk_on(inside)
    try:
        world = World(inside, desk, office_on(inside, desk, settings), people or {})
        if people is None:
            await _populate(world)
        yield world
    finally:
        await desk.close()


@asynccontextmanager
async def registration_in(
    directory: Path, *, settings: RegistrationSettings | None = None, database: Database | None = None
) -> AsyncIterator[World]:
    """A fresh installation with an authority and its people (see `_populate`); in `database`, where an empty one is
    given."""
    if database is None:
        async with _copied(directory) as (inside, people), _served(inside, settings, people) as world:
            yield world
    else:
        async with installation(directory, database=database) as inside, _served(inside, settings, None) as world:
            yield world
