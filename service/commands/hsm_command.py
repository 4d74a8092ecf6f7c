"""`qianyan hsm`: status, drain, resume."""

from __future__ import annotations

from typing import Any

import click

from core.clock import rfc3339, system_clock
from core.store.database import open_database
from service.commands.shared import actor, config_option, json_option, load_settings, print_json, print_table, run
from service.settings import Loaded
from signer.engine.sdf.http import standing_json
from signer.engine.sdf.maintenance import Standing, place, require_devices, standing, until_settled

_COLUMNS = ["device", "wanted", "worker", "state", "sessions", "stuck calls", "refused keys", "said at", "why"]


@click.group()
def hsm() -> None:
    """Hardware modules: how they stand, and taking them out for maintenance."""


def _names(loaded: Loaded) -> list[str]:
    names = [device.name for device in loaded.settings.hsm.devices]
    require_devices(names)
    return names


def _rows(one: Standing) -> list[list[object]]:
    if not one.reports:
        return [[one.device, one.wanted, "(no service is running)", *[None] * 6]]
    return [
        [
            one.device,
            one.wanted,
            report.worker,
            report.state,
            f"{report.sessions} of {report.sessions_wanted}",
            report.abandoned,
            report.refused_keys,
            rfc3339(report.at_ms),
            report.trouble or report.reason,
        ]
        for report in one.reports
    ]


@hsm.command()
@config_option
@json_option
def status(config_file: str | None, as_json: bool) -> None:
    """Show each device as it is wanted, and as every running worker has it."""
    loaded = load_settings(config_file)
    names = _names(loaded)

    async def read() -> list[Standing]:
        database = await open_database(loaded.store_url)
        try:
            return await standing(database, names, system_clock())
        finally:
            await database.close()

    found = run(read())
    if as_json:
        print_json([standing_json(one) for one in found])
        return
    print_table(_COLUMNS, [row for one in found for row in _rows(one)], empty="no devices")


def _order(
    device: str, config_file: str | None, as_json: bool, *, drained: bool, force: bool, timeout_s: float | None
) -> None:
    loaded = load_settings(config_file)
    names = _names(loaded)
    settings = loaded.settings.hsm
    patience_s = (
        timeout_s if timeout_s is not None else 10 + (2 * settings.call_timeout_ms + settings.open_timeout_ms) / 1000
    )

    async def carry_out() -> Standing:
        database = await open_database(loaded.store_url)
        try:
            await place(database, names, device, drained=drained, force=force, actor=actor(), clock=system_clock)
            return await until_settled(database, names, device, system_clock, patience_s)
        finally:
            await database.close()

    found = run(carry_out())
    _tell(found, as_json)
    if not found.complete:
        raise click.exceptions.Exit(3)


def _tell(found: Standing, as_json: bool) -> None:
    if as_json:
        value: dict[str, Any] = standing_json(found)
        print_json(value)
        return
    if not found.reports:
        click.echo(
            f"{found.device} is to be {found.wanted}; no service is running, and the next one obeys from its start"
        )
        return
    if found.complete:
        click.echo(f"{found.device} is {found.wanted} on {len(found.reports)} of {len(found.reports)} workers")
        return
    print_table(_COLUMNS, _rows(found), empty="")
    click.echo(f"qianyan: {found.device} is not {found.wanted} everywhere; the order stands", err=True)


_timeout = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0),
    help="Seconds to wait for the workers.  [default: by the settings]",
)


@hsm.command()
@click.argument("device", metavar="DEVICE")
@click.option("--force", is_flag=True, help="Also where no other device is left in service.")
@_timeout
@config_option
@json_option
def drain(device: str, force: bool, timeout_s: float | None, config_file: str | None, as_json: bool) -> None:
    """Take DEVICE out of service on every worker: its calls end, others take its work, its sessions are closed.

    It stays out, over restarts too, until `resume`. Exit status 3 where a worker has not carried it out.
    """
    _order(device, config_file, as_json, drained=True, force=force, timeout_s=timeout_s)


@hsm.command()
@click.argument("device", metavar="DEVICE")
@_timeout
@config_option
@json_option
def resume(device: str, timeout_s: float | None, config_file: str | None, as_json: bool) -> None:
    """Take DEVICE back into service on every worker, all keys tried anew; also after a setting was corrected.

    Exit status 3 where it could not be taken back everywhere; the reasons are shown.
    """
    _order(device, config_file, as_json, drained=False, force=False, timeout_s=timeout_s)
