"""A backup of an installation while it runs: the embedded store as of one moment, keys, settings, certificates.

The store is copied by SQLite itself, inside one read transaction, so that it is whole whatever is written meanwhile,
and is looked through before the backup counts as made. Files are copied after the store: a key that the store knows is
there. Everything goes into a directory that gets its name last; one that was broken off is never taken for a backup.
Files lie in it as they lie beside the settings file, so that a copy of it is an installation again; what the settings
have elsewhere goes to `elsewhere/`. A store on PostgreSQL is backed up by PostgreSQL's own means; then this takes the
files.

Never copies the passphrase and other passwords: who has the backup alone cannot open the keys.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from core.errors import SettingsError
from core.store.database import sqlite_path
from service.settings import Loaded
from service.version import VERSION

MANIFEST: Final = "manifest.json"
_PREFIX: Final = "qianyan-"
_UNFINISHED: Final = ".unfinished"
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made. `store`: whether the store is in it."""

    directory: Path
    store: bool
    files: int
    size: int


def _digest(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


def _copy_store(source: Path, target: Path) -> None:
    """The store as of one moment. Raises SettingsError where it cannot be read, or the copy is not whole."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        origin = sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=60)
        copy = sqlite3.connect(target)
        try:
            origin.backup(copy, pages=-1)  # in one step: a step at a time would begin anew with every commit
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, that says it all
            said = " ".join(copy.execute("PRAGMA integrity_check(1)").fetchone()[0].split())
        finally:
            copy.close()
            origin.close()
    except sqlite3.Error as error:
        raise SettingsError(f"the store {source} cannot be backed up: {error}", code="backup_store") from error
    if said != "ok":
        raise SettingsError(f"the copy of the store is not whole: {said}", code="backup_store")


def _place(name: str) -> str:
    """Where a file of the settings lies in the backup."""
    path = Path(name)
    return f"elsewhere/{path.name}" if path.is_absolute() or ".." in path.parts else str(path)


def _files(loaded: Loaded) -> Iterator[tuple[Path, str]]:
    """What is to be copied beside the store, with its name in the backup."""
    settings = loaded.settings
    yield loaded.file, loaded.file.name
    for path in sorted(loaded.path(settings.keys.directory).iterdir()):
        if path.is_file():
            yield path, _place(f"{settings.keys.directory}/{path.name}")
    private = settings.private
    names = [private.certificate, private.key] if private.tls == "on" else []
    names += private.client_ca
    names += [] if settings.issuance.profiles is None else [str(settings.issuance.profiles)]
    for name in dict.fromkeys(names):
        yield loaded.path(name), _place(name)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_backup(loaded: Loaded, parent: Path, *, keep: int | None = None, now: datetime | None = None) -> Backup:
    """Makes a backup in a new directory under `parent`; removes the oldest past the newest `keep`.

    Raises SettingsError saying what cannot be read or written; nothing that counts as a backup is left then.
    """
    name = f"{_PREFIX}{(now or datetime.now(UTC)):%Y%m%dT%H%M%SZ}"
    unfinished = parent / f"{name}{_UNFINISHED}"
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished.mkdir(mode=0o700)
        manifest = _fill(loaded, unfinished)
        (parent / name).mkdir(mode=0o700)  # fails where there is one: rename would replace it when it is empty
        unfinished.rename(parent / name)
        _sync(parent)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise SettingsError(f"no backup in {parent}: {error}", code="backup") from error
    except SettingsError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if keep is not None:
        for old in sorted(made_in(parent))[:-keep]:
            shutil.rmtree(old)
    files: dict[str, Any] = manifest["files"]
    return Backup(
        parent / name, sqlite_path(loaded.store_url) is not None, len(files), sum(one["size"] for one in files.values())
    )


def made_in(parent: Path) -> list[Path]:
    """The finished backups in a directory."""
    return [path for path in parent.glob(f"{_PREFIX}*") if (path / MANIFEST).is_file() and path.suffix != _UNFINISHED]


def _fill(loaded: Loaded, directory: Path) -> dict[str, Any]:
    store = sqlite_path(loaded.store_url)
    names = []
    if store is not None:
        names.append(_place(loaded.settings.store.path))
        (directory / names[0]).parent.mkdir(mode=0o700, exist_ok=True)
        _copy_store(store, directory / names[0])
    for source, name in _files(loaded):
        target = directory / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o600)
        names.append(name)
    manifest: dict[str, Any] = {
        "version": VERSION,
        "made_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "store": loaded.store_url if store is None else names[0],
        "files": {
            name: {"size": (directory / name).stat().st_size, "sha256": _digest(directory / name)} for name in names
        },
    }
    for name in names:
        with (directory / name).open("rb") as file:
            os.fsync(file.fileno())
    (directory / MANIFEST).touch(mode=0o600)
    with (directory / MANIFEST).open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for folder in {directory, *((directory / name).parent for name in names)}:
        _sync(folder)
    return manifest


def check_backup(directory: Path) -> dict[str, Any]:
    """The manifest, where every file is there and as it was. Raises SettingsError."""
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
        files = manifest["files"]
        wrong = [name for name, one in files.items() if _digest(directory / name) != one["sha256"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{directory} is not a whole backup: {error}", code="backup_damaged") from error
    if wrong:
        raise SettingsError(f"{directory} was changed: {wrong[0]}", code="backup_damaged")
    return manifest
