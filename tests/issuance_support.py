"""An installation to issue from: real store, key files and native keys, and requests of every kind, good and bad."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from sqlalchemy import func, select

from core.asn1 import der, names
from core.asn1 import x509 as codec
from core.asn1.x509 import Extension
from core.clock import system_clock
from core.ports import Signer
from core.store import schema
from core.store.database import Database, open_database
from signer._native import sm2
from signer.engine.keystore import KeyStore
from signer.engine.settings import KeyStoreSettings
from signer.issuance.authority import HierarchyPlan, create_hierarchy
from signer.issuance.issuer import Issuer
from signer.issuance.profiles import Profiles, load_profiles
from signer.issuance.settings import IssuanceSettings
from signer.issuance.signing import LocalSigner
from tests.judges import lint
from tests.store_world import create_store

PUBLIC_URL = "http://pki.example.cn"
#: A status index OID whose arcs fit 28 bits: pkilint reads no larger ones (Go: 31 bits).
STATUS_OID = "2.25.160735196"
PASSPHRASE = b"correct horse battery staple"
PLAN = HierarchyPlan(
    root_name={"C": "CN", "O": "签验测试", "CN": "签验测试根"},
    issuing_name={"C": "CN", "O": "签验测试", "CN": "签验测试签发"},
    ocsp_name={"C": "CN", "O": "签验测试", "CN": "签验测试状态"},
    public_url=PUBLIC_URL,
    partitions=4,
    status_index_oid=STATUS_OID,
)
ORGANISATION = {"C": "CN", "ST": "广东省", "O": "粤港测试有限公司", "CN": "粤港测试有限公司"}


@dataclass
class SettableClock:
    """The system's clock, moved by `offset_ms`."""

    offset_ms: int = 0

    def __call__(self) -> int:
        return system_clock() + self.offset_ms


def keystore_in(directory: Path) -> KeyStore:
    """A key store with the cheapest derivation that it accepts."""
    directory.mkdir(mode=0o700, exist_ok=True)
    return KeyStore(directory, bytearray(PASSPHRASE), KeyStoreSettings(scrypt_log2_n=10))


@dataclass
class Installation:
    """A store with authorities, and an issuer on it."""

    directory: Path
    database: Database
    keystore: KeyStore
    clock: SettableClock
    signer_for: Callable[[str], Signer]
    issuer: Issuer
    signed: list[str] = field(default_factory=list)


def local_signers(keystore: KeyStore, used: list[str]) -> Callable[[str], Signer]:
    """Signers over the key files; `used` learns which key signed."""
    known: dict[str, LocalSigner] = {}

    class _Noting(LocalSigner):
        async def sign(self, message: bytes) -> bytes:
            used.append(self.key_id)
            return await super().sign(message)

    def signer_for(key_id: str) -> Signer:
        if key_id not in known:
            known[key_id] = _Noting(key_id, keystore.load(key_id))
        return known[key_id]

    return signer_for


_templates: list[Path] = []


async def _template() -> Path:
    """A directory with the usual hierarchy, made once in a process: most tests begin with a copy of it."""
    if not _templates:
        directory = Path(tempfile.mkdtemp(prefix="issuance-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        database = await create_store(f"sqlite+aiosqlite:///{directory}/store.sqlite3")
        keystore = keystore_in(directory / "keys")
        try:
            await create_hierarchy(database, keystore, PLAN, SettableClock(), "cli:test")
        finally:
            await database.close()
            keystore.close()
        _templates.append(directory)
    return _templates[0]


@asynccontextmanager
async def installation(
    directory: Path,
    *,
    profiles: Profiles | None = None,
    plan: HierarchyPlan = PLAN,
    database: Database | None = None,
    **issuer: object,
) -> AsyncIterator[Installation]:
    """A fresh installation in `directory`, its store too unless an empty one is given."""
    clock = SettableClock()
    ready = database is None and plan is PLAN
    if ready:
        await asyncio.to_thread(shutil.copytree, await _template(), directory, dirs_exist_ok=True)
        database = await open_database(f"sqlite+aiosqlite:///{directory}/store.sqlite3")
    elif database is None:
        database = await create_store(f"sqlite+aiosqlite:///{directory}/store.sqlite3")
    keystore = keystore_in(directory / "keys")
    try:
        if not ready:
            await create_hierarchy(database, keystore, plan, clock, "cli:test")
        used: list[str] = []
        signer_for = local_signers(keystore, used)
        settings = IssuanceSettings(public_url=PUBLIC_URL, status_index_oid=STATUS_OID)
        made = Issuer(
            database,
            signer_for,
            keystore,
            profiles or load_profiles(),
            settings,
            clock,
            **issuer,  # type: ignore[arg-type]
        )
        yield Installation(directory, database, keystore, clock, signer_for, made, used)
    finally:
        await database.close()
        keystore.close()


async def snapshot(database: Database) -> dict[str, object]:
    """What an unanswered request must not change: every table's row count, counters and status indexes.

    The audit record is left out: a refusal is on record (R-23).
    """
    state: dict[str, object] = {}
    async with database.read() as connection:
        for table in schema.metadata.sorted_tables:
            if table.name != "audit":
                state[table.name] = (await connection.execute(select(func.count()).select_from(table))).scalar_one()
        counters = await connection.execute(select(schema.counters).where(schema.counters.c.name != "audit"))
        state["counter values"] = sorted(tuple(row) for row in counters)
        state["indexes"] = sorted(tuple(row) for row in await connection.execute(select(schema.status_indexes)))
    return state


async def audit_rows(database: Database) -> list[tuple[str, str, str, str]]:
    """(action, subject, outcome, detail) of every row, in order."""
    a = schema.audit.c
    async with database.read() as connection:
        rows = await connection.execute(select(a.action, a.subject, a.outcome, a.detail).order_by(a.seq))
        return [tuple(row) for row in rows]


def subject_of(fields: dict[str, str]) -> bytes:
    """A DER Name as our own encoder writes it."""
    return names.build_name(fields).public_bytes()


def raw_name(*attributes: tuple[str, int, bytes]) -> bytes:
    """A DER Name of (OID, string tag, contents), right or wrong."""
    return der.sequence(
        *(der.tlv(der.SET, der.sequence(der.oid(dotted), der.tlv(tag, octets))) for dotted, tag, octets in attributes)
    )


@dataclass
class Request:
    """A PKCS#10 request in the making; every part can be set wrong."""

    subject: bytes = field(default_factory=lambda: subject_of(ORGANISATION))
    key: sm2.PrivateKey = field(default_factory=sm2.PrivateKey.generate)
    extensions: Iterable[Extension] = ()
    attributes: bytes = b""
    version: int = 0
    spki: bytes | None = None
    algorithm: bytes = codec.SM3_WITH_SM2
    user_id: bytes = sm2.DEFAULT_ID

    def info(self) -> bytes:
        """CertificationRequestInfo."""
        attributes = self.attributes
        if wanted := list(self.extensions):
            value = der.tlv(der.SET, codec.encode_extensions(wanted))
            attributes += der.sequence(der.oid("1.2.840.113549.1.9.14"), value)
        spki = self.spki or codec.subject_public_key_info(self.key.public_key.to_bytes())
        return der.sequence(der.integer(self.version), self.subject, spki, der.tlv(der.context(0), attributes))

    def encode(self) -> bytes:
        """The signed request, DER."""
        info = self.info()
        signature = sm2.signature_to_der(self.key.sign(info, user_id=self.user_id))
        return der.sequence(info, self.algorithm, der.bit_string(signature))


def extension_values(certificate: bytes) -> dict[str, tuple[bool, bytes]]:
    """Every extension by OID: (critical, DER of the value)."""
    parsed = x509.load_der_x509_certificate(certificate)
    return {e.oid.dotted_string: (e.critical, e.value.public_bytes()) for e in parsed.extensions}


def now_utc() -> datetime:
    """The time now."""
    return datetime.now(UTC)


def lint_complaints(certificate: bytes) -> list[str]:
    """What pkilint finds wrong, as text; also that it cannot read the certificate at all."""
    try:
        return [str(finding) for finding in lint.complaints(lint.lint_certificate(certificate))]
    except Exception as error:  # its exceptions hold objects that cannot be printed
        return [f"unreadable: {error}"]
