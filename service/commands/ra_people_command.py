"""`qianyan ra request appoint` and `dismiss`: an RA's own administrators appoint and dismiss its people.

Knows `qianyan_ra` and files; no store, no settings. Attached to the group in `ra_request_command`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from qianyan_ra import GROUNDS, ROLES, Client, Person, Unfit, appoint, dismiss, read_certificates
from service.commands.ra_request_options import (
    in_file,
    key_path,
    out_file,
    person_options,
    ra_option,
    read_input,
    service_options,
    show_answer,
    told,
    write_output,
)
from service.commands.shared import json_option

_id_option: Final = click.option("--id", "request_id", help="The request's id.  [default: a new random one]")


@click.command(name="appoint")
@told
@click.argument("person_id", metavar="PERSON")
@ra_option
@click.option("--name", required=True, help="What the person is called; kept sealed, shown masked.")
@click.option(
    "--role", "roles", multiple=True, required=True, type=click.Choice(ROLES), help="Several times for several."
)
@click.option("--csr", type=in_file, help="A request for a certificate, by the person's own key.")
@click.option("--of", "of_file", type=key_path, help="A certificate that the person has.")
@click.option("--out", type=out_file, help="Where the new certificate is written, DER.")
@_id_option
@person_options
@service_options
@json_option
def appoint_command(
    person_id: str,
    ra: str,
    name: str,
    roles: tuple[str, ...],
    csr: Path | None,
    of_file: Path | None,
    out: Path | None,
    request_id: str | None,
    person: Person,
    client: Client,
    as_json: bool,
) -> None:
    """Appoint PERSON to roles, by an administrator of the RA: --certificate and --key are the administrator's.

    A person that is there gets another certificate, and these roles.
    """
    if out is not None and out.exists():
        raise Unfit(f"{out} is there already; name another file", code="file_exists")
    wish = appoint(
        ra,
        person_id,
        name,
        roles,
        csr=None if csr is None else read_input(csr),
        certificate=None if of_file is None else read_certificates(of_file.read_bytes())[0],
        request_id=request_id,
    )
    answer = client.submit_appointment(wish, person)
    if out is not None and (made := answer.person_certificate) is not None:
        write_output(made, out)
    show_answer(answer, None, as_json)


@click.command(name="dismiss")
@told
@click.argument("person_id", metavar="PERSON")
@ra_option
@click.option("--ground", type=click.Choice(GROUNDS), help="Why.  [default: post_left]")
@_id_option
@person_options
@service_options
@json_option
def dismiss_command(
    person_id: str,
    ra: str,
    ground: str | None,
    request_id: str | None,
    person: Person,
    client: Client,
    as_json: bool,
) -> None:
    """Dismiss PERSON for good, by an administrator of the RA; certificates that were issued here are revoked."""
    show_answer(
        client.submit_appointment(dismiss(ra, person_id, ground=ground, request_id=request_id), person), None, as_json
    )
