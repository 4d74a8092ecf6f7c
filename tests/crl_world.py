"""A store with one authority and its key: what the tests of `crl` build CRLs in.

The store, the certificate and every signature are real; only the clock is the test's.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from prometheus_client import CollectorRegistry

from core.asn1.names import build_name
from core.asn1.x509 import Extension, join_signed, key_identifier, subject_public_key_info, tbs_certificate
from core.clock import to_datetime
from core.model import KeyPurpose, KeyState, RevocationReason
from core.store import authorities, certificates, keys
from core.store.authorities import Authority
from core.store.certificates import NewCertificate
from core.store.crls import CrlRecord, latest
from core.store.database import Database
from core.store.follow import FeedFollower
from core.store.keys import KeyRecord
from crl.service import CrlService
from crl.settings import CrlSettings
from signer._native import sm2
from signer.engine.verify import verify_signature
from tests.store_world import create_store

PUBLIC_URL = "http://status.example.cn"
NOON_MS = 1_795_003_200_250
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class SetClock:
    """A clock that stands where the test puts it."""

    def __init__(self, now_ms: int = NOON_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        """Later; earlier where negative."""
        self.now_ms += round(seconds * 1000)


class KeySigner:
    """A core.ports.Signer over a native key.

    refusal: what it raises instead of signing, where set. signed: how often it was asked.
    """

    def __init__(self, key_id: str = "issuing", *, key: sm2.PrivateKey | None = None) -> None:
        self._key = key or sm2.PrivateKey.generate()
        self.key_id = key_id
        self.public_key = self._key.public_key.to_bytes()
        self.signed = 0
        self.refusal: Exception | None = None

    def sign_now(self, message: bytes | memoryview) -> bytes:
        """The DER signature."""
        return sm2.signature_to_der(self._key.sign(message, user_id=sm2.DEFAULT_ID))

    async def sign(self, message: bytes | memoryview) -> bytes:
        if self.refusal is not None:
            raise self.refusal
        self.signed += 1
        return self.sign_now(message)


def make_certificate(
    signer: KeySigner, *, not_after_ms: int, name: str = "签验测试签发机构", ski: bool = True
) -> bytes:
    """A self-signed authority's certificate."""
    subject = build_name({"C": "CN", "O": "测试", "CN": name}).public_bytes()
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    extensions = [
        Extension.of(x509.BasicConstraints(True, None), critical=True),
        Extension.of(usage, critical=True),
    ]
    if ski:
        extensions.append(Extension.of(x509.SubjectKeyIdentifier(key_identifier(signer.public_key))))
    tbs = tbs_certificate(
        serial=int.from_bytes(os.urandom(15), "big") + 1,
        issuer=subject,
        subject=subject,
        not_before=to_datetime(NOON_MS) - timedelta(days=300),
        not_after=to_datetime(not_after_ms),
        spki=subject_public_key_info(signer.public_key),
        extensions=extensions,
    )
    return join_signed(tbs, signer.sign_now(tbs))


class World:
    """See the module; make one with `make_world`."""

    def __init__(self, database: Database, follower: FeedFollower, clock: Callable[[], int]) -> None:
        self.database = database
        self.follower = follower
        self.clock = clock
        self.signer = KeySigner()
        self.certificate = b""
        self._index = 0

    async def add_authority(
        self,
        authority_id: str = "issuing",
        *,
        partitions: int = 1,
        not_after_ms: int = NOON_MS + 3650 * DAY_MS,
        ski: bool = True,
        key_here: bool = True,
    ) -> Authority:
        """Puts an authority of the world's key into the store."""
        certificate = make_certificate(self.signer, not_after_ms=not_after_ms, ski=ski)
        self.certificate = self.certificate or certificate
        authority = Authority(
            id=authority_id,
            parent_id=None,
            key_id=self.signer.key_id if key_here else None,
            subject=x509.load_der_x509_certificate(certificate).subject.public_bytes(),
            public_key=self.signer.public_key,
            certificate=certificate,
            ocsp_key_id=None,
            ocsp_certificate=None,
            partitions=partitions,
            created_at_ms=self.clock(),
        )
        key = KeyRecord(
            self.signer.key_id,
            KeyPurpose.CERTIFICATE,
            KeyState.ACTIVE,
            self.signer.public_key,
            "authority",
            self.clock(),
            self.clock(),
        )
        async with self.database.write() as connection:
            if self.signer.key_id not in {k.id for k in await keys.list_all(connection)}:
                await keys.add(connection, key)
            await authorities.add(connection, authority)
        return authority

    async def issue(
        self, *serials: int, authority_id: str = "issuing", partition: int = 0, not_after_ms: int | None = None
    ) -> None:
        """Records certificates; only what the store knows of them matters here."""
        end_ms = NOON_MS + 365 * DAY_MS if not_after_ms is None else not_after_ms
        async with self.database.write() as connection:
            for serial in serials:
                self._index += 1
                new = NewCertificate(
                    authority_id=authority_id,
                    serial=serial,
                    usage="sign",
                    profile="person",
                    subject=b"",
                    public_key=b"",
                    not_before_ms=NOON_MS,
                    not_after_ms=end_ms,
                    partition=partition,
                    status_month=1,
                    status_index=self._index,
                    certificate=self.certificate,
                )
                await certificates.record(connection, new, at_ms=self.clock())

    async def revoke(
        self,
        *serials: int,
        reason: RevocationReason = RevocationReason.KEY_COMPROMISE,
        invalidity_at_ms: int | None = None,
    ) -> None:
        """Revokes or holds."""
        async with self.database.write() as connection:
            for serial in serials:
                record = await certificates.find(connection, serial)
                await certificates.revoke(
                    connection, record, reason, at_ms=self.clock(), invalidity_at_ms=invalidity_at_ms
                )

    async def release(self, serial: int) -> None:
        """Ends a hold."""
        async with self.database.write() as connection:
            await certificates.release(connection, await certificates.find(connection, serial), at_ms=self.clock())

    def service(self, registry: CollectorRegistry | None = None, **settings: float) -> CrlService:
        """A service with these settings; each one is a builder of its own."""
        return CrlService(
            self.database,
            self.follower,
            lambda _: self.signer,
            verify_signature,
            self.clock,
            CrlSettings.model_validate(settings),
            public_url=PUBLIC_URL,
            registry=registry,
            jitter=lambda: 1.0,
        )

    async def newest(self, authority_id: str = "issuing", partition: int = 0) -> CrlRecord:
        """The newest CRL, which must be there."""
        async with self.database.read() as connection:
            record = await latest(connection, authority_id, partition)
        assert record is not None
        return record


@asynccontextmanager
async def make_world(directory: Path, clock: Callable[[], int] | None = None) -> AsyncIterator[World]:
    """A fresh store in `directory`, with a follower; no authority yet."""
    database = await create_store(f"sqlite+aiosqlite:///{directory / 'store.sqlite3'}")
    follower = await FeedFollower.start(database)
    try:
        yield World(database, follower, clock or SetClock())
    finally:
        follower.close()
        await database.close()


def listed(crl: bytes) -> dict[int, x509.RevokedCertificate]:
    """What `cryptography` finds in a CRL, by serial."""
    return {entry.serial_number: entry for entry in x509.load_der_x509_crl(crl)}


def number_of(crl: bytes) -> int:
    """The CRL number."""
    return x509.load_der_x509_crl(crl).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
