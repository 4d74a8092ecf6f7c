"""`qianyan key backup|restore`: software keys under a wrapping key in m of n shares."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from core.clock import system_clock
from core.errors import QianyanError, Refused
from core.store.database import Database
from service.commands.shared import (
    actor,
    config_option,
    json_option,
    load_settings,
    passphrase_for,
    print_result,
    run,
)
from service.files import write_new
from service.opening import open_keystore, open_store
from signer.engine.backup import FILE_MAX_BYTES, Backup, Outcome, backup_keys, record_backup, restore_keys
from signer.engine.pbes2 import wipe
from signer.engine.shares import Share, describe, read_file


def _targets(count: int, directory: Path | None, files: tuple[Path, ...]) -> list[Path]:
    """Where each share goes."""
    if (directory is None) == (not files):
        raise click.UsageError("say where the shares go: --share-dir, or --share-file once for each")
    if directory is not None:
        return [directory / f"share-{number}.txt" for number in range(1, count + 1)]
    if len({path.resolve() for path in files}) != count:
        raise click.UsageError(f"--share-file must name {count} different files, one for each share")
    return list(files)


def _write(out: Path, backup: Backup, targets: list[Path], made: list[Share]) -> None:
    """The shares first: a backup without them is worth nothing, and is then seen not to be there."""
    for path, share in zip(targets, made, strict=True):
        text = describe(share)
        try:
            write_new(path, text, mode=0o600)
        finally:
            wipe(text)
    write_new(out, backup.encode(), mode=0o600)


@click.command()
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Where the backup goes.")
@click.option("--shares", required=True, type=click.IntRange(2, 255), metavar="N", help="How many shares are made.")
@click.option("--threshold", required=True, type=click.IntRange(2, 255), metavar="M", help="How many restore it.")
@click.option("--share-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), help="For share-1.txt, ...")
@click.option(
    "--share-file",
    "share_files",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="One for each share, on media of its own for example.",
)
@click.option("--key", "only", multiple=True, metavar="ID", help="Only these keys.  [default: every software key]")
@config_option
@json_option
def backup(
    out: Path,
    shares: int,
    threshold: int,
    share_dir: Path | None,
    share_files: tuple[Path, ...],
    only: tuple[str, ...],
    config_file: str | None,
    as_json: bool,
) -> None:
    """Write the keys, encrypted under a new wrapping key, and N shares of which any M restore them.

    The wrapping key is kept nowhere. Give each share to another person; none belongs beside the backup. Without --key
    every key of the key store that is not compromised is in it, the key-management part's master key too.
    """
    targets = _targets(shares, share_dir, share_files)
    taken = [path for path in (out, *targets) if path.exists()]
    if taken:
        raise Refused(f"{taken[0]} is there already; nothing was written", code="file_exists")
    loaded = load_settings(config_file)
    passphrase = passphrase_for(loaded)

    async def make(database: Database) -> Backup:
        keystore = open_keystore(loaded, passphrase)
        made: list[Share] = []
        try:
            found, made = await backup_keys(database, keystore, only, threshold, shares, system_clock)
            _write(out, found, targets, made)
            await record_backup(database, found, actor(), system_clock)
            return found
        finally:
            keystore.close()
            for share in made:
                share.wipe()

    async def opened() -> Backup:
        async with open_store(loaded) as database:
            return await make(database)

    try:
        found = run(opened())
    except OSError as error:
        detail = f"{error.filename or out} cannot be written: {error.strerror}; remove what was written and begin again"
        raise QianyanError(detail, code="file_unwritable") from error
    value = {
        "backup": str(out),
        "set": found.set_id.hex(),
        "threshold": threshold,
        "shares": [str(path) for path in targets],
        "keys": [key.id for key in found.keys],
    }
    print_result(
        value, as_json, lambda: f"wrote {out} ({len(found.keys)} keys) and {shares} shares; any {threshold} restore it"
    )


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--share",
    "share_files",
    multiple=True,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A share's file; once for each share.",
)
@config_option
@json_option
def restore(file: Path, share_files: tuple[Path, ...], config_file: str | None, as_json: bool) -> None:
    """Put the keys of backup FILE back whose files are missing or damaged; the store must know them.

    A key file that works is never touched, a damaged one is set aside. Keys are written under the key store's present
    passphrase. Services that run open them at once.
    """
    if file.stat().st_size > FILE_MAX_BYTES:
        raise Refused(f"{file} is too long for a key backup", code="backup")
    found = Backup.decode(file.read_bytes())
    loaded = load_settings(config_file)
    passphrase = passphrase_for(loaded)

    async def put_back() -> dict[str, Outcome]:
        shares: list[Share] = []
        keystore = open_keystore(loaded, passphrase)
        try:
            for path in share_files:
                shares.append(read_file(path))
            async with open_store(loaded) as database:
                return await restore_keys(database, keystore, found, shares, actor(), system_clock)
        finally:
            keystore.close()
            for share in shares:
                share.wipe()

    outcome = run(put_back())
    value = {"set": found.set_id.hex(), "keys": outcome}
    print_result(value, as_json, lambda: _told(outcome))


def _told(outcome: dict[str, Outcome]) -> str:
    counts = Counter(outcome.values())
    lines = [f"{counts['restored']} restored, {counts['replaced']} in place of damaged files, {counts['kept']} kept"]
    unknown = [key_id for key_id, result in outcome.items() if result == "unknown"]
    if unknown:
        lines.append(f"not known to this store, not written: {' '.join(unknown)}; restore the store first")
    return "\n".join(lines)
