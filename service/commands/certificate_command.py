"""`qianyan issue`, `revoke`, `resume`, `status`: certificates from the command line, on the store directly."""

from __future__ import annotations

from pathlib import Path

import click
from cryptography.hazmat.primitives.serialization import Encoding

from core.asn1.x509 import load_certificate
from core.clock import rfc3339
from core.errors import Malformed
from core.model import RevocationReason, serial_from_hex, serial_to_hex
from core.store import certificates
from core.store.certificates import CertificateRecord
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
from signer.issuance.issued import Issued

_REASONS = [reason.label for reason in RevocationReason]
_FILES = {"sign": "sign.pem", "encrypt": "enc.pem"}

authority_option = click.option(
    "--authority", metavar="ID", help="The issuing authority, where a serial is not unique."
)


def _serial(text: str) -> int:
    try:
        return serial_from_hex(text)
    except ValueError as error:
        raise Malformed(f"{text!r} is not a serial: {error}", code="serial") from error


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


@click.command()
@click.option("--csr", "csr_file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--profile", required=True, help="Profile name, e.g. organisation, person, device.")
@click.option("--out-dir", required=True, type=click.Path(file_okay=False, path_type=Path))
@config_option
@json_option
def issue(csr_file: Path, profile: str, out_dir: Path, config_file: str | None, as_json: bool) -> None:
    """Issue certificates for a PKCS#10 request (DER or PEM).

    Writes sign.pem and chain.pem and, for profiles with two certificates, enc.pem and enc-key.der (the
    SM2EnvelopedKey for the holder's signing key) into the directory, and prints the serials.
    """
    csr = csr_file.read_bytes()

    async def make() -> Issued:
        async with with_node(config_file) as node:
            return await node.issuer.issue(csr, profile, actor=actor(), idempotency=None)

    issued = run(make())
    files = _write(issued, out_dir)
    serials = {certificate.usage: serial_to_hex(certificate.serial) for certificate in issued.certificates}
    value = {"serials": serials, "files": [str(path) for path in files]}
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


def _print_records(records: list[CertificateRecord], as_json: bool) -> None:
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
    "--reason", required=True, type=click.Choice(_REASONS), help="certificate_hold suspends; any other is final."
)
@authority_option
@config_option
@json_option
def revoke(serial: str, reason: str, authority: str | None, config_file: str | None, as_json: bool) -> None:
    """Revoke the certificate SERIAL (hexadecimal) and the other one of its pair.

    Every running service answers `revoked` from the moment this returns.
    """

    async def write() -> list[CertificateRecord]:
        async with with_node(config_file) as node:
            return await node.issuer.revoke(
                _serial(serial), RevocationReason.from_label(reason), actor=actor(), authority_id=authority
            )

    _print_records(run(write()), as_json)


@click.command()
@click.argument("serial")
@authority_option
@config_option
@json_option
def resume(serial: str, authority: str | None, config_file: str | None, as_json: bool) -> None:
    """End the hold of the certificate SERIAL and the other one of its pair."""

    async def write() -> list[CertificateRecord]:
        async with with_node(config_file) as node:
            return await node.issuer.release(_serial(serial), actor=actor(), authority_id=authority)

    _print_records(run(write()), as_json)


@click.command()
@click.argument("serial")
@authority_option
@config_option
@json_option
def status(serial: str, authority: str | None, config_file: str | None, as_json: bool) -> None:
    """Say where the certificate SERIAL (hexadecimal) and the other one of its pair stand."""

    async def read() -> list[CertificateRecord]:
        async with with_store(config_file) as database, database.read() as connection:
            record = await certificates.find(connection, _serial(serial), authority)
            pair = await certificates.find_pair(connection, record.id)
            return [record] if pair is None else [record, pair]

    _print_records(run(read()), as_json)
