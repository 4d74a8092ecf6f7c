"""`qianyan plan`: how large an installation has to be. Needs neither a running service nor a settings file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from core.errors import Refused
from service.capacity import coefficients, text
from service.capacity.limits import limits
from service.capacity.model import Demand, Plant, make_plan
from service.commands.shared import json_option, print_json

F = TypeVar("F", bound=Callable[..., Any])

#: What each number means, by the field of Demand or Plant that it sets.
_HELP: Final = {
    "holders": "Holders a year, new or renewed.",
    "certificates": "Certificates of each, valid for a year.",
    "revoked": "Share of the certificates that are revoked before their end.",
    "retention_years": "Years that records are kept after a certificate's end.",
    "issue_peak": "Issuance in the busiest second, over the mean of working time.",
    "use_peak": "Use in the busiest second, over the mean of a working day.",
    "uses_per_day": "How often a holder's certificate is relied on in a working day.",
    "online": "Share of these uses that ask OCSP (the others use CRLs or status sets).",
    "nonce": "Share of OCSP questions with a nonce: signed for each.",
    "hits": "Share of the others whose answer is in memory.",
    "app_signs": "Signatures for applications, for each holder and working day.",
    "app_verifies": "Signatures verified for applications, for each holder and working day.",
    "relying": "Systems that fetch CRLs and status sets.",
    "crl_fetches": "How often a day each fetches every CRL.",
    "set_fetches": "How often a day each fetches the status set.",
    "cores": "Cores of a node.",
    "headroom": "Share of a node that stays free at the peak.",
    "spare": "Nodes that may be lost at the peak.",
    "hsm_per_s": "Signatures a second of all hardware modules together; 0: keys in software.",
    "commits_per_s": "Commits a second of the primary store; 0: as measured.",
    "store_bytes": "Disk of the store, in octets.",
    "redis_bytes": "Memory of a Redis, in octets.",
    "network_bytes_s": "Network of a node, octets a second.",
    "crl_bytes": "Largest CRL that relying parties shall have to fetch, in octets: decides the partitions.",
    "crl_period_s": "Seconds between two CRLs of a partition while there are revocations.",
}


def _numbers(command: F) -> F:
    """An option for every field of Demand and Plant, with its default."""
    for kind in (Plant, Demand):
        for field in reversed(fields(kind)):
            required = field.name == "holders"
            command = click.option(
                "--" + field.name.replace("_", "-"),
                type=int if field.type == "int" else float,
                default=1_000_000 if required else field.default,
                show_default=True,
                help=_HELP[field.name],
            )(command)
    return command


@click.command()
@_numbers
@click.option(
    "--coefficients",
    "coefficients_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measured values in place of those that come with the project; of the same form.",
)
@click.option("--table", "as_table", is_flag=True, help="1, 10 and 100 million holders side by side, in Markdown.")
@json_option
def plan(coefficients_file: Path | None, as_table: bool, as_json: bool, **numbers: Any) -> None:
    """Say how large an installation has to be: rates, sizes, nodes, and what breaks first.

    Every number that people decide is an option; every number that machines decide is a measured coefficient, printed
    with its source by --json. Exits 0 whatever the plan says.
    """
    known = coefficients.read(coefficients_file)
    measured = coefficients.values(known)
    demand = Demand(**{field.name: numbers[field.name] for field in fields(Demand)})
    plant = Plant(**{field.name: numbers[field.name] for field in fields(Plant)})
    try:
        made = make_plan(demand, plant, measured)
    except ValueError as error:
        raise Refused(str(error), code="plan") from error
    found = limits(demand, plant, made, measured)
    if as_table:
        click.echo(text.table(demand, plant, measured))
    elif as_json:
        print_json(
            {
                "demand": asdict(demand),
                "plant": asdict(plant),
                "plan": asdict(made),
                "limits": [asdict(limit) for limit in found],
                "coefficients": {name: asdict(coefficient) for name, coefficient in known.items()},
            }
        )
    else:
        click.echo(text.report(made, found))
