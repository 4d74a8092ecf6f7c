"""`qianyan set`: build, check, status, inspect."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from core.asn1.x509 import certificate_der, load_certificate
from core.clock import rfc3339
from core.errors import Refused
from core.store.status_sets import StatusSetRecord
from qianyan_status import DeltaMismatch, Status, StatusSet, StatusSetError, load
from service.commands.shared import actor, config_option, json_option, print_json, print_table, run, with_node
from signer.engine.verify import verify_signature
from status.set.service import SetStanding

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_set_option = click.option(
    "--set", "set_file", required=True, type=_FILE, help="The status set, from /set/AUTHORITY.set."
)
_delta_option = click.option(
    "--delta", "delta_file", type=_FILE, help="Its newest delta, from /set/AUTHORITY-delta.set."
)
_issuer_option = click.option(
    "--issuer",
    "issuer_file",
    required=True,
    type=_FILE,
    help="The issuing authority's certificate, DER or PEM (e.g. from /ca/issuing.cer), which you trust.",
)
_last_option = click.option(
    "--last-position", type=click.IntRange(0), default=0, help="Refuse files older than this feed position."
)


@click.group(name="set")
def set_group() -> None:
    """Status sets: the status of every unexpired certificate in one signed file."""


def _record_row(record: StatusSetRecord) -> dict[str, object]:
    return {
        "authority": record.authority_id,
        "number": record.number,
        "set": record.base_number,
        "kind": "set" if record.number == record.base_number else "delta",
        "certificates": record.certificates,
        "revoked": record.revoked,
        "held": record.held,
        "bytes": len(record.body),
        "next_update": rfc3339(record.next_update_ms),
    }


def _print(rows: list[dict[str, object]], as_json: bool, *, empty: str) -> None:
    if as_json:
        print_json(rows)
    else:
        columns = list(rows[0]) if rows else []
        print_table(columns, [[row[column] for column in columns] for row in rows], empty=empty)


@set_group.command()
@click.option("--authority", "authority_id", metavar="ID", help="Only this authority's.")
@click.option("--delta", "delta_only", is_flag=True, help="A delta of the published set, where that is enough.")
@config_option
@json_option
def build(authority_id: str | None, delta_only: bool, config_file: str | None, as_json: bool) -> None:
    """Build, judge and publish new status sets now, due or not."""

    async def make() -> list[StatusSetRecord]:
        async with with_node(config_file) as node:
            records: list[StatusSetRecord] = []
            for standing in await node.status_set.status():
                if authority_id in (None, standing.authority_id):
                    records += await node.status_set.build(standing.authority_id, whole=not delta_only, actor=actor())
            if authority_id is not None and not records:
                raise Refused(f"no status set of {authority_id!r} is built here", code="set_elsewhere")
            return records

    _print([_record_row(record) for record in run(make())], as_json, empty="no status set is built here")


def _standing_row(standing: SetStanding) -> dict[str, object]:
    return {
        "authority": standing.authority_id,
        "number": standing.number,
        "set": standing.base_number,
        "certificates": standing.certificates,
        "revoked": standing.revoked,
        "held": standing.held,
        "set_bytes": standing.set_bytes,
        "delta_bytes": standing.delta_bytes,
        "this_update": None if standing.this_update_ms is None else rfc3339(standing.this_update_ms),
        "next_update": None if standing.next_update_ms is None else rfc3339(standing.next_update_ms),
    }


@set_group.command()
@config_option
@json_option
def status(config_file: str | None, as_json: bool) -> None:
    """Say how each authority's status set stands: number, size, until when."""

    async def read() -> list[SetStanding]:
        async with with_node(config_file) as node:
            return await node.status_set.status()

    _print([_standing_row(standing) for standing in run(read())], as_json, empty="no status set is built here")


def _load(set_file: Path, delta_file: Path | None, issuer_file: Path, last_position: int) -> StatusSet:
    issuer = certificate_der(load_certificate(issuer_file.read_bytes()))
    delta = None if delta_file is None else delta_file.read_bytes()
    try:
        return load(set_file.read_bytes(), delta, issuer=issuer, verify=verify_signature, last_position=last_position)
    except DeltaMismatch as error:
        raise Refused(f"{error.detail}; fetch the set and its delta anew", code="set_delta") from error
    except StatusSetError as error:
        raise Refused(f"the status set may not be used: {error.detail}", code=f"set_{error.code}") from error


@set_group.command()
@click.argument("certificate", type=_FILE)
@_set_option
@_delta_option
@_issuer_option
@_last_option
@json_option
def check(
    certificate: Path, set_file: Path, delta_file: Path | None, issuer_file: Path, last_position: int, as_json: bool
) -> None:
    """Say the status of CERTIFICATE (DER or PEM) by a status set, off line; exits 3 unless it is good.

    Needs no settings file and nothing of the service but its files. Says whether the issuer has revoked the
    certificate, not whether its path is valid: that is to be checked first.
    """
    loaded = _load(set_file, delta_file, issuer_file, last_position)
    answer = loaded.query(certificate_der(load_certificate(certificate.read_bytes())))
    result = {
        "status": answer.status.name.lower(),
        "on_hold": answer.on_hold,
        "as_of": rfc3339(round(answer.as_of.timestamp()) * 1000),
        "position": loaded.position,
    }
    if as_json:
        print_json(result)
    else:
        text = answer.status.name.lower() + (" (on hold)" if answer.on_hold else "")
        click.echo(f"{text} as of {result['as_of']}" + ("; ask OCSP" if answer.ask_ocsp else ""))
    if answer.status is not Status.GOOD:
        sys.exit(3)


@set_group.command()
@_set_option
@_delta_option
@_issuer_option
@_last_option
@json_option
def inspect(set_file: Path, delta_file: Path | None, issuer_file: Path, last_position: int, as_json: bool) -> None:
    """Check a status set and say what is in it; exits 3 where it is past its nextUpdate."""
    began = time.perf_counter()
    loaded = _load(set_file, delta_file, issuer_file, last_position)
    contents = loaded.contents
    result: dict[str, Any] = {
        "number": loaded.number,
        "position": loaded.position,
        "this_update": rfc3339(contents.header.this_update * 1000),
        "next_update": rfc3339(contents.header.next_update * 1000),
        "stale": loaded.stale,
        "certificates": sum(following - first for _, first, following in contents.spaces),
        "revoked": len(contents.revoked),
        "held": len(contents.held),
        "imported": 0 if contents.imports is None else contents.imports.count,
        "months": [
            {"month": f"{month // 12:04}-{month % 12 + 1:02}", "first": first, "next": following}
            for month, first, following in contents.spaces
        ],
        "milliseconds": round((time.perf_counter() - began) * 1000, 1),
    }
    if as_json:
        print_json(result)
    else:
        for name, value in result.items():
            if name != "months":
                click.echo(f"{name}: {value}")
        print_table(["month", "first", "next"], [list(m.values()) for m in result["months"]], empty="no months")
    if loaded.stale:
        sys.exit(3)
