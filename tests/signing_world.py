"""A small hierarchy in a real store: certificates of every kind that verification has to judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509

from core.asn1.names import build_name
from core.asn1.x509 import (
    Extension,
    join_signed,
    key_identifier,
    subject_public_key_info,
    tbs_certificate,
)
from core.clock import system_clock, to_datetime
from core.model import RevocationReason
from core.store import authorities, certificates
from core.store.authorities import Authority
from signer._native import sm2
from signer.signing.settings import SigningSettings
from signer.signing.verification import VerificationService
from status.source import StoreStatusSource
from tests.engine_world import World

DAY_MS = 86_400_000


def usage(*names: str) -> Extension:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return Extension.of(x509.KeyUsage(**{name: name in names for name in every}), critical=True)


@dataclass
class Office:
    """An authority with its key in hand."""

    id: str
    key: sm2.PrivateKey
    name: bytes
    certificate: bytes = b""


@dataclass
class Holder:
    """An end entity: its key, certificate and serial."""

    key: sm2.PrivateKey
    certificate: bytes
    serial: int


@dataclass
class Realm:
    """The hierarchy, and the service that judges by it. `now_ms` is its clock."""

    world: World
    service: VerificationService
    clock: list[int]
    issuing: Office
    root: Office
    count: list[int] = field(default_factory=lambda: [1_000])

    @property
    def now_ms(self) -> int:
        return self.clock[0]

    async def issue(
        self,
        *,
        extensions: Sequence[Extension] = (usage("digital_signature", "content_commitment"),),
        from_days: float = -1,
        to_days: float = 365,
        record: bool = True,
        issuer: Office | None = None,
        signed_by: sm2.PrivateKey | None = None,
        key: sm2.PrivateKey | None = None,
        aki: bytes | None = None,
        serial: int | None = None,
    ) -> Holder:
        issuer = issuer or self.issuing
        key = key or sm2.PrivateKey.generate()
        self.count[0] += 1
        serial = self.count[0] if serial is None else serial
        found = aki if aki is not None else key_identifier(issuer.key.public_key.to_bytes())
        encoded = certificate(
            serial, issuer, f"holder {serial}", key.public_key.to_bytes(),
            [*extensions, Extension.of(x509.AuthorityKeyIdentifier(found, None, None))],
            self.now_ms + int(from_days * DAY_MS), self.now_ms + int(to_days * DAY_MS), signed_by or issuer.key,
        )  # fmt: skip
        if record:
            await self._record(issuer, serial, key, encoded, to_days)
        return Holder(key, encoded, serial)

    async def _record(self, issuer: Office, serial: int, key: sm2.PrivateKey, encoded: bytes, to_days: float) -> None:
        until_ms = self.now_ms + int(to_days * DAY_MS)
        async with self.world.database.write() as connection:
            index = await certificates.take_status_index(connection, issuer.id, 1)
            new = certificates.NewCertificate(
                issuer.id, serial, "sign", "test", b"", key.public_key.to_bytes(), 0, until_ms, 0, 1, index, encoded
            )
            await certificates.record(connection, new, at_ms=self.now_ms)

    async def revoke(
        self,
        serial: int,
        reason: RevocationReason,
        at_ms: int,
        invalidity_at_ms: int | None = None,
        authority_id: str = "issuing",
    ) -> None:
        async with self.world.database.write() as connection:
            found = await certificates.find(connection, serial, authority_id)
            await certificates.revoke(connection, found, reason, at_ms=at_ms, invalidity_at_ms=invalidity_at_ms)


def certificate(
    serial: int,
    issuer: Office,
    subject: str,
    public: bytes,
    extensions: Sequence[Extension],
    from_ms: int,
    to_ms: int,
    signed_by: sm2.PrivateKey,
) -> bytes:
    tbs = tbs_certificate(
        serial=serial,
        issuer=issuer.name,
        subject=build_name({"C": "CN", "CN": subject}).public_bytes(),
        not_before=to_datetime(from_ms),
        not_after=to_datetime(to_ms),
        spki=subject_public_key_info(public),
        extensions=extensions,
    )
    return join_signed(tbs, sm2.signature_to_der(signed_by.sign(tbs)))


def authority(
    identity: str, above: Office | None, now_ms: int, *, path_length: int | None = None, serial: int = 1,
    extensions: Sequence[Extension] | None = None, from_days: float = -10, to_days: float = 3_650,
) -> Office:  # fmt: skip
    made = Office(identity, sm2.PrivateKey.generate(), build_name({"C": "CN", "CN": identity}).public_bytes())
    above = above or made
    public = made.key.public_key.to_bytes()
    if extensions is None:
        extensions = [
            usage("key_cert_sign", "crl_sign"),
            Extension.of(x509.BasicConstraints(ca=True, path_length=path_length), critical=True),
        ]
    extensions = [
        *extensions,
        Extension.of(x509.SubjectKeyIdentifier(key_identifier(public))),
        Extension.of(x509.AuthorityKeyIdentifier(key_identifier(above.key.public_key.to_bytes()), None, None)),
    ]
    made.certificate = certificate(
        serial, above, identity, public, extensions, now_ms + int(from_days * DAY_MS), now_ms + int(to_days * DAY_MS),
        above.key,
    )  # fmt: skip
    return made


async def add_authority(world: World, made: Office, parent: str | None, now_ms: int) -> None:
    async with world.database.write() as connection:
        row = Authority(
            made.id, parent, None, made.name, made.key.public_key.to_bytes(), made.certificate, None, None, 1, now_ms
        )
        await authorities.add(connection, row)


async def make_realm(world: World, settings: SigningSettings | None = None) -> Realm:
    now_ms = system_clock()
    root = authority("root", None, now_ms)
    issuing = authority("issuing", root, now_ms, path_length=0, serial=2)
    await add_authority(world, root, None, now_ms)
    await add_authority(world, issuing, "root", now_ms)
    clock = [now_ms]
    service = VerificationService(
        world.database, StoreStatusSource(world.database), lambda: clock[0], settings or SigningSettings()
    )
    return Realm(world, service, clock, issuing, root)
