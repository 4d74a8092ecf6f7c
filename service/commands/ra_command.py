"""`qianyan ra`: register, change, list, show, withdraw; `qianyan person`: add, list, withdraw."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from core.asn1.x509 import certificate_der, load_certificate
from service.commands import ra_retire_command
from service.commands.ra_request_command import request as request_group
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    print_json,
    print_result,
    print_table,
    run,
    with_node,
)
from service.files import write_new
from signer.issuance.grounds import Ground
from signer.registration.admin import Administration
from signer.registration.admin_http import appointed_as_json
from signer.registration.records import PersonView, PersonWish, RaWish, person_as_json, ra_as_json
from signer.registration.roles import Role

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_LISTS: Final = (
    ("--profile", "profiles", "Certificate profile that it may ask for, or '*' for every one."),
    ("--region", "regions", "Administrative division that it is for, 2 to 6 digits, or '*'."),
    ("--customer", "customers", "Customer that it is for, or '*'."),
    ("--caller", "callers", "Caller that may read its requests: token:NAME or cert:NAME; 'none' for nobody."),
)


@click.group()
def ra() -> None:
    """Registration authorities: who may ask for certificates by signed requests."""


ra.add_command(request_group)
ra.add_command(ra_retire_command.retire)
ra.add_command(ra_retire_command.retired)


@click.group()
def person() -> None:
    """People of registration authorities: who enters, who approves, who audits, and by which certificates."""


def scope_options(command: F) -> F:
    """Adds an option for each list of the scope; each may be given several times."""
    for option, member, meaning in reversed(_LISTS):
        command = click.option(option, member, multiple=True, help=meaning + "  Several times for several.")(command)
    return click.option(
        "--unassigned/--assigned-only",
        "unassigned",
        default=None,
        help="Whether it may act on certificates that no registration authority asked for (imported ones).",
    )(command)


def _wish(name: str | None, unassigned: bool | None, lists: dict[str, tuple[str, ...]]) -> RaWish:
    given = {member: values or None for member, values in lists.items()}
    if given["callers"] == ("none",):
        given["callers"] = ()
    return RaWish(name=name, unassigned=unassigned, **given)


def _do(config_file: str | None, work: Callable[[Administration], Awaitable[T]]) -> T:
    async def step() -> T:
        async with with_node(config_file) as node:
            done = await work(node.office.administration)
            await node.database.settle()
            return done

    return run(step())


@ra.command()
@click.argument("ra_id", metavar="ID")
@click.option("--name", required=True, help="What it is called.")
@scope_options
@config_option
@json_option
def register(
    ra_id: str,
    name: str,
    unassigned: bool | None,
    config_file: str | None,
    as_json: bool,
    **lists: tuple[str, ...],
) -> None:
    """Register a registration authority ID. What is not given of its scope it may not do: give --profile at least."""
    wish = _wish(name, unassigned, lists)
    made = _do(config_file, lambda office: office.register(ra_id, wish, actor=actor()))
    print_result(ra_as_json(made), as_json, lambda: f"{ra_id} is registered; add its people: qianyan person add")


@ra.command()
@click.argument("ra_id", metavar="ID")
@click.option("--name", help="What it is called.")
@scope_options
@config_option
@json_option
def change(
    ra_id: str,
    name: str | None,
    unassigned: bool | None,
    config_file: str | None,
    as_json: bool,
    **lists: tuple[str, ...],
) -> None:
    """Change a registration authority from now on. A list that is given replaces the one before."""
    wish = _wish(name, unassigned, lists)
    changed = _do(config_file, lambda office: office.change(ra_id, wish, actor=actor()))
    print_result(ra_as_json(changed), as_json, lambda: f"{ra_id} is changed")


@ra.command("list")
@config_option
@json_option
def list_ras(config_file: str | None, as_json: bool) -> None:
    """List every registration authority."""
    found = [ra_as_json(one) for one in _do(config_file, lambda office: office.list_all())]
    if as_json:
        print_json(found)
        return
    columns = ["id", "name", "state", "profiles", "regions", "customers"]
    rows = [[" ".join(one[c]) if isinstance(one[c], list) else one[c] for c in columns] for one in found]
    print_table(columns, rows, empty="no registration authorities")


@ra.command()
@click.argument("ra_id", metavar="ID")
@config_option
@json_option
def show(ra_id: str, config_file: str | None, as_json: bool) -> None:
    """Show a registration authority and its people, their names masked."""

    async def read(office: Administration) -> dict[str, Any]:
        value = ra_as_json(await office.get(ra_id))
        return value | {"people": [person_as_json(one) for one in await office.people(ra_id)]}

    found = _do(config_file, read)
    if as_json:
        print_json(found)
        return
    for name in ("id", "name", "state", "profiles", "regions", "customers", "callers", "unassigned"):
        value = found[name]
        click.echo(f"{name:12}{' '.join(value) if isinstance(value, list) else value}")
    _print_people(found["people"])


@ra.command()
@click.argument("ra_id", metavar="ID")
@click.option("--ground", type=click.Choice([one.value for one in Ground]), default=Ground.DUTY_NOT_MET.value)
@config_option
@json_option
def withdraw(ra_id: str, ground: str, config_file: str | None, as_json: bool) -> None:
    """Withdraw a registration authority for good: its people's certificates are revoked, every right ends at once."""
    ended = _do(config_file, lambda office: office.withdraw(ra_id, actor=actor(), ground=Ground(ground)))
    print_result(ra_as_json(ended), as_json, lambda: f"{ra_id} is withdrawn; its people's certificates are revoked")


@person.command()
@click.argument("ra_id", metavar="RA")
@click.argument("person_id", metavar="ID")
@click.option("--name", required=True, help="The person's name; kept sealed, shown masked.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice([one.value for one in Role]),
    help="What the person is; give it several times for several.",
)
@click.option("--csr", type=_FILE, help="Request for a certificate (PKCS#10) by the person's own key; issued here.")
@click.option("--certificate", type=_FILE, help="A certificate that there is: issued here, or by an anchor.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where the new certificate is written.")
@config_option
@json_option
def add(
    ra_id: str,
    person_id: str,
    name: str,
    roles: tuple[str, ...],
    csr: Path | None,
    certificate: Path | None,
    out: Path | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Add a person ID to RA, or give one that is there another certificate and these roles."""
    if (csr is None) == (certificate is None):
        raise click.UsageError("give --csr or --certificate")
    der = None if certificate is None else certificate_der(load_certificate(certificate.read_bytes()))
    request = None if csr is None else csr.read_bytes()
    wish = PersonWish(person_id, name, frozenset(map(Role, roles)), der, request)
    made = _do(config_file, lambda office: office.appoint(ra_id, wish, actor=actor()))
    if out is not None and made.issued is not None:
        write_new(out, made.issued.certificates[0].der, mode=0o644, replace=True)
    serial = made.view.certificates[-1].serial
    print_result(appointed_as_json(made), as_json, lambda: f"{person_id} signs for {ra_id} with certificate {serial:x}")


@person.command("list")
@click.argument("ra_id", metavar="RA")
@config_option
@json_option
def list_people(ra_id: str, config_file: str | None, as_json: bool) -> None:
    """List the people of RA, their names masked."""
    found = [person_as_json(one) for one in _do(config_file, lambda office: office.people(ra_id))]
    if as_json:
        print_json(found)
    else:
        _print_people(found)


@person.command("withdraw")
@click.argument("ra_id", metavar="RA")
@click.argument("person_id", metavar="ID")
@click.option("--ground", type=click.Choice([one.value for one in Ground]), default=Ground.POST_LEFT.value)
@config_option
@json_option
def withdraw_person(ra_id: str, person_id: str, ground: str, config_file: str | None, as_json: bool) -> None:
    """Withdraw a person of RA for good; certificates that were issued here are revoked."""

    def work(office: Administration) -> Awaitable[PersonView]:
        return office.dismiss(ra_id, person_id, actor=actor(), ground=Ground(ground))

    print_result(person_as_json(_do(config_file, work)), as_json, lambda: f"{person_id} is withdrawn")


def _print_people(people: list[dict[str, Any]]) -> None:
    rows = [
        (one["id"], one["name"], " ".join(one["roles"]), one["state"], certificate["serial"], certificate["not_after"])
        for one in people
        for certificate in one["certificates"]
    ]
    print_table(["person", "name", "roles", "state", "certificate", "until"], rows, empty="no people")
