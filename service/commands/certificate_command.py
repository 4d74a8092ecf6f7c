"""`qianyan issue`, `revoke`, `resume`, `status`: certificates from the command line, on the store directly."""

from __future__ import annotations

from pathlib import Path

import click
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from core.asn1.x509 import load_certificate
from core.clock import rfc3339
from core.errors import Malformed
from core.model import RevocationReason, serial_from_hex, serial_to_hex
from core.settings import explain
from core.store import certificates
from core.store.certificates import CertificateRecord
from service.commands.break_glass import break_glass_option, issuing_node
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    print_json,
    print_result,
    print_table,
    run,
    with_store,
)
from service.files import write_new
from signer.holders.claim import HolderClaim
from signer.issuance.grounds import Ground, read_reason
from signer.issuance.http import HolderBody
from signer.issuance.issued import Issued

_REASONS = list(dict.fromkeys([*(r.label for r in RevocationReason), *(g.value for g in Ground)]))
_FILES = {"sign": "sign.pem", "encrypt": "enc.pem"}

authority_option = click.option(
    "--authority", metavar="ID", help="The issuing authority, where a serial is not unique."
)


def read_serial(text: str) -> int:
    """A serial as it is written on the command line. Raises Malformed (code "serial")."""
    try:
        return serial_from_hex(text)
    except ValueError as error:
        raise Malformed(f"{text!r} is not a serial: {error}", code="serial") from error


def subject_of(authority: str | None, serial: str) -> str:
    """How the record names a certificate that a command is about. Raises Malformed (code "serial")."""
    return f"{(authority or '')[:64]}/{serial_to_hex(read_serial(serial))}"


def _write(issued: Issued, out_dir: Path) -> list[Path]:
    out_dir.mkdir(parents=True, exist_ok=True)
    contents = {
        out_dir / _FILES[certificate.usage]: load_certificate(certificate.der).public_bytes(Encoding.PEM)
        for certificate in issued.certificates
    }
    contents[out_dir / "chain.pem"] = b"".join(
        load_certificate(encoded).public_bytes(Encoding.PEM) for encoded in issued.chain
    )
    if issued.enveloped_key is not None:
        contents[out_dir / "enc-key.der"] = issued.enveloped_key
    for path, content in contents.items():
        write_new(path, content, mode=0o600 if path.suffix == ".der" else 0o644, replace=True)
    return list(contents)


def _claim(path: Path) -> HolderClaim:
    """The holder in a file. Raises Malformed, Refused; neither repeats what is in it."""
    try:
        return HolderBody.model_validate_json(path.read_bytes()).claim()
    except ValidationError as error:
        field, message = explain(error)
        raise Malformed(f"{path}: {field or 'body'}: {message}", code="holder", field=field or None) from error


@click.command()
@click.option("--csr", "csr_file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--profile", required=True, help="Profile name, e.g. organisation, person, device.")
@click.option("--out-dir", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--holder",
    "holder_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='Whom it is for: a JSON file, {"kind", "number", "name"?, "phone"?, "address"?}.',
)
@break_glass_option
@config_option
@json_option
def issue(
    csr_file: Path,
    profile: str,
    out_dir: Path,
    holder_file: Path | None,
    why: str | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Issue certificates for a PKCS#10 request (DER or PEM).

    Writes sign.pem and chain.pem and, for profiles with two certificates, enc.pem and enc-key.der (the
    SM2EnvelopedKey for the holder's signing key) into the directory, and prints the serials.
    """
    csr = csr_file.read_bytes()
    claim = None if holder_file is None else _claim(holder_file)

    async def make() -> Issued:
        async with issuing_node(config_file, why, f"profile:{profile[:64]}") as node:
            return await node.issuer.issue(csr, profile, actor=actor(), idempotency=None, holder=claim)

    print_issued(run(make()), out_dir, as_json)


def print_issued(issued: Issued, out_dir: Path, as_json: bool) -> None:
    """Writes what was issued into a directory and prints the serials."""
    files = _write(issued, out_dir)
    serials = {certificate.usage: serial_to_hex(certificate.serial) for certificate in issued.certificates}
    value: dict[str, object] = {"serials": serials, "files": [str(path) for path in files]}
    if issued.holder_id is not None:
        value["holder"] = issued.holder_id
    print_result(value, as_json, lambda: "\n".join(f"{usage:8}{serial}" for usage, serial in serials.items()))


def _as_json(record: CertificateRecord) -> dict[str, object]:
    return {
        "serial": serial_to_hex(record.serial),
        "authority": record.authority_id,
        "usage": record.usage,
        "profile": record.profile,
        "status": record.state.value,
        "revoked_at": None if record.revoked_at_ms is None else rfc3339(record.revoked_at_ms),
        "reason": None if record.reason is None else record.reason.label,
        "not_before": rfc3339(record.not_before_ms),
        "not_after": rfc3339(record.not_after_ms),
        "partition": record.partition,
    }


def print_records(records: list[CertificateRecord], as_json: bool) -> None:
    """Certificates whose state was changed."""
    if as_json:
        print_json([_as_json(record) for record in records])
        return
    rows = [
        (
            serial_to_hex(record.serial),
            record.usage,
            record.state.value,
            record.reason.label if record.reason is not None else "",
            rfc3339(record.revoked_at_ms) if record.revoked_at_ms is not None else "",
            rfc3339(record.not_after_ms),
        )
        for record in records
    ]
    print_table(["serial", "usage", "status", "reason", "revoked at", "not after"], rows, empty="none")


@click.command()
@click.argument("serial")
@click.option(
    "--reason",
    required=True,
    type=click.Choice(_REASONS),
    help="RFC 5280's or a ground of the process's own, which is kept; certificate_hold suspends, any other is final.",
)
@authority_option
@break_glass_option
@config_option
@json_option
def revoke(
    serial: str, reason: str, authority: str | None, why: str | None, config_file: str | None, as_json: bool
) -> None:
    """Revoke the certificate SERIAL (hexadecimal) and the other one of its pair.

    Every running service answers `revoked` from the moment this returns.
    """

    of_rfc, ground = read_reason(reason)

    async def write() -> list[CertificateRecord]:
        async with issuing_node(config_file, why, subject_of(authority, serial)) as node:
            return await node.issuer.revoke(
                read_serial(serial), of_rfc, actor=actor(), authority_id=authority, ground=ground
            )

    print_records(run(write()), as_json)


@click.command()
@click.argument("serial")
@authority_option
@break_glass_option
@config_option
@json_option
def resume(serial: str, authority: str | None, why: str | None, config_file: str | None, as_json: bool) -> None:
    """End the hold of the certificate SERIAL and the other one of its pair."""

    async def write() -> list[CertificateRecord]:
        async with issuing_node(config_file, why, subject_of(authority, serial)) as node:
            return await node.issuer.release(read_serial(serial), actor=actor(), authority_id=authority)

    print_records(run(write()), as_json)


@click.command()
@click.argument("serial")
@authority_option
@config_option
@json_option
def status(serial: str, authority: str | None, config_file: str | None, as_json: bool) -> None:
    """Say where the certificate SERIAL (hexadecimal) and the other one of its pair stand."""

    async def read() -> list[CertificateRecord]:
        async with with_store(config_file) as database, database.read() as connection:
            record = await certificates.find(connection, read_serial(serial), authority)
            pair = await certificates.find_pair(connection, record.id)
            return [record] if pair is None else [record, pair]

    print_records(run(read()), as_json)
