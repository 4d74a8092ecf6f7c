"""`qianyan openapi`: the description of the HTTP interface, for tools that make clients from it."""

from __future__ import annotations

from pathlib import Path

import click
import orjson

from service.files import write_new
from service.openapi import document


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A file.  [default: standard output]")
def openapi(out: Path | None) -> None:
    """Print the OpenAPI 3.1 description of both listeners; the private one serves it at /openapi.json."""
    encoded = orjson.dumps(document(), option=orjson.OPT_INDENT_2) + b"\n"
    if out is None:
        click.echo(encoded, nl=False)
    else:
        write_new(out, encoded, replace=True)
