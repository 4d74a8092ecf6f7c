"""`qianyan ocsp`: answers made in advance."""

from __future__ import annotations

import sys
from typing import Any

import click

from core.errors import Unavailable
from service.commands.shared import config_option, json_option, print_result, run, with_node
from status.presign import Progress

#: How long the command waits for Redis before it says that it is not there.
_PATIENCE_S = 5.0


@click.group()
def ocsp() -> None:
    """OCSP answers."""


@ocsp.command()
@click.option("--per-second", type=click.IntRange(1, 1_000_000), default=2_000, show_default=True,
              help="Most signatures a second.")  # fmt: skip
@config_option
@json_option
def presign(per_second: int, config_file: str | None, as_json: bool) -> None:
    """Make the answers about all unexpired certificates now and keep them in Redis.

    For use before a rush, or after Redis was emptied; what is there already and good for a while is not made anew. A
    running service does the same by itself where ocsp.presign_per_s is set. Progress goes to standard error.
    """

    def tell(progress: Progress) -> None:
        if sys.stderr.isatty():
            click.echo(
                f"\r{progress.looked_at} of {progress.certificates}, {progress.signed} signed", nl=False, err=True
            )

    async def make() -> dict[str, Any]:
        async with with_node(config_file) as node:
            if node.presigner is None or node.shared is None:
                raise Unavailable("answers made in advance are kept in Redis: set [redis]", code="redis_off")
            if not await node.shared.connected(_PATIENCE_S):
                raise Unavailable("Redis does not answer: see [redis] in the settings file", code="redis_down")
            progress = await node.presigner.once(per_second, told=tell)
        if sys.stderr.isatty():
            click.echo(err=True)
        return {"certificates": progress.looked_at, "signed": progress.signed, "seconds": round(progress.seconds, 3)}

    made = run(make())
    print_result(
        made,
        as_json,
        lambda: f"{made['certificates']} certificates, {made['signed']} answers signed in {made['seconds']} s",
    )
