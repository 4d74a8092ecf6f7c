"""`qianyan ra retire` and `retired`: signed requests that were kept long enough, and those in archives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from core import requests_archive
from core.audit import AuditEvent
from core.clock import system_clock
from core.errors import NotFound, SettingsError
from core.store import audit
from service import request_retention
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    load_settings,
    print_result,
    run,
    with_node,
)
from service.files import write_new
from service.opening import open_store
from service.request_retention import Retired, Wish
from signer.registration.sealed_names import request_name

_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--archive", "directory", type=_DIRECTORY, help="Where the files are written; keep them.")
@click.option("--discard", is_flag=True, help="Keep nothing of them.")
@click.option("--dry-run", is_flag=True, help="Only say how many would go.")
@config_option
@json_option
def retire(directory: Path | None, discard: bool, dry_run: bool, config_file: str | None, as_json: bool) -> None:
    """Remove signed requests that were kept as long as their class asks, with their messages. The service may run.

    For years after the end of every certificate that a request was about: retention.public_years, for government
    departments government_years; never before. Each goes to a file that is read back first, or with --discard for good;
    what went is on the audit record. Broken off, it is run again.
    """
    if not dry_run and (directory is None) is not discard:
        raise SettingsError("say --archive DIR or --discard (or look first: --dry-run)", code="retention_where")
    loaded = load_settings(config_file)
    wish = Wish(loaded.settings.retention, actor(), directory, dry_run)

    async def work() -> Retired:
        async with open_store(loaded) as database:
            return await request_retention.retire(database, wish, system_clock, tell=_tell)

    done = run(work())
    word = "would go" if dry_run else "removed"
    print_result(
        {"dry_run": dry_run, **asdict(done)},
        as_json,
        lambda: "\n".join(
            [
                f"{done.requests} requests with {done.messages} messages, {done.issued} assignments {word}",
                *(f"  {count} by class {name}" for name, count in sorted(done.by_class.items())),
                *(f"  {name}" for name in done.files),
            ]
        ),
    )


def _tell(done: Retired) -> None:
    if done.requests and done.requests % (20 * request_retention.AT_ONCE) == 0:
        click.echo(f"{done.requests} requests so far", err=True)


@click.command()
@click.argument("request_id", required=False)
@click.option("--archive", "directory", required=True, type=_DIRECTORY, help="Where `retire` wrote its files.")
@click.option("--ra", "ra_id", metavar="ID", help="Of this registration authority alone.")
@click.option("--messages", "out", type=_DIRECTORY, help="Open the messages into this directory; it goes on record.")
@config_option
@json_option
def retired(
    request_id: str | None, directory: Path, ra_id: str | None, out: Path | None, config_file: str | None, as_json: bool
) -> None:
    """Find a retired request by its id, or, without one, check every file of the archive.

    Needs no store, but for --messages: they are sealed under the keys of personal data.
    """
    if request_id is None:
        checked = [requests_archive.check(path) for path in requests_archive.manifests(directory)]
        if not checked:
            raise NotFound(f"there is no archive of requests in {directory}", code="archive_unknown")
        count = sum(one.requests for one in checked)
        print_result(
            {"files": [asdict(one) for one in checked]},
            as_json,
            lambda: f"{len(checked)} files are whole: {count} requests",
        )
        return
    found = list(requests_archive.find(directory, request_id, ra_id))
    if not found:
        raise NotFound(f"no request {request_id} is in {directory}", code="request_unknown")
    written: list[Path] = []
    if out is not None:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = run(_open(found, out, config_file))
    shown = [
        {
            **{name: value for name, value in one["request"].items() if name not in ("result", "reason")},
            "class": one["class"],
            "keep_until": one["keep_until"],
            "file": one["file"],
        }
        for one in found
    ]
    print_result(
        {"requests": shown, "messages": [str(path) for path in written]},
        as_json,
        lambda: "\n".join([*(f"{name}: {value}" for row in shown for name, value in row.items()), *map(str, written)]),
    )


async def _open(found: Sequence[dict[str, Any]], out: Path, config_file: str | None) -> list[Path]:
    written = []
    async with with_node(config_file) as node:
        for one in found:
            ra_id, request_id = one["request"]["ra_id"], one["request"]["request_id"]
            async with node.database.write() as connection:
                event = AuditEvent(actor(), "request.open_archived", f"request:{ra_id}/{request_id}")
                await audit.append(connection, event, at_ms=node.clock())
            for number, message in enumerate(one["evidence"], 1):
                sealed = bytes.fromhex(message["sealed"])
                opened = await node.desk.vault.open_octets(request_name(ra_id, request_id), sealed)
                path = out / f"{ra_id}-{request_id}-{number}-{message['step']}.p7"
                write_new(path, opened, mode=0o600, replace=True)
                written.append(path)
    return written
