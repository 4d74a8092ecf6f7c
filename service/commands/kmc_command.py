"""`qianyan kmc`: status; request; ca add, list, replace, withdraw, admit. The group `master` is a module of its own."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
from cryptography import x509
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1 import names
from core.asn1.x509 import join_signed, public_key_of_certificate
from core.audit import AuditEvent
from core.clock import from_datetime, rfc3339, system_clock
from core.errors import Malformed, NotFound, Refused, SettingsError
from core.model import KeyPurpose
from core.store import audit, counters, escrow, kmc_external, kmc_served
from core.store.kmc_served import ServedAuthority
from service.client_certificates import read_file
from service.commands.caller_command import certificate_json
from service.commands.kmc_master_command import master
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    print_json,
    print_result,
    print_table,
    run,
    with_node,
    with_store,
)
from service.files import write_new
from service.holder import request_info
from signer._native import sm2
from signer.kmc.identity import EngineIdentity

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_certificate_option = click.option(
    "--certificate",
    "file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The certificate that verifies the authority's CA-KM messages, PEM or DER.",
)


@click.group()
def kmc() -> None:
    """Key management: the stores of encryption keys, and the authorities and centres it speaks to."""


@kmc.command()
@config_option
@json_option
def status(config_file: str | None, as_json: bool) -> None:
    """Count the keys in each store, those kept for other authorities, and those that other centres keep."""

    async def read() -> dict[str, Any]:
        async with with_store(config_file) as database, database.read() as connection:
            value: dict[str, Any] = asdict(await escrow.counts(connection))
            served = await kmc_served.counts(connection)
            value["served"] = {one.authority_id: {"in_use": one.in_use, "history": one.history} for one in served}
            value["centres"] = await kmc_external.counts(connection)
            return value

    print_result(value := run(read()), as_json, lambda: "\n".join(_lines(value)))


def _lines(value: dict[str, Any]) -> list[str]:
    lines = [f"{name:10}{value[name]}" for name in ("spare", "in_use", "history")]
    for title in ("served", "centres"):
        for name, stores in value[title].items():
            said = ", ".join(f"{count} {store.replace('_', ' ')}" for store, count in stores.items())
            lines.append(f"{'for' if title == 'served' else 'at'} {name}: {said}")
    return lines


kmc.add_command(master)


@kmc.command()
@click.option("--cn", "common_name", required=True, help="CN of the subject: the centre's or authority's name.")
@click.option("--organization", help="O of the subject.")
@click.option("--country", default="CN", show_default=True, help="C of the subject.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Where it goes, DER.")
@config_option
def request(common_name: str, organization: str | None, country: str, out: Path, config_file: str | None) -> None:
    """Write the certificate request of the key that signs CA-KM messages (kmc.key), which is made where it is not yet.

    No caller may use that key, only the service itself. Its certificate goes back in by `qianyan key service`.
    """
    fields = {"C": country, "CN": common_name} | ({"O": organization} if organization else {})

    async def make() -> tuple[str, bytes]:
        async with with_node(config_file) as node:
            name = node.loaded.settings.kmc.key
            if not name:
                raise SettingsError('set kmc.key first, for example kmc.key = "kmc"', code="kmc_off")
            try:
                public_key = node.engine.public_key(name)
            except NotFound:
                public_key = await node.engine.create_key(name, KeyPurpose.DATA, "key management", actor())
            info = request_info(public_key, names.build_name(fields).public_bytes())
            return name, join_signed(info, await EngineIdentity(node.engine, node.database, name).sign(info))

    name, encoded = run(make())
    write_new(out, encoded, replace=True)
    click.echo(
        f"wrote {out}; then: qianyan issue --csr {out} --profile person-sign --out-dir DIR, and with what is there:\n"
        f"qianyan key service {name} --certificate FILE"
    )


@kmc.group()
def ca() -> None:
    """Authorities that may ask this installation for encryption keys, by CA-KM messages (GM/T 0014)."""


def _check_certificate(file: Path) -> bytes:
    """DER. Raises Refused, Malformed, SettingsError."""
    der = read_file(file)
    try:
        sm2.PublicKey.from_bytes(public_key_of_certificate(der))
    except (Malformed, Refused, sm2.InvalidKey) as error:
        raise Refused(f"the certificate in {file} has no SM2 key", code="key_algorithm") from error
    if from_datetime(x509.load_der_x509_certificate(der).not_valid_after_utc) <= system_clock():
        raise Refused(f"the certificate in {file} has expired", code="certificate_expired")
    return der


def _write(
    config_file: str | None, name: str, action: str, work: Callable[[AsyncConnection, int], Awaitable[None]]
) -> None:
    async def step() -> None:
        async with with_store(config_file) as database:
            async with database.write() as connection:
                at_ms = await counters.advance_time(connection, system_clock())
                await work(connection, at_ms)
                await audit.append(connection, AuditEvent(actor(), f"kmc.ca_{action}", f"kmc:{name}"), at_ms=at_ms)
            await database.settle()

    run(step())


def _shown(one: ServedAuthority) -> dict[str, Any]:
    return {
        "id": one.id,
        "withdrawn": one.withdrawn,
        "created_at": rfc3339(one.created_at_ms),
        "certificate": certificate_json(one.certificate, "every octet"),
    }


@ca.command()
@click.argument("name")
@_certificate_option
@config_option
@json_option
def add(name: str, file: Path, config_file: str | None, as_json: bool) -> None:
    """Admit an authority as NAME. Who brings its messages needs the scope kmc besides (token or caller)."""
    if not _NAME.fullmatch(name):
        raise Refused("NAME has 1 to 32 small letters, digits, '.', '_' or '-'", code="kmc_ca_name")
    der = _check_certificate(file)

    async def work(connection: AsyncConnection, at_ms: int) -> None:
        await kmc_served.add_authority(connection, name, der, at_ms=at_ms)

    _write(config_file, name, "add", work)
    certificate = certificate_json(der, "every octet")
    value = {"id": name, "certificate": certificate}
    print_result(value, as_json, lambda: f"{name} may ask for keys; its certificate: {certificate['subject']}")


@ca.command()
@click.argument("name")
@_certificate_option
@config_option
def replace(name: str, file: Path, config_file: str | None) -> None:
    """Give authority NAME another certificate; messages under the old one are refused from then on."""
    der = _check_certificate(file)

    async def work(connection: AsyncConnection, at_ms: int) -> None:
        await kmc_served.change_authority(connection, name, at_ms=at_ms, certificate=der)

    _write(config_file, name, "replace", work)
    click.echo(f"{name} has its new certificate")


def _admission(config_file: str | None, name: str, *, withdrawn: bool) -> None:
    async def work(connection: AsyncConnection, at_ms: int) -> None:
        await kmc_served.change_authority(connection, name, at_ms=at_ms, withdrawn=withdrawn)

    _write(config_file, name, "withdraw" if withdrawn else "admit", work)
    click.echo(
        f"{name} may {'not ask for keys any more; those it has are kept' if withdrawn else 'ask for keys again'}"
    )


@ca.command()
@click.argument("name")
@config_option
def withdraw(name: str, config_file: str | None) -> None:
    """Refuse every message of authority NAME from now on. Its keys are kept."""
    _admission(config_file, name, withdrawn=True)


@ca.command()
@click.argument("name")
@config_option
def admit(name: str, config_file: str | None) -> None:
    """Admit authority NAME again, which was withdrawn."""
    _admission(config_file, name, withdrawn=False)


@ca.command("list")
@config_option
@json_option
def list_command(config_file: str | None, as_json: bool) -> None:
    """List the authorities, those withdrawn too."""

    async def read() -> list[ServedAuthority]:
        async with with_store(config_file) as database, database.read() as connection:
            return list(await kmc_served.list_authorities(connection))

    found = [_shown(one) for one in run(read())]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            one["id"],
            "withdrawn" if one["withdrawn"] else "admitted",
            one["certificate"]["subject"],
            one["certificate"]["not_after"],
        )
        for one in found
    ]
    print_table(["id", "state", "certificate", "valid until"], rows, empty="no authorities")
