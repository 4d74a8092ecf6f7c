"""`qianyan key request` and `qianyan key service`: a key held here gets a certificate, and an index for GB/T 38629."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from core.asn1 import names
from core.asn1.x509 import certificate_der, join_signed, load_certificate
from core.audit import AuditEvent
from core.clock import system_clock
from core.model import KeyPurpose
from core.store import audit, counters, keys
from service.commands.shared import actor, config_option, json_option, print_result, run, with_node, with_store
from service.files import write_new
from service.holder import request_info
from signer.signing.svs_keys import code_digest, make_code


@click.command()
@click.argument("key_id", metavar="ID")
@click.option("--cn", "common_name", required=True, help="CN of the subject.")
@click.option("--organization", help="O of the subject.")
@click.option("--country", default="CN", show_default=True, help="C of the subject.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Where it goes, DER.")
@config_option
def request(
    key_id: str, common_name: str, organization: str | None, country: str, out: Path, config_file: str | None
) -> None:
    """Write a certificate request (PKCS#10) for the data key ID, to be issued here or elsewhere."""
    fields = {"C": country, "CN": common_name} | ({"O": organization} if organization else {})
    subject = names.build_name(fields).public_bytes()

    async def make() -> bytes:
        async with with_node(config_file) as node:
            signer = node.engine.signer(key_id, KeyPurpose.DATA)
            info = request_info(signer.public_key, subject)
            return join_signed(info, await signer.sign(info))

    write_new(out, run(make()), replace=True)
    click.echo(f"wrote {out}; then: qianyan issue --csr {out} --profile person-sign --out-dir DIR")


@click.command("service")
@click.argument("key_id", metavar="ID")
@click.option("--index", type=click.IntRange(0, (1 << 31) - 1), help="keyIndex of GB/T 38629 clients.")
@click.option(
    "--certificate",
    "certificate_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The key's certificate, DER or PEM.",
)
@click.option("--new-code", is_flag=True, help="Replace the authorisation code; the old one ends at once.")
@config_option
@json_option
def give_service(
    key_id: str,
    index: int | None,
    certificate_file: Path | None,
    new_code: bool,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Give key ID its certificate, its index for GB/T 38629 and an authorisation code, which is shown once.

    What is not named stays as it is. Running services take it up at once.
    """
    certificate = None
    if certificate_file is not None:
        certificate = certificate_der(load_certificate(certificate_file.read_bytes()))

    async def write() -> tuple[keys.KeyRecord, str | None]:
        async with with_store(config_file) as database, database.write() as connection:
            now_ms = await counters.advance_time(connection, system_clock())
            before = await keys.get(connection, key_id)
            wanted = before.service_index if index is None else index
            code = make_code() if new_code or (wanted is not None and before.service_code is None) else None
            digest = before.service_code if code is None else code_digest(key_id, code.encode())
            after = await keys.set_service(
                connection, key_id, wanted, digest, certificate or before.certificate, at_ms=now_ms
            )
            detail: dict[str, str | int] = {"index": -1 if wanted is None else wanted, "new_code": int(bool(code))}
            await audit.append(connection, AuditEvent(actor(), "key.service", key_id, detail=detail), at_ms=now_ms)
            return after, code

    record, code = run(write())
    value: dict[str, Any] = {
        "id": record.id,
        "index": record.service_index,
        "certificate": record.certificate is not None,
        "code": code,
    }
    shown = f"; authorisation code, shown once: {code}" if code else ""
    print_result(value, as_json, lambda: f"{record.id}: index {record.service_index}{shown}")
