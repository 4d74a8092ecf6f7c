"""`qianyan crl`: build, check, status, estimate."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import click

from core.asn1.x509 import certificate_der, load_certificate
from core.clock import rfc3339, system_clock
from core.errors import Malformed, Unavailable
from core.model import RevocationReason
from crl.check import CrlReport, check_published
from crl.estimate import Estimate
from crl.estimate import estimate as estimate_sizes
from crl.service import ScopeStatus
from crl.view import read_crl
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    print_json,
    print_table,
    run,
    with_node,
    with_store,
)
from signer.engine.verify import verify_signature

#: The largest CRL that `check` downloads: past it a client would run out of memory too.
_MAX_CRL_BYTES = 1 << 30


@click.group()
def crl() -> None:
    """Certificate revocation lists."""


@crl.command()
@click.option("--authority", "authority_id", metavar="ID", help="Only this authority's.")
@click.option("--partition", type=click.IntRange(0), help="Only this partition.")
@config_option
@json_option
def build(authority_id: str | None, partition: int | None, config_file: str | None, as_json: bool) -> None:
    """Build, check and publish new CRLs now, due or not."""

    async def make() -> list[dict[str, object]]:
        async with with_node(config_file) as node:
            records = []
            for scope in await node.crl.status():
                if authority_id in (None, scope.authority_id) and partition in (None, scope.partition):
                    records.append(await node.crl.build(scope.authority_id, scope.partition, actor=actor()))
            return [
                {
                    "authority": record.authority_id,
                    "partition": record.partition,
                    "number": record.number,
                    "entries": record.entries,
                    "bytes": len(record.crl),
                    "next_update": rfc3339(record.next_update_ms),
                }
                for record in records
            ]

    built = run(make())
    _print(built, as_json, empty="no CRL is built here")


def _print(rows: list[dict[str, object]], as_json: bool, *, empty: str) -> None:
    if as_json:
        print_json(rows)
    else:
        columns = list(rows[0]) if rows else []
        print_table(columns, [[row[column] for column in columns] for row in rows], empty=empty)


def _status_row(scope: ScopeStatus) -> dict[str, object]:
    return {
        "authority": scope.authority_id,
        "partition": scope.partition,
        "number": scope.number,
        "age_s": scope.age_s,
        "seconds_left": scope.seconds_left,
        "entries": scope.entries,
        "bytes": scope.size,
        "delta_bytes": scope.delta_size,
        "next_build": rfc3339(scope.next_build_ms),
        "waiting": scope.waiting,
        "late": scope.late,
        "builder": scope.builder,
        "building": scope.building,
        "last_error": scope.last_error,
    }


@crl.command()
@config_option
@json_option
def status(config_file: str | None, as_json: bool) -> None:
    """Say how each CRL stands: number, age, size, its delta, next build, who builds it or built it last.

    `late` ones have less of their life left than crl.alarm_s; readiness and alerts are red with them.
    """

    async def read() -> list[ScopeStatus]:
        async with with_node(config_file) as node:
            return await node.crl.status()

    _print([_status_row(scope) for scope in run(read())], as_json, empty="no CRL is built here")


@crl.command()
@click.argument("count", type=click.IntRange(0))
@click.option("--authority", "authority_id", default="issuing", show_default=True)
@click.option("--partition", type=click.IntRange(0), help="All in this partition.  [default: spread over all]")
@click.option(
    "--reason", default="superseded", show_default=True, type=click.Choice([r.label for r in RevocationReason])
)
@config_option
@json_option
def estimate(
    count: int, authority_id: str, partition: int | None, reason: str, config_file: str | None, as_json: bool
) -> None:
    """Estimate the CRLs' sizes after COUNT more revocations."""

    async def read() -> list[Estimate]:
        async with with_store(config_file) as database:
            return await estimate_sizes(
                database, authority_id, count, partition=partition, reason=RevocationReason.from_label(reason)
            )

    rows: list[dict[str, object]] = [
        {
            "authority": e.authority_id,
            "partition": e.partition,
            "entries_now": e.entries_now,
            "bytes_now": e.size_now,
            "entries_then": e.entries_then,
            "bytes_then": e.size_then,
        }
        for e in run(read())
    ]
    _print(rows, as_json, empty="no partitions")


async def _fetch(urls: tuple[str, ...]) -> dict[str, bytes]:
    """The CRLs, and the deltas that full ones name."""
    found = await _download(urls)
    deltas = []
    for crl in found.values():
        with suppress(Malformed):  # the check says so
            freshest = read_crl(crl, second_max_bytes=0).freshest_url
            if freshest is not None and freshest not in found:
                deltas.append(freshest)
    return found | await _download(tuple(deltas))


async def _download(urls: tuple[str, ...]) -> dict[str, bytes]:
    found = {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        for url in urls:
            try:
                async with session.get(url) as response:
                    if response.status != 200:
                        raise Unavailable(f"{url} answered {response.status}", code="crl_download")
                    body = await response.content.read(_MAX_CRL_BYTES + 1)
                    while len(body) <= _MAX_CRL_BYTES and (more := await response.content.read(1 << 20)):
                        body += more
            except aiohttp.ClientError as error:
                raise Unavailable(f"{url} cannot be downloaded: {error}", code="crl_download") from error
            if len(body) > _MAX_CRL_BYTES:
                raise Unavailable(f"{url} is larger than {_MAX_CRL_BYTES} bytes", code="crl_download")
            found[url] = body
    return found


def _report_row(report: CrlReport) -> dict[str, Any]:
    view = report.view
    return {
        "url": report.url,
        "good": not report.problems,
        "bytes": report.size,
        "kind": None if view is None else "full" if view.base_number is None else "delta",
        "number": None if view is None else view.number,
        "base": None if view is None else view.base_number,
        "next_update": None if view is None or view.next_update_ms is None else rfc3339(view.next_update_ms),
        "entries": None if view is None else len(view.entries),
        "problems": [{"code": problem.code, "detail": problem.detail} for problem in report.problems],
    }


@crl.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option(
    "--issuer",
    "issuer_file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The issuing authority's certificate, DER or PEM (e.g. from /ca/issuing.cer).",
)
@json_option
def check(urls: tuple[str, ...], issuer_file: Path, as_json: bool) -> None:
    """Check CRLs from outside, as a relying party would; exits 3 where one is not good.

    For an operator or a cron job: needs no settings file and nothing of the service but its URLs. Checks signature,
    form, times, that each names its own URL, that no serial stands in two full ones, and that deltas fit their full
    CRLs. The delta that a full CRL names (FreshestCRL) is downloaded and checked with it.
    """
    issuer = certificate_der(load_certificate(issuer_file.read_bytes()))
    reports = check_published(run(_fetch(urls)), issuer, verify_signature, now_ms=system_clock())
    rows = [_report_row(report) for report in reports]
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            click.echo(
                f"{'good' if row['good'] else 'BAD '} {row['url']}: number {row['number']}, {row['bytes']} bytes"
            )
            for problem in row["problems"]:
                click.echo(f"     {problem['code']}: {problem['detail']}")
    if any(not row["good"] for row in rows):
        sys.exit(3)
