"""Authorities: a whole hierarchy, judged by others; an init that is repeated or was cut short."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from core import oids
from core.asn1 import x509 as codec
from core.errors import SettingsError
from core.store import audit, authorities, certificates, keys
from signer.issuance.authority import HierarchyPlan, create_hierarchy, ensure_ocsp_signer, renew_ocsp_signer
from tests.issuance_support import (
    PLAN,
    PUBLIC_URL,
    Request,
    audit_rows,
    installation,
    keystore_in,
    lint_complaints,
    now_utc,
    snapshot,
)
from tests.judges import Refused, openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.store_world import create_store


async def test_hierarchy(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    async with installation(tmp_path) as world, world.database.read() as connection:
        root = await authorities.get(connection, "root")
        issuing = await authorities.get(connection, "issuing")
        assert [k.id for k in await keys.list_all(connection)] == ["issuing", "ocsp-issuing", "root"]
        assert (await audit.verify(connection)).broken_at is None
        assert await certificates.count(connection) == 3
    assert root.certificate is not None
    assert issuing.certificate is not None
    assert issuing.ocsp_certificate is not None
    top = bouncycastle.verify_certificate(root.certificate, root.certificate)
    middle = bouncycastle.verify_certificate(issuing.certificate, root.certificate)
    ocsp = bouncycastle.verify_certificate(issuing.ocsp_certificate, issuing.certificate)
    for certificate, issuer in ((root, root), (issuing, root)):
        openssl.verify_certificate(certificate.certificate, issuer.certificate)
    assert top.is_ca
    assert (top.path_length is None, middle.path_length, ocsp.is_ca) == (True, 0, False)
    assert middle.crl_uris == [f"{PUBLIC_URL}/crl/root/0.crl"]
    assert ocsp.extended_key_usage == ["1.3.6.1.5.5.7.3.9"]
    assert oids.OCSP_NOCHECK in ocsp.extensions
    assert middle.authority_key_id == top.subject_key_id
    assert timedelta(days=7304) < top.not_after - now_utc() < timedelta(days=7306)
    bouncycastle.validate_path(root.certificate, [issuing.ocsp_certificate, issuing.certificate], at=now_utc())
    for encoded in (root.certificate, issuing.certificate, issuing.ocsp_certificate):
        assert lint_complaints(encoded) == []


async def test_a_second_init_is_refused(tmp_path: Path) -> None:
    async with installation(tmp_path) as world:
        before = await snapshot(world.database)
        with pytest.raises(SettingsError) as refusal:
            await create_hierarchy(world.database, world.keystore, PLAN, world.clock, "cli:test")
        assert refusal.value.code == "authorities_exist"
        assert await snapshot(world.database) == before


async def test_an_unfinished_init_is_told_apart(tmp_path: Path) -> None:
    """Key files are there and the store is empty: what a kill between the two leaves."""
    database = await create_store(f"sqlite+aiosqlite:///{tmp_path}/store.sqlite3")
    try:
        keystore = keystore_in(tmp_path / "keys")
        keystore.create("issuing")
        with pytest.raises(SettingsError) as refusal:
            await create_hierarchy(database, keystore, PLAN, lambda: 1_800_000_000_000, "cli:test")
        assert refusal.value.code == "init_unfinished"
        assert "\n" not in refusal.value.detail
        async with database.read() as connection:
            assert await authorities.list_all(connection) == []
    finally:
        await database.close()


@pytest.mark.parametrize(
    "wrong", [{"partitions": 0}, {"public_url": "ftp://x"}, {"issuing_days": 9000}, {"status_index_oid": "2.25"}]
)
def test_a_plan_out_of_bounds_is_refused(wrong: dict[str, object]) -> None:
    values = {name: getattr(PLAN, name) for name in PLAN.__dataclass_fields__}
    with pytest.raises(SettingsError):
        HierarchyPlan(**{**values, **wrong})


async def test_the_ocsp_signer_is_renewed_in_time(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    async with installation(tmp_path) as world:
        signer = world.signer_for("issuing")
        assert await renew_ocsp_signer(world.database, signer, world.clock, "system") is None
        world.clock.offset_ms = 340 * 86_400_000
        renewed = await renew_ocsp_signer(world.database, signer, world.clock, "system")
        assert renewed is not None
        async with world.database.read() as connection:
            issuing = await authorities.get(connection, "issuing")
        assert issuing.ocsp_certificate == renewed
        assert issuing.certificate is not None
        view = bouncycastle.verify_certificate(renewed, issuing.certificate)
        assert view.not_after - now_utc() > timedelta(days=700)
        assert view.public == world.signer_for("ocsp-issuing").public_key
        assert ("authority.ocsp_signer", "ocsp-issuing") in [row[:2] for row in await audit_rows(world.database)]
        again = await ensure_ocsp_signer(world.database, world.keystore, PLAN.ocsp_name, world.clock, "cli:test")
        assert again == renewed


async def test_a_flipped_bit_is_refused(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    async with installation(tmp_path) as world:
        issued = await world.issuer.issue(Request().encode(), "organisation", actor="cli:test")
    leaf, (issuing, root) = issued.certificates[0].der, issued.chain
    bouncycastle.validate_path(root, [leaf, issuing], at=now_utc())
    tbs = codec.split_signed(leaf).tbs
    at = leaf.index(tbs) + len(tbs) // 2
    for where in (at, len(leaf) - 3):
        flipped = bytearray(leaf)
        flipped[where] ^= 1
        with pytest.raises(Refused):
            bouncycastle.validate_path(root, [bytes(flipped), issuing], at=now_utc())
