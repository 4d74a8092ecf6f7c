"""What the `qianyan import` commands say of an import: while it runs, when it ended, and by their exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from core.clock import rfc3339
from core.store.imports import Job
from service.commands.shared import print_json, print_result
from signer.importing.crl import CrlTaker, Unlisted

#: Exit status: something was refused, or is revoked here and missing on a CRL.
REFUSED: Final = 3


def job_json(job: Job) -> dict[str, Any]:
    """As --json shows it."""
    value = asdict(job)
    value["digest"] = job.digest.hex()
    for name in ("started", "changed"):
        value[f"{name}_at"] = rfc3339(value.pop(f"{name}_at_ms"))
    return value


def said(job: Job) -> str:
    state = "done" if job.state == "done" else "not done"
    return f"{state}: {job.position} read, {job.accepted} taken over, {job.known} known before, {job.refused} refused"


def progress_bar(total: int | None) -> tuple[Progress, Callable[[Job], None]]:
    """A bar on standard error where that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
    task = bar.add_task("importing", total=total)

    def advance(job: Job) -> None:
        bar.update(task, completed=job.position, description=f"{job.refused} refused")

    return bar, advance


def certificates_ended(job: Job, as_json: bool) -> None:
    """Says what became of the certificates; ends the command where some were refused."""
    print_result(job_json(job), as_json, lambda: said(job))
    if job.refused:
        sys.exit(REFUSED)


#: A CRL that was imported.
Taken = tuple[Path, Job, CrlTaker]


def crls_ended(done: list[Taken], as_json: bool) -> None:
    """Says what became of them, and what is revoked here and missing on them."""
    values = []
    for file, job, taker in done:
        found = taker.unlisted
        values.append(job_json(job) | {"unlisted": None if found is None else _unlisted_json(found)})
        if as_json:
            continue
        click.echo(f"{file.name}: {said(job)}")
        if found is not None and found.serials:
            click.echo(
                f"{file.name}: not on it, and as they were here: {found.revoked} revoked, {found.held} on hold, "
                f"{found.undated} without a certificate (--report names them)",
                err=True,
            )
    if as_json:
        print_json(values)
    if any(job.refused or (taker.unlisted and taker.unlisted.revoked) for _, job, taker in done):
        sys.exit(REFUSED)


def _unlisted_json(found: Unlisted) -> dict[str, int]:
    return {"revoked": found.revoked, "held": found.held, "undated": found.undated}
