"""`qianyan import`: ca, certificates, crl, finish, ocsp-request, ocsp-certificate, status."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from core.clock import from_datetime, rfc3339, system_clock
from core.errors import SettingsError
from core.model import KeyPurpose
from core.store import authorities, counters, crl_points, imports, keys
from core.store.database import Database
from core.store.imports import Job
from crl.points import settle_all
from service.commands import import_ocsp_command
from service.commands.import_ocsp_command import issuer_of
from service.commands.import_said import Taken, certificates_ended, crls_ended, job_json, progress_bar
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
from service.opening import open_keystore, open_store
from service.settings import Loaded, read_secret_file
from signer.importing import adopt as adopting
from signer.importing import crl as crl_import
from signer.importing import sources
from signer.importing.adopt import Key
from signer.importing.certificates import CertificateTaker, Placing
from signer.importing.crl import CrlTaker
from signer.importing.job import Importer, new_job
from signer.importing.keyfile import read_key
from signer.issuance.ocsp_signer import ensure_ocsp_signer

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_PATH = click.Path(exists=True, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)


@click.group("import")
def import_group() -> None:
    """Take over what another authority issued: its certificates, revocations and CRL numbers.

    In this order: 'import ca', 'import certificates' and 'import crl' (the newest CRLs last), 'import finish'. Nothing
    of the authority's status is served before 'finish'. Every command may be given again: what was interrupted goes on
    where it was, and what is done changes nothing.
    """


async def _key_from(loaded: Loaded, file: Path, passphrase: bytearray | None, key_id: str) -> Key:
    """The key of a file, put into the key store."""
    key = await asyncio.to_thread(read_key, file, passphrase)
    keystore = open_keystore(loaded, passphrase_for(loaded))
    try:
        await asyncio.to_thread(keystore.restore, key_id, key)
        return Key(key_id, key.public_key.to_bytes(), new=True)
    finally:
        keystore.close()
        key.wipe()


async def _device_key(loaded: Loaded, config_file: str | None, index: int, key_id: str) -> Key:
    async with with_node(config_file) as node:
        point = await node.engine.register_device_key(key_id, KeyPurpose.CERTIFICATE, "authority", index, actor())
        return Key(key_id, point, new=False)


async def _known_key(loaded: Loaded, key_id: str) -> Key:
    async with open_store(loaded) as database, database.read() as connection:
        record = await keys.get(connection, key_id)
    if record.purpose is not KeyPurpose.CERTIFICATE:
        raise SettingsError(f"key {key_id!r} is for {record.purpose.value}, not for certificates", code="key_purpose")
    return Key(key_id, record.public_key, new=False)


@import_group.command()
@click.argument("authority_id", metavar="AUTHORITY")
@click.option("--certificate", "certificate_file", required=True, type=_FILE, help="The authority's certificate.")
@click.option("--chain", "chain_files", multiple=True, type=_FILE, help="Who signed it, and so on up to the root.")
@click.option("--key", "key_file", type=_FILE, help="Its private key, PKCS#8 in PEM: the authority goes on here.")
@click.option("--key-passphrase-file", type=_FILE, help="The passphrase of that file; mode 0600.")
@click.option("--device-index", type=click.IntRange(0), help="Its private key is in the hardware modules, there.")
@click.option("--key-id", metavar="KEY", help="Its private key is this key of the store already.")
@config_option
@json_option
def ca(
    authority_id: str,
    certificate_file: Path,
    chain_files: tuple[Path, ...],
    key_file: Path | None,
    key_passphrase_file: Path | None,
    device_index: int | None,
    key_id: str | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Take AUTHORITY over: with its key, or (no key named) its status alone.

    Its certificate is checked, and the chain where one is given. With its key, the authority issues and makes CRLs
    here. Without, it answers OCSP by a signer that the authority certifies elsewhere: see 'import ocsp-request'.
    """
    if sum(one is not None for one in (key_file, device_index, key_id)) > 1:
        raise click.UsageError("--key, --device-index and --key-id exclude one another")
    loaded = load_settings(config_file)

    certificate, chain = certificate_file.read_bytes(), [path.read_bytes() for path in chain_files]

    async def write() -> dict[str, Any]:
        key = None
        if key_file is not None:
            secret = None if key_passphrase_file is None else read_secret_file(key_passphrase_file, "passphrase file")
            key = await _key_from(loaded, key_file, secret, authority_id)
        elif device_index is not None:
            key = await _device_key(loaded, config_file, device_index, authority_id)
        elif key_id is not None:
            key = await _known_key(loaded, key_id)
        async with open_store(loaded) as database:
            made = await adopting.adopt(database, authority_id, certificate, chain, key, system_clock, actor())
        return {"authority": made.id, "key": made.key_id, "parent": made.parent_id}

    value = run(write())
    said = f"authority {authority_id} is taken over; now 'qianyan import certificates {authority_id} …'"
    print_result(value, as_json, lambda: said)


_report_option = click.option("--report", type=_OUT, help="Write a line of JSON for each item there.")
_placing_options = (
    click.option("--profile", default="imported", show_default=True, help="What kind of certificate they are."),
    click.option("--ra", default="", help="Registration authority that statistics count them under."),
    click.option("--region", default="", help="Region, as 广东省/广州市.  [default: of each certificate's subject]"),
    click.option("--customer", default="", help="Customer or project that statistics count them under."),
)


def _with_placing(command: Any) -> Any:
    for option in reversed(_placing_options):
        command = option(command)
    return command


@import_group.command()
@click.argument("authority_id", metavar="AUTHORITY")
@click.argument("paths", nargs=-1, required=True, type=_PATH)
@_report_option
@_with_placing
@click.option(
    "--pairs", is_flag=True, help="A signing and an encryption certificate of one subject and time are a pair."
)
@config_option
@json_option
def certificates(
    authority_id: str,
    paths: tuple[Path, ...],
    report: Path | None,
    profile: str,
    ra: str,
    region: str,
    customer: str,
    pairs: bool,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Take over certificates of AUTHORITY: PEM with any number of them, DER, folders of both, CSV.

    Each is checked: form, issuer, signature, dates, key, key usage. What is not right is refused and reported, the
    others are taken over; exit status 3 says that some were refused. The columns of CSV: certificate (DER in base64),
    serial, status (good, revoked, held), revoked_at, reason, invalidity_at, ra, region, customer, profile.
    """
    loaded = load_settings(config_file)

    async def write() -> Job:
        files = sources.files_of(list(paths))
        digest = await asyncio.to_thread(sources.digest_of, files)
        async with open_store(loaded) as database:
            issuer = await issuer_of(database, authority_id)
            await _settle(database, loaded, authority_id)
            placing = Placing(profile, ra, region, customer, pairs)
            now_ms = system_clock()
            job = new_job(authority_id, "certificates", digest, actor(), now_ms)
            importer = Importer(database, system_clock, job, CertificateTaker(issuer, placing, now_ms), report)
            bar, advance = progress_bar(None)
            with bar:
                return await importer.run(lambda: sources.items(files), advance)

    certificates_ended(run(write()), as_json)


async def _settle(database: Database, loaded: Loaded, authority_id: str) -> None:
    """Has partition 0 be where our own certificates say, before others are added."""
    await settle_all(database, authority_id, loaded.settings.issuance.public_url)


@import_group.command()
@click.argument("authority_id", metavar="AUTHORITY")
@click.argument("files", nargs=-1, required=True, type=_FILE)
@_report_option
@_with_placing
@click.option("--allow-ended", is_flag=True, help="Take a CRL that is past its nextUpdate; later revocations are lost.")
@click.option(
    "--allow-older", is_flag=True, help="Take a CRL though a newer one was taken: holds that ended come back."
)
@config_option
@json_option
def crl(
    authority_id: str,
    files: tuple[Path, ...],
    report: Path | None,
    profile: str,
    ra: str,
    region: str,
    customer: str,
    allow_ended: bool,
    allow_older: bool,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Take over the revocations and the number of AUTHORITY's CRLs, DER or PEM.

    Serials whose certificate is not known are kept and served as revoked. CRLs made here go on above the number. A
    certificate that is revoked here already stays so, and a hold that the CRL no longer has is not ended: what is
    missing on the CRL is told. Exit status 3: entries were refused, or revocations are missing on the CRL.
    """
    if report is not None and len(files) > 1:
        raise click.UsageError("--report is for one CRL at a time")
    loaded = load_settings(config_file)
    placing = Placing(profile, ra, region, customer)

    async def one(database: Database, file: Path) -> Taken:
        issuer, now_ms = await issuer_of(database, authority_id), system_clock()
        content = await asyncio.to_thread(file.read_bytes)
        listed = await asyncio.to_thread(crl_import.read, content, issuer, now_ms, allow_ended=allow_ended)
        taker = CrlTaker(issuer, listed, placing, now_ms)
        digest = await asyncio.to_thread(sources.digest_of, [file])
        job = new_job(authority_id, "crl", digest, actor(), now_ms)
        async with database.write() as connection:
            await counters.advance_time(connection, now_ms)
            begun = await imports.find(connection, job.id) is not None
            await taker.settle(connection, allow_older=allow_older or begun)
            await imports.begin(connection, job)  # with the number: 'finish' is to wait for its entries
        bar, advance = progress_bar(len(listed.parsed))
        with bar:
            return file, await Importer(database, system_clock, job, taker, report).run(listed.entries, advance), taker

    async def write() -> list[Taken]:
        async with open_store(loaded) as database:
            await _settle(database, loaded, authority_id)
            return [await one(database, file) for file in files]

    crls_ended(run(write()), as_json)


def _cutoff(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter("write 2026-11-20 or 2026-11-20T08:00:00+08:00", context, parameter) from error
    return from_datetime(at if at.tzinfo else at.replace(tzinfo=UTC)) // 1000


@import_group.command()
@click.argument("authority_id", metavar="AUTHORITY")
@click.option(
    "--cutoff",
    callback=_cutoff,
    metavar="TIME",
    help="Everything that the authority issued before then is imported.  [default: behind the last one imported]",
)
@click.option("--without-crl", is_flag=True, help="Nothing is revoked that an imported CRL does not list.")
@click.option("--accept-refused", is_flag=True, help="What was refused says nothing of revocations.")
@click.option("--ocsp-name", default="OCSP signer", show_default=True, help="CN of the OCSP signer that is made.")
@config_option
@json_option
def finish(
    authority_id: str,
    cutoff: int | None,
    without_crl: bool,
    accept_refused: bool,
    ocsp_name: str,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Let AUTHORITY's status be served: OCSP, and with its key CRLs and status sets. Everything must be imported.

    Give it again after later imports, so that status sets speak of them.
    """
    loaded = load_settings(config_file)

    async def write() -> int:
        async with open_store(loaded) as database:
            at = await adopting.finish(
                database,
                authority_id,
                system_clock,
                actor(),
                cutoff_s=cutoff,
                without_crl=without_crl,
                accept_refused=accept_refused,
            )
            async with database.read() as connection:
                authority = await authorities.get(connection, authority_id)
        if authority.key_id is not None and authority.ocsp_certificate is None:
            await _make_ocsp_signer(loaded, config_file, authority_id, authority.key_id, ocsp_name)
        return at

    at = run(write())
    value = {"authority": authority_id, "cutoff": rfc3339(at * 1000)}
    said = f"authority {authority_id} is served; its certificates of before {rfc3339(at * 1000)} are all here"
    print_result(value, as_json, lambda: said)


async def _make_ocsp_signer(loaded: Loaded, config_file: str | None, authority_id: str, key_id: str, name: str) -> None:
    async with with_node(config_file) as node:
        keystore = open_keystore(loaded, passphrase_for(loaded))
        try:
            await ensure_ocsp_signer(
                node.database,
                keystore,
                {"CN": name},
                system_clock,
                actor(),
                authority_id=authority_id,
                status_index_oid=loaded.settings.issuance.status_index_oid,
                signer=node.engine.signer(key_id, KeyPurpose.CERTIFICATE),
            )
        finally:
            keystore.close()


@import_group.command()
@click.argument("authority_id", metavar="AUTHORITY")
@config_option
@json_option
def status(authority_id: str, config_file: str | None, as_json: bool) -> None:
    """Show AUTHORITY's imports, and the addresses at which its CRLs have to be reached from now on."""

    async def read() -> dict[str, Any]:
        async with with_store(config_file) as database, database.read() as connection:
            adopted = await imports.adopted(connection, authority_id)
            jobs = await imports.list_all(connection, authority_id)
            points = await crl_points.list_all(connection, authority_id)
        return {
            "authority": authority_id,
            "finished": adopted.cutoff_s is not None,
            "cutoff": None if adopted.cutoff_s is None else rfc3339(adopted.cutoff_s * 1000),
            "imports": [job_json(job) for job in jobs],
            "crls": [
                {"address": point.url, "served_at": f"/crl/{authority_id}/{point.partition}.crl"} for point in points
            ],
        }

    value = run(read())
    if as_json:
        print_json(value)
        return
    click.echo("finished" if value["finished"] else "not finished: nothing of it is served")
    columns = ("id", "kind", "state", "position", "accepted", "known", "refused")
    print_table(columns, [[job[name] for name in columns] for job in value["imports"]], empty="no imports")
    print_table(("address", "served_at"), [list(one.values()) for one in value["crls"]], empty="no CRLs")


for _command in (import_ocsp_command.ocsp_request, import_ocsp_command.ocsp_certificate):
    import_group.add_command(_command)
