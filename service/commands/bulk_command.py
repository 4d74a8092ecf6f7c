"""`qianyan bulk`: issues what a file of requests asks for, on the store directly."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from core.clock import rfc3339
from core.model import KeyPurpose
from core.store import bulk_runs
from core.store.bulk_runs import BulkRun
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
from service.wire.batch_signer import EngineBatchSigner
from signer.issuance.bulk import CHUNK_HOLDERS, BulkIssuer, Progress, Wish

#: How often a line of progress is written where there is no terminal to draw a bar on.
_SAY_EVERY_S: Final = 10.0
_REFUSED: Final = 3
_KIB: Final = 1024


@click.group()
def bulk() -> None:
    """Issue certificates in bulk."""


@bulk.command()
@click.option(
    "--requests",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='JSON lines, one a holder: {"profile", "holder": {"kind", "number", ...}, "csr": base64 or PEM}.',
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the results go: JSON lines.  [default: the requests' name with .issued.jsonl]",
)
@click.option("--authority", metavar="ID", help="The issuing authority.  [default: the settings' one]")
@click.option(
    "--chunk",
    type=click.IntRange(1, 2_000),
    default=CHUNK_HOLDERS,
    show_default=True,
    help="Holders in one transaction; while it commits, other writers wait.",
)
@click.option("--stop-on-error", is_flag=True, help="Stop at the first line that is refused; the lines before it stay.")
@break_glass_option
@config_option
@json_option
def issue(
    requests: Path,
    output: Path | None,
    authority: str | None,
    chunk: int,
    stop_on_error: bool,
    why: str | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Issue what each line of a file asks for, as POST /v1/certificates does.

    Run it again after any end, also one by kill -9: it goes on where it was, issues nothing twice, and completes the
    file of results. The same file under the same authority is one run, forever. A line that is refused has its code
    in the results and does not stop the others. The service may run meanwhile.

    Exit status: 0 where every line was issued, 3 where some were refused, 1 where it could not go on.
    """
    wish = Wish(
        requests=requests,
        output=output or requests.with_name(requests.name.removesuffix(".jsonl") + ".issued.jsonl"),
        actor=actor(),
        authority_id=authority,
        chunk_holders=chunk,
        stop_on_error=stop_on_error,
    )
    with _telling() as tell:
        done = run(_issue(wish, config_file, why, tell))
    value = {
        "lines": done.lines,
        "holders": done.holders,
        "refused": done.refused,
        "stopped": done.stopped,
        "output": str(wish.output),
    }
    print_result(
        value,
        as_json,
        lambda: f"{done.holders} holders issued, {done.refused} lines refused; results in {wish.output}",
    )
    if done.refused:
        click.echo(f"{done.refused} of {done.holders + done.refused} lines were refused; see {wish.output}", err=True)
        sys.exit(_REFUSED)


async def _issue(wish: Wish, config_file: str | None, why: str | None, tell: Callable[[Progress], None]) -> Progress:
    async with issuing_node(config_file, why, f"bulk:{wish.requests.name[:100]}") as node:

        def signer_for(key_id: str) -> EngineBatchSigner:
            return EngineBatchSigner(node.engine, key_id, KeyPurpose.CERTIFICATE)

        return await BulkIssuer(node.desk.bulk(signer_for), wish, tell).run()


@contextmanager
def _telling() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal; a line now and then elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console).say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("KiB read")

        def draw(at: Progress) -> None:
            said = f"{at.holders:,} holders, {at.refused:,} refused; KiB read"
            bar.update(task, total=-(-at.size // _KIB), completed=at.octets // _KIB, description=said)

        yield draw


class _Lines:
    """Says now and then how far a run is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said_at = time.monotonic()

    def say(self, at: Progress) -> None:
        """A line, where the last one is a while ago."""
        if time.monotonic() - self._said_at < _SAY_EVERY_S:
            return
        self._said_at = time.monotonic()
        part = 100 * at.octets / at.size if at.size else 100.0
        self._console.print(f"{part:.1f} %: {at.holders} holders issued, {at.refused} lines refused", highlight=False)


@bulk.command("list")
@config_option
@json_option
def list_(config_file: str | None, as_json: bool) -> None:
    """List the files that were issued in bulk, the last one first, and how far each is."""

    async def read() -> list[BulkRun]:
        async with with_store(config_file) as database, database.read() as connection:
            return await bulk_runs.list_all(connection)

    runs = run(read())
    if as_json:
        print_json([_as_json(one) for one in runs])
        return
    rows = [
        (
            one.name,
            one.authority_id,
            one.lines,
            one.holders,
            one.refused,
            rfc3339(one.started_at_ms),
            "not finished" if one.ended_at_ms is None else rfc3339(one.ended_at_ms),
        )
        for one in runs
    ]
    columns = ["file", "authority", "lines", "holders", "refused", "begun", "ended"]
    print_table(columns, rows, empty="nothing was issued in bulk yet")


def _as_json(one: BulkRun) -> dict[str, object]:
    return {
        "run": one.id.hex(),
        "file": one.name,
        "authority": one.authority_id,
        "lines": one.lines,
        "holders": one.holders,
        "refused": one.refused,
        "actor": one.actor,
        "started_at": rfc3339(one.started_at_ms),
        "ended_at": None if one.ended_at_ms is None else rfc3339(one.ended_at_ms),
    }
