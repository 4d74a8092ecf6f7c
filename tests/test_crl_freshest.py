"""FreshestCRL in certificates: the delta CRL of their partition, octet for octet as their CRL names it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import text

from core.asn1.distribution import delta_crl_url
from core.model import RevocationReason
from core.store import authorities, certificates, crls, feed, listed
from core.store.database import Database
from core.store.follow import FeedFollower
from crl import facts
from crl._entries import Entries
from crl._reader import Listing, compare
from crl.builder import CrlContents, make_draft
from crl.service import CrlService
from crl.settings import CrlSettings
from service.cli import cli
from service.node import open_node
from service.opening import find_passphrase
from service.settings import load
from signer.engine.verify import verify_signature
from signer.issuance.issuer import Issuer
from signer.issuance.profiles import load_profiles
from signer.issuance.settings import IssuanceSettings
from tests import judges
from tests.issuance_support import PUBLIC_URL, STATUS_OID, Installation, Request, installation, lint_complaints
from tests.judges.bouncycastle import BouncyCastle
from tests.store_world import NOW_MS, create_store
from tests.store_world import certificate as stored

FRESHEST = x509.ObjectIdentifier("2.5.29.46")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Installation]:
    async with installation(tmp_path) as made:
        yield made


def freshest(encoded: x509.Certificate | x509.CertificateRevocationList) -> x509.Extension[x509.FreshestCRL]:
    return encoded.extensions.get_extension_for_oid(FRESHEST)


async def issue(issuer: Issuer) -> x509.Certificate:
    issued = await issuer.issue(Request().encode(), "organisation", actor="cli:test")
    return x509.load_der_x509_certificate(issued.certificates[0].der)


async def crl_pair(world: Installation, service: CrlService, partition: int) -> tuple[bytes, bytes]:
    """The newest full CRL of a partition and its delta."""
    await service.build("issuing", partition)
    async with world.database.read() as connection:
        full = await crls.latest(connection, "issuing", partition)
        delta = await crls.latest(connection, "issuing", partition, delta=True)
    assert full is not None
    return full.crl, b"" if delta is None else delta.crl


def openssl_says(encoded: bytes) -> str:
    command = ["openssl", "x509", "-inform", "DER", "-noout", "-ext", "freshestCRL"]
    return subprocess.run(command, input=encoded, capture_output=True, check=True).stdout.decode()


async def test_certificate_and_crl_name_the_same_delta_and_others_follow_it(
    world: Installation, bouncycastle: BouncyCastle
) -> None:
    certificate = await issue(world.issuer)
    encoded = certificate.public_bytes(Encoding.DER)
    assert not lint_complaints(encoded)
    async with world.database.read() as connection:
        record = await certificates.find(connection, certificate.serial_number)
        authority = await authorities.get(connection, "issuing")
    assert record is not None
    assert authority.certificate is not None
    follower = await FeedFollower.start(world.database)
    service = CrlService(
        world.database, follower, world.signer_for, verify_signature, world.clock, CrlSettings(), public_url=PUBLIC_URL
    )
    try:
        await crl_pair(world, service, record.partition)
        base, _ = await crl_pair(world, service, record.partition)
        async with world.database.write() as connection:
            found = await certificates.find(connection, certificate.serial_number)
            await certificates.revoke(connection, found, RevocationReason.KEY_COMPROMISE, at_ms=world.clock())
        _, delta = await crl_pair(world, service, record.partition)
    finally:
        follower.close()
    ours, theirs = freshest(certificate), freshest(x509.load_der_x509_crl(base))
    assert ours.value.public_bytes() == theirs.value.public_bytes()
    assert (ours.critical, theirs.critical) == (False, False)
    url = f"{PUBLIC_URL}/crl/issuing/{record.partition}.crl"
    assert [name.value for name in ours.value[0].full_name or ()] == [delta_crl_url(url)]

    shown = await asyncio.to_thread(openssl_says, encoded)
    assert f"URI:{delta_crl_url(url)}" in shown

    at = datetime.fromtimestamp(world.clock() // 1000, UTC)
    bouncycastle.validate_path(authority.certificate, [encoded], at=at, crls=[base])
    with pytest.raises(judges.Refused, match="Certificate revocation"):
        bouncycastle.validate_path(authority.certificate, [encoded], at=at, crls=[base, delta], deltas=True)


async def test_without_the_setting_none_is_named(world: Installation) -> None:
    settings = IssuanceSettings(public_url=PUBLIC_URL, status_index_oid=STATUS_OID, freshest_crl=False)
    issuer = Issuer(world.database, world.signer_for, world.keystore, load_profiles(), settings, world.clock)
    certificate = await issue(issuer)
    with pytest.raises(x509.ExtensionNotFound):
        freshest(certificate)
    certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints)


@pytest.mark.parametrize("delta", [True, False])
async def test_a_node_without_deltas_names_none(tmp_path: Path, delta: bool) -> None:
    command = ["init", "--dir", str(tmp_path / "d"), "--demo", "--private-tls", "off"]
    made = await asyncio.to_thread(CliRunner().invoke, cli, command)
    assert made.exit_code == 0, made.output
    path = tmp_path / "d" / "qianyan.toml"
    path.write_text(path.read_text() + f"\n[crl]\ndelta = {str(delta).lower()}\n")
    loaded = load(str(path))
    passphrase = find_passphrase(loaded)
    assert passphrase is not None
    async with open_node(loaded, passphrase) as node:
        certificate = await issue(node.issuer)
    named = any(extension.oid == FRESHEST for extension in certificate.extensions)
    assert named is delta


async def test_what_changed_is_found_by_way_of_the_feed(tmp_path: Path) -> None:
    """However many certificates there are, a build reads as many as have changed."""
    database: Database = await create_store(f"sqlite+aiosqlite:///{tmp_path}/store.sqlite3")
    try:
        async with database.read() as connection:
            for statement in (listed._CHANGES["sqlite"], listed._FACTS["sqlite"]):
                values = {"after": 5, "authority": "issuing", "partition": 0}
                plan = await connection.execute(text(f"EXPLAIN QUERY PLAN {statement.text}"), values)
                steps = [row[3] for row in plan]
                assert steps[0] == "SEARCH f USING INTEGER PRIMARY KEY (rowid>?)"
                assert not [step for step in steps if step.startswith("SCAN")], steps
    finally:
        await database.close()


async def test_two_passes_say_what_one_look_up_for_each_change_says(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revoked, held, held and released, released and revoked again; changed past the position; of another partition."""
    async with world.database.write() as connection:
        serials = [1 << 126 | number for number in range(8)]
        for number, serial in enumerate(serials):
            new = stored(serial, 5_000 + number, certificate=b"0", partition=1 if number == 7 else 0)
            await certificates.record(connection, new, at_ms=NOW_MS)

    async def change(number: int, what: str) -> None:
        async with world.database.write() as connection:
            found = await certificates.find(connection, serials[number])
            if what == "release":
                await certificates.release(connection, found, at_ms=NOW_MS)
            else:
                reason = RevocationReason.CERTIFICATE_HOLD if what == "hold" else RevocationReason.SUPERSEDED
                await certificates.revoke(connection, found, reason, at_ms=NOW_MS)

    for number, what in ((0, "revoke"), (1, "hold"), (2, "hold"), (2, "release"), (3, "hold"), (3, "release")):
        await change(number, what)
    await change(3, "revoke")
    await change(7, "revoke")
    async with world.database.read() as connection:
        position = await feed.head(connection)
    await change(4, "revoke")
    await change(1, "release")

    contents = CrlContents(bytes.fromhex("3000"), bytes(20), 1, "http://a.cn/0.crl", NOW_MS, NOW_MS + 1000)

    async def finds() -> tuple[dict[str, object], list[int]]:
        async with world.database.read() as connection:
            known = await facts.read(connection, ("issuing", 0), after_seq=0, feed_seq=position, fresh_after_seq=0)
        listing = Listing(make_draft(Entries(), contents, [], 0))
        return dict(compare(listing, None, known.facts, 0, 100)), sorted(known.fresh)

    async def one_partition(connection: object, authority_id: str) -> object:
        return SimpleNamespace(partitions=1)

    apart = await finds()
    monkeypatch.setattr(facts, "_TWO_PASSES", (0, 10**9))
    monkeypatch.setattr(facts.authorities, "get", one_partition)
    together = await finds()
    assert together[0] == apart[0]
    assert apart[0]["missing"] == (3, [serials[0], serials[1], serials[3]])
