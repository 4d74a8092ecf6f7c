"""`qianyan kmc master`: status, create, rewrap. The master key in hardware modules."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from core.clock import rfc3339, system_clock
from core.errors import SettingsError
from core.store import kmc_masters
from core.store.database import Database
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    load_settings,
    passphrase_for,
    print_json,
    print_result,
    print_table,
    run,
    with_store,
)
from service.opening import open_keystore, open_store
from service.settings import Loaded

if TYPE_CHECKING:
    from signer.engine.sdf.pool import SdfPool


@click.group()
def master() -> None:
    """The master key under which encryption keys and holders' keys are wrapped, kept in hardware modules.

    create makes one; the service uses it where kmc.master = "hsm"; rewrap brings over what is under others.
    """


@dataclass(frozen=True, slots=True)
class _Modules:
    loaded: Loaded
    database: Database
    pool: SdfPool


@asynccontextmanager
async def _modules(config_file: str | None) -> AsyncIterator[_Modules]:
    """The store and the devices. Raises SettingsError where none is configured."""
    from signer.engine.sdf.pool import SdfPool  # only some commands need it, and it takes time to load

    loaded = load_settings(config_file)
    if not loaded.settings.hsm.devices:
        raise SettingsError("no device is configured; add [[hsm.devices]]", code="hsm_missing")
    async with open_store(loaded) as database:
        pool = SdfPool(loaded.settings.hsm, loaded.path)
        try:
            await asyncio.to_thread(pool.start)
            yield _Modules(loaded, database, pool)
        finally:
            await asyncio.to_thread(pool.close)


@master.command()
@config_option
@json_option
def status(config_file: str | None, as_json: bool) -> None:
    """Show the master keys in the modules, and how many values are under each, and under the key store's file."""

    async def read() -> dict[str, Any]:
        async with with_store(config_file) as database, database.read() as connection:
            records = await kmc_masters.list_masters(connection)
            counts = await kmc_masters.counts(connection, [record.id for record in records])
        keys: list[dict[str, Any]] = [
            {"number": record.id, "kek_index": record.kek_index, "created_at": rfc3339(record.created_at_ms)}
            for record in records
        ]
        for key in [{"number": kmc_masters.SOFTWARE}, *keys]:
            key["values"] = {place: by_number[key["number"]] for place, by_number in counts.items()}
            if key["number"] == kmc_masters.SOFTWARE:
                keys.insert(0, key)
        return {"masters": keys}

    value = run(read())
    if as_json:
        print_json(value)
        return
    rows = [
        (
            one["number"] or "file",
            one.get("kek_index"),
            one.get("created_at"),
            *(one["values"][place.name] for place in kmc_masters.PLACES),
        )
        for one in value["masters"]
    ]
    print_table(["master", "KEK index", "created", *(place.name for place in kmc_masters.PLACES)], rows, empty="none")


@master.command()
@click.option("--kek-index", type=click.IntRange(1), help="The KEK's index.  [default: kmc.master_kek_index]")
@config_option
@json_option
def create(kek_index: int | None, config_file: str | None, as_json: bool) -> None:
    """Make a master key in the modules, under the key-encryption key (KEK) that all of them have at an index.

    It wraps from then on, in services with kmc.master = "hsm", within five seconds. What is under others stays so until
    `rewrap`. Make a second one in the same way to change keys; with another --kek-index to change the KEK.
    """

    from signer.kmc import masters  # as above

    async def make() -> dict[str, Any]:
        async with _modules(config_file) as here:
            index = kek_index or here.loaded.settings.kmc.master_kek_index
            record = await masters.create(here.database, here.pool, index, system_clock, actor())
            return {"number": record.id, "kek_index": record.kek_index, "created_at": rfc3339(record.created_at_ms)}

    value = run(make())
    print_result(
        value,
        as_json,
        lambda: (
            f"master key {value['number']} is made, under the KEK at index {value['kek_index']}.\n"
            'Next: set kmc.master = "hsm" and restart every service where that is not so yet; then run\n'
            "qianyan kmc master rewrap"
        ),
    )


@master.command()
@config_option
@json_option
def rewrap(config_file: str | None, as_json: bool) -> None:
    """Bring every wrapped key under the newest master key, while services run. It can be broken off and run again.

    Every service must have kmc.master = "hsm" by then. Keys that a service had taken in advance may come under an older
    master key yet when they are used: `status` shows them, and another run brings them over.
    """

    from signer.engine.master import SoftwareMaster  # as above
    from signer.kmc import masters
    from signer.kmc.hsm_master import HsmMaster

    async def bring_over() -> dict[str, int]:
        done: dict[str, int] = {}
        async with _modules(config_file) as here:
            if here.loaded.settings.kmc.master != "hsm":
                raise SettingsError(
                    'set kmc.master = "hsm" and restart every service first: one without it cannot open what is '
                    "brought over",
                    code="kmc_master_place",
                )
            keystore = open_keystore(here.loaded, passphrase_for(here.loaded))
            try:
                software = SoftwareMaster(keystore)
                opened = await masters.open_master(here.database, "hsm", here.pool, software)
                assert isinstance(opened, HsmMaster)
                async for step in masters.Rewrapping(here.database, opened, system_clock, actor()).run():
                    done[step.place] = step.done
                    if sys.stderr.isatty():
                        click.echo(f"\r{step.place}: {step.done} done, {step.left} left ", nl=step.left == 0, err=True)
            finally:
                keystore.close()
        return done

    value = run(bring_over())
    print_result(
        {"rewrapped": value},
        as_json,
        lambda: ", ".join(f"{place}: {count}" for place, count in value.items()) or "nothing was under another key",
    )
