"""Messages of GM/T 0014 made and taken apart by hand, authorities to send them, and a centre to answer.

The DER here is written out on purpose: nothing of signer.kmc makes or reads what these tests send and get.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core.asn1 import x509 as codec
from core.asn1.names import build_name
from core.store import kmc_served
from core.store.database import Database
from signer._native import sm2, sm3
from signer.engine.master import SoftwareMaster
from signer.holders.settings import HolderSettings
from signer.issuance.desk import Desk, DeskSettings, make_desk
from signer.issuance.profiles import load_profiles
from signer.issuance.settings import KmcSettings
from signer.kmc.centres import Centres
from signer.kmc.server import KmcServer
from signer.kmc.settings import CentreSettings
from tests.holder_world import SETTINGS, desk_on
from tests.issuance_support import Installation, installation
from tests.judges.der import Tlv, whole

WINDOW_MS = 300_000


def tlv(tag: int, *contents: bytes) -> bytes:
    body = b"".join(contents)
    if len(body) < 128:
        return bytes((tag, len(body))) + body
    size = (len(body).bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + len(body).to_bytes(size, "big") + body


def seq(*contents: bytes) -> bytes:
    return tlv(0x30, *contents)


def integer(value: int) -> bytes:
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octets(value: bytes) -> bytes:
    return tlv(4, value)


def time_of(at: datetime) -> bytes:
    return tlv(0x18, at.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode())


#: AlgorithmIdentifiers, from their published octets.
EC_KEY = bytes.fromhex("301306072A8648CE3D020106082A811CCF5501822D")
SM2_ENCRYPT = bytes.fromhex("300B06092A811CCF5501822D03")
SM4 = seq(bytes.fromhex("06072A811CCF550168"))
SM4_ECB = seq(bytes.fromhex("06082A811CCF55016801"))
SM3 = seq(bytes.fromhex("06082A811CCF55018311"))
SM3_SM2 = seq(bytes.fromhex("06082A811CCF55018375"))


def spki(key: bytes) -> bytes:
    return seq(EC_KEY, tlv(3, b"\0" + key))


@dataclass
class Party:
    """An authority or a centre: a key, and a certificate for it signed by itself, or for another key (`certified`)."""

    name: str = "粤港测试签发"
    key: sm2.PrivateKey = field(default_factory=sm2.PrivateKey.generate)
    serial: int = 0x4711
    days: int = 3650
    certified: bytes | None = None

    def __post_init__(self) -> None:
        subject = build_name({"C": "CN", "O": "测试", "CN": self.name}).public_bytes()
        now = datetime.now(UTC)
        begin, end = now - timedelta(days=30), now + timedelta(days=self.days)
        times = seq(*(tlv(0x17, at.strftime("%y%m%d%H%M%SZ").encode()) for at in (begin, end)))
        tbs = seq(
            tlv(0xA0, integer(2)),
            integer(self.serial),
            SM3_SM2,
            subject,
            times,
            subject,
            spki(self.certified or self.public_key),
        )
        self.subject = subject
        self.certificate = seq(tbs, SM3_SM2, tlv(3, b"\0" + self.sign(tbs)))

    @property
    def public_key(self) -> bytes:
        return self.key.public_key.to_bytes()

    def sign(self, message: bytes) -> bytes:
        return sm2.signature_to_der(self.key.sign(message))

    def scalar(self) -> bytes:
        return scalar_of(self.key)

    def entity(self) -> bytes:
        """EntName."""
        return seq(SM3, tlv(0xA4, self.subject), octets(sm3.sm3(self.public_key)), integer(self.serial))

    def question(
        self,
        *requests: bytes,
        task: int,
        at: datetime | None = None,
        entity: bytes | None = None,
        version: int = 1,
        signature: bytes | None = None,
    ) -> bytes:
        """CARequest."""
        body = seq(
            integer(version),
            entity or self.entity(),
            seq(*requests),
            time_of(at or datetime.now(UTC)),
            integer(task),
        )
        return seq(body, SM3_SM2, octets(self.sign(body) if signature is None else signature))


def apply_request(
    number: int,
    recipient: bytes,
    *,
    explicit: bool = False,
    algorithms_: Iterable[bytes] = (SM2_ENCRYPT, SM4_ECB, SM3),
    bits: int = 256,
    days: int = 365,
    extra: bytes = b"",
) -> bytes:
    """ApplyKeyReq."""
    now = datetime.now(UTC)
    user = seq(integer(number), spki(recipient), time_of(now), time_of(now + timedelta(days=days)), extra)
    contents = EC_KEY + integer(bits) + b"".join(algorithms_) + user
    return tlv(0xA0, seq(contents) if explicit else contents)


def restore_request(number: int, recipient: bytes) -> bytes:
    """RestoreKeyReq."""
    return tlv(0xA1, SM2_ENCRYPT, SM4_ECB, SM3, integer(number), spki(recipient))


def revoke_request(number: int) -> bytes:
    """RevokeKeyReq."""
    return tlv(0xA2, integer(number))


@dataclass
class Answered:
    """A KMRespond taken apart. `items`: (tag, elements of the contents)."""

    items: list[tuple[int, list[Tlv]]]
    task: int
    at: datetime
    explicit: bool

    @classmethod
    def of(cls, message: bytes, centre: Party) -> Answered:
        """Raises AssertionError where it is not the centre's, or not in the standard's shape."""
        body, algorithm, signature = whole(message).children()
        assert algorithm.encoded == SM3_SM2
        centre.key.public_key.verify(body.encoded, sm2.signature_from_der(signature.content))
        version, name, listed, at, task = body.children()
        assert (version.content, name.encoded) == (b"\1", centre.entity())
        items, explicit = [], False
        for item in listed.children():
            parts = item.children()
            if len(parts) == 1 and parts[0].tag == 0x30:
                parts, explicit = parts[0].children(), True
            items.append((item.tag, parts))
        when = datetime.strptime(at.content.decode(), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
        return cls(items, int.from_bytes(task.content, "big"), when, explicit)

    @property
    def error(self) -> int:
        """errNo of the only answer."""
        ((tag, parts),) = self.items
        assert tag == 0xA3, hex(tag)
        return int.from_bytes(parts[0].content, "big")

    def key(self, place: int, user: sm2.PrivateKey, centre: Party) -> sm2.PrivateKey:
        """The private key that was returned, as its user opens it, everything checked on the way."""
        _, (_, public, sealed) = self.items[place]
        version, recipients, digests, content, certificates, signers = sealed.children()
        assert (version.content, digests.content, certificates.content) == (b"\1", SM3, centre.certificate)
        (recipient,) = recipients.children()
        _, _, encryption, encrypted = recipient.children()
        assert encryption.encoded == SM2_ENCRYPT
        sym = user.decrypt(encrypted.content)
        _, cipher, ciphertext = content.children()
        assert (cipher.encoded, ciphertext.tag, len(sym)) == (SM4_ECB, 0x80, 16)
        opener = Cipher(algorithms.SM4(sym), modes.ECB()).decryptor()
        scalar = opener.update(ciphertext.content) + opener.finalize()
        (signer,) = signers.children()
        _, named, _, _, signature = signer.children()
        assert named.children()[0].encoded == centre.subject
        centre.key.public_key.verify(scalar, sm2.signature_from_der(signature.content))
        key = sm2.PrivateKey.from_bytes(scalar)
        assert spki(key.public_key.to_bytes()) == public.encoded
        return key


class PartyIdentity:
    """A `signer.kmc.identity.Identity` over a party's key."""

    def __init__(self, party: Party) -> None:
        self.party = party

    async def certificate(self) -> bytes:
        return self.party.certificate

    async def sign(self, message: bytes) -> bytes:
        return self.party.sign(message)

    async def sign_digest(self, digest: bytes) -> bytes:
        return sm2.signature_to_der(self.party.key.sign_digest(digest))


@dataclass
class CentreWorld:
    """A centre over a store of its own, and an authority that is registered there as "yue"."""

    world: Installation
    desk: Desk
    server: KmcServer
    centre: Party
    authority: Party

    async def ask(self, *requests: bytes, task: int, **more: object) -> Answered:
        """The authority's question, answered."""
        message = self.authority.question(*requests, task=task, **more)  # type: ignore[arg-type]
        return await self.answer(message)

    async def answer(self, message: bytes) -> Answered:
        """A message, answered."""
        return Answered.of(await self.server.answer(message, "token:test"), self.centre)


@asynccontextmanager
async def centre_in(directory: Path, database: Database | None = None) -> AsyncIterator[CentreWorld]:
    """See CentreWorld."""
    async with installation(directory, database=database) as world:
        desk = desk_on(world, spare_keys=8)
        centre, authority = Party("省密钥管理中心", serial=0x1234), Party()
        async with world.database.write() as connection:
            await kmc_served.add_authority(connection, "yue", authority.certificate, at_ms=world.clock())
        server = KmcServer(world.database, desk.keys, PartyIdentity(centre), world.clock, WINDOW_MS)
        try:
            yield CentreWorld(world, desk, server, centre, authority)
        finally:
            await desk.close()


class FaultyCentre:
    """The centre behind HTTP, doing as told: `faults` are taken in order, one a message; none left: it answers.

    before: closes the connection unasked. after: does it all, and closes before the answer. status: 503. garbage: other
    octets. other: an answer signed by somebody else. old: the answer to the message before.
    """

    def __init__(self, world: CentreWorld) -> None:
        self.world = world
        self.faults: list[str] = []
        self.asked = 0
        self.url = ""
        self.tokens: list[str | None] = []
        self._last = b"none yet"

    async def _answer(self, request: web.Request) -> web.Response:
        message = await request.read()
        self.asked += 1
        self.tokens.append(request.headers.get("Authorization"))
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "before":
            self._close(request)
        if fault == "status":
            return web.Response(status=503)
        old = self._last
        self._last = answer = await self.world.server.answer(message, "token:test")
        if fault == "after":
            self._close(request)
        if fault == "garbage":
            answer = os.urandom(len(answer))
        if fault == "old":
            answer = old
        if fault == "other":
            body = whole(answer).children()[0].encoded
            answer = seq(body, SM3_SM2, octets(Party("另一中心").sign(body)))
        return web.Response(body=answer)

    @staticmethod
    def _close(request: web.Request) -> None:
        assert request.transport is not None
        request.transport.abort()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[FaultyCentre]:
        application = web.Application(client_max_size=1 << 20)
        application.add_routes([web.post("/v1/kmc", self._answer)])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/kmc"
            yield self
        finally:
            await runner.cleanup()


@asynccontextmanager
async def asking_desk(
    world: Installation, faulty: FaultyCentre, directory: Path, **settings: object
) -> AsyncIterator[Desk]:
    """A desk whose issuing authority has its keys from the centre."""
    file = directory / "centre.der"
    file.write_bytes(faulty.world.centre.certificate)
    values = {"timeout_s": 20.0, "open_after": 100, "attempts": 1, **settings}
    one = CentreSettings.model_validate(
        {"name": "province", "authorities": ["issuing"], "url": faulty.url, "certificate": str(file), **values}
    )
    identity = PartyIdentity(faulty.world.authority)
    centres = Centres.from_settings([one], Path, identity, world.database, world.clock)
    wanted = DeskSettings(SETTINGS, KmcSettings(spare_keys=0), HolderSettings())
    master = SoftwareMaster(world.keystore)
    desk = make_desk(*(world.database, world.signer_for, master, load_profiles(), wanted, world.clock), centres=centres)
    try:
        yield desk
    finally:
        await desk.close()


def number() -> int:
    """A certificate number nobody has."""
    return int.from_bytes(b"\x11" + os.urandom(15), "big")


def scalar_of(key: sm2.PrivateKey) -> bytes:
    """The private key in the clear, for judges."""
    out = bytearray(32)
    key.export_into(out)
    return bytes(out)


def new_user() -> tuple[sm2.PrivateKey, bytes]:
    """A user's signing key, and its public key."""
    key = sm2.PrivateKey.generate()
    return key, key.public_key.to_bytes()


def subject_of(certificate: bytes) -> str:
    """The subject, for messages of assertions."""
    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()


def public_key_of_request(request: bytes) -> bytes:
    """The point in a PKCS#10 request."""
    return whole(request).children()[0].children()[2].children()[1].content[1:]


def public_key_of(certificate: bytes) -> bytes:
    """The certified point."""
    return codec.public_key_of_certificate(certificate)
