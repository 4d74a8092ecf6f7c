"""`qianyan ca`: list, install, renew-ocsp, set-signer, partitions."""

from __future__ import annotations

from pathlib import Path

import click

from core.asn1.x509 import load_certificate
from core.audit import AuditEvent
from core.clock import system_clock
from core.errors import Refused
from core.model import KeyPurpose
from core.store import audit, authorities, counters, crl_points
from core.store.authorities import Authority
from core.store.crl_points import CrlPoint
from crl.points import settle_all
from service.commands.set_signer_command import set_signer
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    load_settings,
    passphrase_for,
    print_json,
    print_result,
    print_table,
    run,
    with_node,
    with_store,
)
from service.files import write_new
from service.opening import open_keystore, open_store
from signer.issuance.external import export_request, install_certificate
from signer.issuance.ocsp_signer import ensure_ocsp_signer, renew_ocsp_signer

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def ca() -> None:
    """Authorities and their certificates."""


ca.add_command(set_signer)


def _as_json(authority: Authority) -> dict[str, object]:
    certificate = None if authority.certificate is None else load_certificate(authority.certificate)
    responder = None if authority.ocsp_certificate is None else load_certificate(authority.ocsp_certificate)
    set_certificate = None if authority.set_certificate is None else load_certificate(authority.set_certificate)
    return {
        "id": authority.id,
        "parent": authority.parent_id,
        "key": authority.key_id,
        "subject": None if certificate is None else certificate.subject.rfc4514_string(),
        "not_after": None if certificate is None else certificate.not_valid_after_utc.isoformat(),
        "ocsp_signer_not_after": None if responder is None else responder.not_valid_after_utc.isoformat(),
        "set_signer_not_after": None if set_certificate is None else set_certificate.not_valid_after_utc.isoformat(),
        "partitions": authority.partitions,
    }


@ca.command("list")
@config_option
@json_option
def list_authorities(config_file: str | None, as_json: bool) -> None:
    """List every authority."""

    async def read() -> list[Authority]:
        async with with_store(config_file) as database, database.read() as connection:
            return await authorities.list_all(connection)

    found = [_as_json(authority) for authority in run(read())]
    if as_json:
        print_json(found)
        return
    columns = [
        "id",
        "parent",
        "key",
        "subject",
        "not_after",
        "ocsp_signer_not_after",
        "set_signer_not_after",
        "partitions",
    ]
    print_table(columns, [[row[column] for column in columns] for row in found], empty="no authorities")


@ca.command()
@click.option("--certificate", "certificate_file", required=True, type=FILE, help="The authority's certificate.")
@click.option(
    "--chain",
    "chain_files",
    required=True,
    multiple=True,
    type=FILE,
    help="The certificate that signed it, and so on up to the root; give it several times.",
)
@click.option("--ocsp-name", default="OCSP signer", show_default=True, help="CN of the OCSP signer that is made.")
@config_option
@json_option
def install(
    certificate_file: Path, chain_files: tuple[Path, ...], ocsp_name: str, config_file: str | None, as_json: bool
) -> None:
    """Install the certificate that an external root made for `init --external-root`'s request.

    It is checked first: our key, an authority that may sign certificates and CRLs, in force, signed by the chain.
    Files are DER or PEM. The OCSP signer is made in the same step.
    """
    loaded = load_settings(config_file)
    passphrase = passphrase_for(loaded)
    certificate, chain = certificate_file.read_bytes(), [path.read_bytes() for path in chain_files]
    authority_id = loaded.settings.issuance.authority

    async def write() -> Authority:
        async with open_store(loaded) as database:
            await install_certificate(database, certificate, chain, system_clock, actor(), authority_id=authority_id)
            keystore = open_keystore(loaded, passphrase)
            try:
                await ensure_ocsp_signer(
                    database,
                    keystore,
                    {"CN": ocsp_name},
                    system_clock,
                    actor(),
                    authority_id=authority_id,
                    status_index_oid=loaded.settings.issuance.status_index_oid,
                )
            finally:
                keystore.close()
            async with database.read() as connection:
                return await authorities.get(connection, authority_id)

    authority = run(write())
    print_result(_as_json(authority), as_json, lambda: f"authority {authority.id} is ready: qianyan serve")


@ca.command()
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Where it goes, DER.")
@config_option
def request(out: Path, config_file: str | None) -> None:
    """Write the request of an authority that waits for its certificate once more."""
    loaded = load_settings(config_file)
    passphrase = passphrase_for(loaded)

    async def make() -> bytes:
        async with open_store(loaded) as database:
            keystore = open_keystore(loaded, passphrase)
            try:
                return await export_request(database, keystore, loaded.settings.issuance.authority)
            finally:
                keystore.close()

    write_new(out, run(make()), replace=True)
    click.echo(f"wrote {out}")


@ca.command("renew-ocsp")
@click.option("--authority", "authority_id", default="issuing", show_default=True)
@click.option("--within-days", default=366, show_default=True, help="Only where it ends within so many days.")
@config_option
@json_option
def renew_ocsp(authority_id: str, within_days: int, config_file: str | None, as_json: bool) -> None:
    """Give an authority's OCSP signer a new certificate; running services take it up at once.

    A running service does this by itself, 30 days before the old one ends.
    """

    async def write() -> Authority:
        async with with_node(config_file) as node:
            async with node.database.read() as connection:
                authority = await authorities.get(connection, authority_id)
            if authority.key_id is None:
                raise Refused(f"the key of authority {authority_id!r} is not here", code="key_elsewhere")
            signer = node.engine.signer(authority.key_id, KeyPurpose.CERTIFICATE)
            await renew_ocsp_signer(
                node.database,
                signer,
                node.clock,
                actor(),
                authority_id=authority_id,
                within_days=within_days,
                status_index_oid=node.loaded.settings.issuance.status_index_oid,
            )
            async with node.database.read() as connection:
                return await authorities.get(connection, authority_id)

    authority = run(write())
    print_result(_as_json(authority), as_json, lambda: f"authority {authority.id} has its OCSP signer")


@ca.command()
@click.argument("authority_id", metavar="AUTHORITY")
@click.argument("count", metavar="[N]", required=False, type=click.IntRange(1, crl_points.MOST))
@config_option
@json_option
def partitions(authority_id: str, count: int | None, config_file: str | None, as_json: bool) -> None:
    """Spread an authority's new certificates over N CRLs, or list the CRLs it has.

    At any time, with the service running. A certificate stays in the CRL that it names: with a larger N new partitions
    are opened, with a smaller one the last are closed to new certificates while their CRLs go on.
    """
    loaded = load_settings(config_file)
    public_url = loaded.settings.issuance.public_url

    async def write() -> list[CrlPoint]:
        async with open_store(loaded) as database:
            await settle_all(database, authority_id, public_url)
            if count is None:
                async with database.read() as connection:
                    return await crl_points.list_all(connection, authority_id)
            async with database.write() as connection:
                at_ms = await counters.advance_time(connection, system_clock())
                detail: dict[str, str | int] = {"open": count}
                event = AuditEvent(actor(), "authority.partitions", authority_id, detail=detail)
                await audit.append(connection, event, at_ms=at_ms)
                return await crl_points.open_first(connection, authority_id, count, public_url, at_ms=at_ms)

    rows: list[dict[str, object]] = [
        {"partition": point.partition, "open": point.open, "url": point.url} for point in run(write())
    ]
    if as_json:
        print_json(rows)
    else:
        columns = ["partition", "open", "url"]
        print_table(columns, [[row[column] for column in columns] for row in rows], empty="no partitions")
