"""An issuing authority under somebody else's root (R-13): its request, its certificate, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509

from core.asn1 import x509 as codec
from core.errors import Conflict, QianyanError, Refused, SettingsError
from core.store import authorities
from core.store.database import Database
from signer.engine.keystore import KeyStore
from signer.issuance.authority import create_external, ensure_ocsp_signer, export_request, install_certificate
from signer.issuance.chain import load_chain
from signer.issuance.issuer import Issuer
from signer.issuance.profiles import load_profiles
from signer.issuance.settings import IssuanceSettings
from signer.issuance.template import CertificatePlan
from tests.issuance_support import (
    PLAN,
    PUBLIC_URL,
    STATUS_OID,
    Request,
    SettableClock,
    audit_rows,
    keystore_in,
    lint_complaints,
    local_signers,
    now_utc,
    snapshot,
)
from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.judges.views import KeyPair
from tests.store_world import create_store

ISSUING = "C=CN,O=签验测试,CN=签验测试签发"
NATIONAL = "C=CN,O=NRCAC,CN=国家根"


@dataclass
class Waiting:
    """A store whose issuing authority waits, its request, and a root elsewhere."""

    judge: BouncyCastle
    database: Database
    keystore: KeyStore
    clock: SettableClock
    csr: bytes
    public: bytes
    root_key: KeyPair
    root: bytes

    def certify(self, **changes: object) -> bytes:
        """The issuing authority's certificate by the root, or something near it."""
        now = datetime.now(UTC).replace(microsecond=0)
        values: dict[str, object] = {
            "kind": "authority",
            "subject": ISSUING,
            "public": self.public,
            "private": self.root_key.private,
            "issuer": self.root,
            "serial": 77,
            "not_before": now - timedelta(hours=1),
            "not_after": now + timedelta(days=3000),
            **changes,
        }
        kind, subject, public = values.pop("kind"), values.pop("subject"), values.pop("public")
        return self.judge.make_certificate(kind, subject, public, **values)  # type: ignore[arg-type]

    async def install(self, certificate: bytes, *chain: bytes) -> None:
        await install_certificate(self.database, certificate, chain or (self.root,), self.clock, "cli:test")


def make_root(judge: BouncyCastle, key: KeyPair, subject: str = NATIONAL, **changes: object) -> bytes:
    now = datetime.now(UTC).replace(microsecond=0)
    values: dict[str, object] = {
        "private": key.private,
        "issuer": None,
        "serial": 1,
        "not_before": now - timedelta(days=100),
        "not_after": now + timedelta(days=7000),
        **changes,
    }
    return judge.make_certificate("root", subject, key.public, **values)  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def waiting(tmp_path: Path, bouncycastle: BouncyCastle) -> AsyncIterator[Waiting]:
    database = await create_store(f"sqlite+aiosqlite:///{tmp_path}/store.sqlite3")
    keystore = keystore_in(tmp_path / "keys")
    clock = SettableClock()
    csr = await create_external(database, keystore, PLAN, clock, "cli:test")
    _, public = bouncycastle.verify_csr(csr)
    key = bouncycastle.generate()
    yield Waiting(bouncycastle, database, keystore, clock, csr, public, key, make_root(bouncycastle, key))
    await database.close()
    keystore.close()


async def test_the_whole_flow(waiting: Waiting) -> None:
    openssl.verify_csr(waiting.csr)
    request = x509.load_der_x509_csr(waiting.csr)
    assert request.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    certificate = waiting.certify()
    await waiting.install(openssl.pem("CERTIFICATE", certificate), openssl.pem("CERTIFICATE", waiting.root))
    ocsp = await ensure_ocsp_signer(
        waiting.database,
        waiting.keystore,
        PLAN.ocsp_name,
        waiting.clock,
        "cli:test",
        status_index_oid=STATUS_OID,
    )
    waiting.judge.validate_path(waiting.root, [ocsp, certificate], at=now_utc())
    async with waiting.database.read() as connection:
        root = await authorities.get(connection, "root")
        issuing = await authorities.get(connection, "issuing")
    assert (root.certificate, root.key_id, root.public_key) == (waiting.root, None, waiting.root_key.public)
    assert (issuing.certificate, issuing.parent_id, issuing.ocsp_key_id) == (certificate, "root", "ocsp-issuing")
    issuer = Issuer(
        waiting.database,
        local_signers(waiting.keystore, []),
        waiting.keystore,
        load_profiles(),
        IssuanceSettings(public_url=PUBLIC_URL, status_index_oid=STATUS_OID),
        waiting.clock,
    )
    issued = await issuer.issue(Request().encode(), "organisation", actor="cli:test")
    assert issued.chain == (certificate, waiting.root)
    leaf = issued.certificates[0].der
    waiting.judge.validate_path(waiting.root, [leaf, certificate], at=now_utc())
    assert lint_complaints(leaf) == []
    actions = [row[0] for row in await audit_rows(waiting.database)]
    assert actions[:3] == ["authority.request", "authority.install", "authority.ocsp_signer"]


@pytest.mark.parametrize(("path_length", "accepted"), [(None, True), (1, True), (0, False)])
async def test_a_chain_with_an_authority_between(waiting: Waiting, path_length: int | None, accepted: bool) -> None:
    top_key = waiting.judge.generate()
    top = make_root(waiting.judge, top_key, "C=CN,CN=TOP")
    now = datetime.now(UTC).replace(microsecond=0)
    plan = CertificatePlan(
        usage="ca",
        serial=3,
        issuer=x509.load_der_x509_certificate(top).subject.public_bytes(),
        authority_key_identifier=waiting.judge.read_certificate(top).subject_key_id or b"",
        subject=x509.load_der_x509_certificate(waiting.root).subject.public_bytes(),
        public_key=waiting.root_key.public,
        not_before=now - timedelta(hours=1),
        not_after=now + timedelta(days=4000),
        key_usage=frozenset({"key_cert_sign", "crl_sign"}),
        path_length=path_length,
    )
    middle = codec.join_signed(plan.tbs(), waiting.judge.sign(top_key.private, plan.tbs()))
    below = replace(
        plan,
        serial=4,
        issuer=plan.subject,
        authority_key_identifier=codec.key_identifier(plan.public_key),
        subject=x509.load_der_x509_csr(waiting.csr).subject.public_bytes(),
        public_key=waiting.public,
        path_length=0,
    )
    certificate = codec.join_signed(below.tbs(), waiting.judge.sign(waiting.root_key.private, below.tbs()))
    if not accepted:
        assert (await refused(waiting, "path_length", certificate, middle, top)).field == "chain.0"
        return
    waiting.judge.validate_path(top, [certificate, middle], at=now_utc())
    await waiting.install(certificate, middle, top)
    async with waiting.database.read() as connection:
        upper = await authorities.get(connection, "upper-1")
        assert (upper.certificate, upper.parent_id) == (middle, "root")
        assert (await load_chain(connection, "issuing")).certificates == (certificate, middle, top)


async def test_before_the_certificate_nothing_is_issued(waiting: Waiting) -> None:
    with pytest.raises(Refused) as refusal:
        await ensure_ocsp_signer(waiting.database, waiting.keystore, PLAN.ocsp_name, waiting.clock, "cli:test")
    assert refusal.value.code == "authority_not_ready"
    again = await export_request(waiting.database, waiting.keystore)
    waiting.judge.verify_csr(again)
    with pytest.raises(SettingsError):
        await create_external(waiting.database, waiting.keystore, PLAN, waiting.clock, "cli:test")


async def test_an_ocsp_signer_whose_making_was_cut_short(waiting: Waiting) -> None:
    """The key file is there, the store does not know it: the next run takes it up."""
    await waiting.install(waiting.certify())
    key = waiting.keystore.create("ocsp-issuing")
    certificate = await ensure_ocsp_signer(
        waiting.database, waiting.keystore, PLAN.ocsp_name, waiting.clock, "cli:test"
    )
    assert waiting.judge.read_certificate(certificate).public == key.public_key.to_bytes()


async def refused(waiting: Waiting, code: str, certificate: bytes, *chain: bytes) -> QianyanError:
    before = await snapshot(waiting.database)
    with pytest.raises(QianyanError) as refusal:
        await waiting.install(certificate, *chain)
    assert refusal.value.code == code
    assert await snapshot(waiting.database) == before
    return refusal.value


async def test_certificates_that_are_refused(waiting: Waiting) -> None:
    judge, now = waiting.judge, datetime.now(UTC).replace(microsecond=0)
    stranger = judge.generate()
    day = timedelta(days=1)
    await refused(waiting, "certificate_key", waiting.certify(public=stranger.public))
    await refused(waiting, "certificate_subject", waiting.certify(subject="C=CN,CN=Somebody Else"))
    await refused(waiting, "certificate_not_ca", waiting.certify(kind="sign"))
    await refused(waiting, "certificate_signature", waiting.certify(private=stranger.private))
    await refused(waiting, "certificate_expired", waiting.certify(not_before=now - 9 * day, not_after=now - day))
    await refused(waiting, "certificate_not_yet_valid", waiting.certify(not_before=now + day))
    await refused(waiting, "certificate", b"garbage")
    good = waiting.certify()
    for at in (len(good) // 2, len(good) - 2):
        flipped = bytearray(good)
        flipped[at] ^= 1
        with pytest.raises(QianyanError):
            await waiting.install(bytes(flipped))
    async with waiting.database.read() as connection:
        assert (await authorities.get(connection, "issuing")).certificate is None


async def test_chains_that_are_refused(waiting: Waiting) -> None:
    judge = waiting.judge
    stranger = judge.generate()
    good = waiting.certify()
    namesake = make_root(judge, stranger)
    assert (await refused(waiting, "certificate_issuer", good, namesake)).field == "certificate"
    await refused(waiting, "chain_order", good, make_root(judge, stranger, "C=CN,CN=Other"))
    await refused(waiting, "chain_order", good, waiting.root, make_root(judge, stranger, "C=CN,CN=Other"))
    forged = judge.make_certificate(
        "root",
        NATIONAL,
        waiting.root_key.public,
        private=stranger.private,
        issuer=None,
        serial=1,
        not_before=now_utc() - timedelta(days=1),
        not_after=now_utc() + timedelta(days=1),
    )
    assert (await refused(waiting, "certificate_signature", good, forged)).field == "chain.0"
    with pytest.raises(Refused):
        await install_certificate(waiting.database, good, (), waiting.clock, "cli:test")


async def test_a_second_certificate_is_refused(waiting: Waiting) -> None:
    await waiting.install(waiting.certify())
    before = await snapshot(waiting.database)
    with pytest.raises(Conflict):
        await waiting.install(waiting.certify(serial=78))
    assert await snapshot(waiting.database) == before
