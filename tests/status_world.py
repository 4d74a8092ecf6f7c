"""A small authority for the tests of `status`: a real store, real certificates, real SM2 keys, a clock that is set.

Root, issuing authority and delegated OCSP signer are made here with the codecs of core, so that these tests do not
lean on `signer.issuance`.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from core import oids
from core.asn1 import der
from core.asn1.names import build_name
from core.asn1.x509 import Extension, join_signed, key_identifier, subject_public_key_info, tbs_certificate
from core.clock import system_clock, to_datetime
from core.errors import QianyanError
from core.model import KeyPurpose, KeyState, RevocationReason
from core.ports import Signer
from core.store import authorities, certificates, keys
from core.store.database import Database
from core.store.follow import FeedFollower
from signer._native import sm2
from status.responder import Responder
from status.settings import OcspSettings
from tests.store_world import create_store

YEAR_MS = 365 * 86_400_000
HASH_OIDS = {
    "sm3": oids.SM3,
    "sha1": oids.SHA1,
    "sha256": oids.SHA256,
    "sha384": oids.SHA384,
    "sha512": oids.SHA512,
}


def digest(algorithm: str, data: bytes) -> bytes:
    """A digest by an algorithm's short name."""
    if algorithm != "sm3":
        return hashlib.new(algorithm, data).digest()
    state = hashes.Hash(hashes.SM3())
    state.update(data)
    return state.finalize()


class KeySigner:
    """`core.ports.Signer` over one native key. Counts; waits while `gate` is closed; refuses with `refusal`."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self._key = sm2.PrivateKey.generate()
        self.public_key: bytes = self._key.public_key.to_bytes()
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusal: QianyanError | None = None
        self.waiting = asyncio.Event()
        self.signed = 0

    def sign_now(self, message: bytes) -> bytes:
        """The DER signature, at once."""
        return sm2.signature_to_der(self._key.sign(message))

    async def sign(self, message: bytes) -> bytes:
        """The DER signature, when the gate is open."""
        self.waiting.set()
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        self.signed += 1
        return self.sign_now(message)


class SetClock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.now_ms = system_clock()

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        """Moves it, forward or back."""
        self.now_ms += round(seconds * 1000)


def certify(
    subject: x509.Name, public_key: bytes, issuer: x509.Name, by: KeySigner, serial: int, *, kind: str, ends_ms: int
) -> bytes:
    """A certificate from yesterday to `ends_ms`; kind: ca, ocsp or sign."""
    key_usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    key_usage |= {"key_cert_sign": True, "crl_sign": True} if kind == "ca" else {"digital_signature": True}
    extensions = [
        Extension.of(x509.BasicConstraints(kind == "ca", None), critical=True),
        Extension.of(x509.KeyUsage(**key_usage), critical=True),
        Extension.of(x509.SubjectKeyIdentifier(key_identifier(public_key))),
        Extension.of(x509.AuthorityKeyIdentifier(key_identifier(by.public_key), None, None)),
    ]
    if kind == "ocsp":
        extensions.append(Extension.of(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])))
        extensions.append(Extension(oids.OCSP_NOCHECK, False, der.null()))
    tbs = tbs_certificate(
        serial=serial,
        issuer=issuer.public_bytes(),
        subject=subject.public_bytes(),
        not_before=to_datetime(system_clock() - 86_400_000),
        not_after=to_datetime(ends_ms),
        spki=subject_public_key_info(public_key),
        extensions=extensions,
    )
    return join_signed(tbs, by.sign_now(tbs))


@dataclass
class Branch:
    """One authority with its delegated OCSP signer, as it is in the store."""

    id: str
    name: x509.Name
    key: KeySigner
    certificate: bytes
    signer: KeySigner
    signer_certificate: bytes

    def cert_id(self, serial: int, algorithm: str = "sm3", *, null: bool = True) -> bytes:
        """A CertID under any hash."""
        return der.sequence(
            der.sequence(der.oid(HASH_OIDS[algorithm]), der.null() if null else b""),
            der.octet_string(digest(algorithm, self.name.public_bytes())),
            der.octet_string(digest(algorithm, self.key.public_key)),
            der.integer(serial),
        )


def request(*cert_ids: bytes, nonce: bytes | None = None, extra: bytes = b"", before: bytes = b"") -> bytes:
    """An OCSPRequest; `extra`: more encoded extensions; `before`: what stands before the list."""
    extensions = extra
    if nonce is not None:
        extensions += Extension(oids.OCSP_NONCE, False, der.octet_string(nonce)).encode()
    tail = der.tlv(der.context(2), der.sequence(extensions)) if extensions else b""
    return der.sequence(der.sequence(before, der.sequence(*(der.sequence(one) for one in cert_ids)), tail))


def read(encoded: bytes) -> ocsp.OCSPResponse:
    """A response as `cryptography` reads it; it must be a successful one."""
    response = ocsp.load_der_ocsp_response(encoded)
    assert response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    return response


def word(single: Any) -> str:
    """good, revoked or unknown."""
    return str(single.certificate_status.name).lower()


class World:
    """Everything the tests need, on one store. `branches` by authority id: issuing and branch."""

    def __init__(self, database: Database, follower: FeedFollower, settings: OcspSettings) -> None:
        self.database = database
        self.follower = follower
        self.clock = SetClock()
        self.signers: dict[str, KeySigner] = {}
        self.branches: dict[str, Branch] = {}
        self.next_serial = 0x1234_5678_9ABC_DEF0
        self.responder = self.new_responder(settings)

    @property
    def issuing(self) -> Branch:
        """The authority that most tests use."""
        return self.branches["issuing"]

    def new_responder(self, settings: OcspSettings) -> Responder:
        """Another responder over the same store."""
        return Responder(self.database, self.follower, self.signer_for, self.clock, settings)

    def signer_for(self, key_id: str) -> Signer:
        """What service hands over."""
        return self.signers[key_id]

    async def new_key(self, key_id: str, purpose: KeyPurpose) -> KeySigner:
        """A key, recorded."""
        signer = self.signers[key_id] = KeySigner(key_id)
        record = keys.KeyRecord(key_id, purpose, KeyState.ACTIVE, signer.public_key, "test", self.clock(), self.clock())
        async with self.database.write() as connection:
            await keys.add(connection, record)
        return signer

    async def add_branch(self, authority_id: str, *, signer_ends_ms: int | None = None) -> Branch:
        """A self-standing authority with an OCSP signer."""
        name = build_name({"C": "CN", "O": "测试机构", "CN": f"Test {authority_id}"})
        key = await self.new_key(authority_id, KeyPurpose.CERTIFICATE)
        ends_ms = self.clock() + 10 * YEAR_MS
        certificate = certify(name, key.public_key, name, key, 1, kind="ca", ends_ms=ends_ms)
        row = authorities.Authority(
            authority_id,
            None,
            key.key_id,
            name.public_bytes(),
            key.public_key,
            certificate,
            None,
            None,
            1,
            self.clock(),
        )
        async with self.database.write() as connection:
            await authorities.add(connection, row)
        branch = self.branches[authority_id] = Branch(authority_id, name, key, certificate, key, certificate)
        await self.set_signer(branch, f"ocsp-{authority_id}", ends_ms=signer_ends_ms)
        return branch

    async def set_signer(self, branch: Branch, key_id: str, *, ends_ms: int | None = None) -> None:
        """Gives the authority a delegated OCSP signer."""
        signer = self.signers.get(key_id) or await self.new_key(key_id, KeyPurpose.OCSP)
        subject = build_name({"C": "CN", "O": "测试机构", "CN": f"OCSP {key_id}"})
        ends_ms = ends_ms or self.clock() + YEAR_MS
        certificate = certify(subject, signer.public_key, branch.name, branch.key, 2, kind="ocsp", ends_ms=ends_ms)
        async with self.database.write() as connection:
            await authorities.set_ocsp_signer(connection, branch.id, key_id, certificate, at_ms=self.clock())
        branch.signer, branch.signer_certificate = signer, certificate

    async def issue(self, authority_id: str = "issuing", serial: int | None = None) -> int:
        """Records a certificate; returns its serial."""
        if serial is None:
            self.next_serial += 1
            serial = self.next_serial
        branch = self.branches[authority_id]
        subject = build_name({"C": "CN", "CN": "张三"})
        ends_ms = self.clock() + YEAR_MS
        encoded = certify(
            subject, branch.signer.public_key, branch.name, branch.key, serial, kind="sign", ends_ms=ends_ms
        )
        async with self.database.write() as connection:
            index = await certificates.take_status_index(connection, authority_id, 24_324)
            new = certificates.NewCertificate(
                authority_id=authority_id,
                serial=serial,
                usage="sign",
                profile="person",
                subject=subject.public_bytes(),
                public_key=branch.signer.public_key,
                not_before_ms=self.clock(),
                not_after_ms=ends_ms,
                partition=0,
                status_month=24_324,
                status_index=index,
                certificate=encoded,
            )
            await certificates.record(connection, new, at_ms=self.clock())
        return serial

    async def certificate(self, serial: int) -> bytes:
        """The DER of an issued certificate."""
        async with self.database.read() as connection:
            return (await certificates.find(connection, serial)).certificate

    async def revoke(
        self,
        serial: int,
        reason: RevocationReason = RevocationReason.KEY_COMPROMISE,
        *,
        invalidity_at_ms: int | None = None,
        database: Database | None = None,
    ) -> None:
        """Revokes or holds, by default through this world's own connection."""
        async with (database or self.database).write() as connection:
            record = await certificates.find(connection, serial)
            await certificates.revoke(connection, record, reason, at_ms=self.clock(), invalidity_at_ms=invalidity_at_ms)

    async def release(self, serial: int) -> None:
        """Ends a hold."""
        async with self.database.write() as connection:
            await certificates.release(connection, await certificates.find(connection, serial), at_ms=self.clock())

    async def ask(self, serial: int, algorithm: str = "sm3") -> ocsp.OCSPResponse:
        """The answer to a plain request about one serial of `issuing`."""
        return read((await self.responder.respond(request(self.issuing.cert_id(serial, algorithm)))).der)


@asynccontextmanager
async def open_world(directory: Path, settings: OcspSettings | None = None) -> AsyncIterator[World]:
    """A world on a new store in `directory`, with the authority `issuing`."""
    database = await create_store(f"sqlite+aiosqlite:///{directory / 'store.sqlite3'}")
    follower = await FeedFollower.start(database)
    world = World(database, follower, settings or OcspSettings())
    try:
        await world.add_branch("issuing")
        yield world
        for signer in world.signers.values():
            signer.gate.set()
        await world.responder.close()
    finally:
        follower.close()
        await database.close()
