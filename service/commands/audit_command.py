"""`qianyan audit`."""

from __future__ import annotations

import sys

import click

from core.store import audit as audit_store
from service.commands.shared import config_option, json_option, print_result, run, with_store


@click.group()
def audit() -> None:
    """The audit record."""


@audit.command()
@config_option
@json_option
def verify(config_file: str | None, as_json: bool) -> None:
    """Check every link of the record's hash chain; exits 3 where one does not fit."""

    async def walk() -> audit_store.Verification:
        async with with_store(config_file) as database, database.read() as connection:
            return await audit_store.verify(connection)

    result = run(walk())
    whole = result.broken_at is None
    value = {"whole": whole, "rows": result.rows, "broken_at": result.broken_at, "head": result.head.hex()}
    said = f"{result.rows} rows, whole; head {result.head.hex()}"
    broken = f"row {result.broken_at} does not fit the {result.rows} before it: the record was changed"
    print_result(value, as_json, lambda: said if whole else broken)
    if not whole:
        sys.exit(3)
