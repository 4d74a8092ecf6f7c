"""`qianyan renew`, `change`, `reissue`, `suspend`, `unlock`: a certificate's life, on the store directly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from core.clock import rfc3339
from core.model import serial_to_hex
from core.store.certificates import CertificateRecord
from service.commands.break_glass import break_glass_option, issuing_node
from service.commands.certificate_command import (
    authority_option,
    print_issued,
    print_records,
    read_serial,
    subject_of,
)
from service.commands.shared import actor, config_option, json_option, print_result, run
from signer.issuance.grounds import REISSUE_GROUNDS, Ground
from signer.issuance.issued import Issued
from signer.issuance.unlocking import UnlockToken

if TYPE_CHECKING:
    from service.node import Node

_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_directory = click.Path(file_okay=False, path_type=Path)
_out_dir = click.option("--out-dir", required=True, type=_directory, help="Where the new certificates are written.")


def _made(
    make: Callable[[Node], Awaitable[Issued]],
    opening: AbstractAsyncContextManager[Node],
    out_dir: Path,
    as_json: bool,
) -> None:
    async def work() -> Issued:
        async with opening as node:
            return await make(node)

    print_issued(run(work()), out_dir, as_json)


@click.command()
@click.argument("serial")
@click.option("--csr", "csr_file", type=_file, help="A request for new keys; without it the keys stay.")
@_out_dir
@authority_option
@break_glass_option
@config_option
@json_option
def renew(
    serial: str,
    csr_file: Path | None,
    out_dir: Path,
    authority: str | None,
    why: str | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Renew the certificate SERIAL and the other one of its pair, from their old end.

    Within `issuance.renewal_window_days` before that. The old pair stays valid until its own end.
    """
    csr = None if csr_file is None else csr_file.read_bytes()
    _made(
        lambda node: node.issuer.renew(read_serial(serial), actor=actor(), csr=csr, authority_id=authority),
        *(issuing_node(config_file, why, subject_of(authority, serial)), out_dir, as_json),
    )


@click.command()
@click.argument("serial")
@click.option("--csr", "csr_file", type=_file, required=True, help="A request with the new subject, by the same key.")
@_out_dir
@authority_option
@break_glass_option
@config_option
@json_option
def change(
    serial: str,
    csr_file: Path,
    out_dir: Path,
    authority: str | None,
    why: str | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Change the subject of the certificate SERIAL and its pair: new ones to the same end, the old ones revoked."""
    csr = csr_file.read_bytes()
    _made(
        lambda node: node.issuer.change(read_serial(serial), csr, actor=actor(), authority_id=authority),
        *(issuing_node(config_file, why, subject_of(authority, serial)), out_dir, as_json),
    )


@click.command()
@click.argument("serial")
@click.option("--csr", "csr_file", type=_file, required=True, help="A request with the same subject, by a new key.")
@click.option(
    "--ground", required=True, type=click.Choice(sorted(ground.value for ground in REISSUE_GROUNDS)), help="Why."
)
@_out_dir
@authority_option
@break_glass_option
@config_option
@json_option
def reissue(
    serial: str,
    csr_file: Path,
    ground: str,
    out_dir: Path,
    authority: str | None,
    why: str | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Reissue the certificate SERIAL and its pair with new keys to the same end; the old ones are revoked at once."""
    csr, on = csr_file.read_bytes(), Ground(ground)
    _made(
        lambda node: node.issuer.reissue(read_serial(serial), csr, on, actor=actor(), authority_id=authority),
        *(issuing_node(config_file, why, subject_of(authority, serial)), out_dir, as_json),
    )


@click.command()
@click.argument("serial")
@click.option("--ground", type=click.Choice([ground.value for ground in Ground]), help="Why; kept with the business.")
@authority_option
@break_glass_option
@config_option
@json_option
def suspend(
    serial: str, ground: str | None, authority: str | None, why: str | None, config_file: str | None, as_json: bool
) -> None:
    """Suspend the certificate SERIAL and the other one of its pair, until `resume` or `revoke`."""

    async def write() -> list[CertificateRecord]:
        async with issuing_node(config_file, why, subject_of(authority, serial)) as node:
            on = None if ground is None else Ground(ground)
            return await node.issuer.suspend(read_serial(serial), actor=actor(), authority_id=authority, ground=on)

    print_records(run(write()), as_json)


@click.command()
@click.argument("serial")
@authority_option
@break_glass_option
@config_option
@json_option
def unlock(serial: str, authority: str | None, why: str | None, config_file: str | None, as_json: bool) -> None:
    """Permit the medium of the certificate SERIAL to be unlocked: prints a token that is good once."""

    async def write() -> UnlockToken:
        async with issuing_node(config_file, why, subject_of(authority, serial)) as node:
            return await node.desk.unlocking.unlock(read_serial(serial), actor=actor(), authority_id=authority)

    given = run(write())
    value = {
        "serial": serial_to_hex(given.certificate.serial),
        "token": given.token,
        "expires_at": rfc3339(given.expires_at_ms),
    }
    print_result(value, as_json, lambda: f"{given.token}\nuntil {value['expires_at']}")
