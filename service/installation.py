"""Makes an installation: directory, keys, store, authorities, settings file. Never a side effect of serving.

The settings file is written last: an installation that has one is whole; one that has keys or a store but no settings
file was broken off, and is refused with what to remove.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from core.clock import system_clock
from core.errors import SettingsError
from core.model import KeyPurpose
from core.oids import STATUS_INDEX_DEFAULT
from core.store.database import Database, create_database
from core.store.follow import FeedFollower
from service.commands.token_command import create_token
from service.files import write_new
from service.settings import DEFAULT_FILE, Loaded, ServiceSettings, load
from service.tls import make_tls
from service.tokens import SCOPES, make_token
from signer.engine.engine import SigningEngine
from signer.engine.keystore import KeyStore
from signer.issuance.authority import create_hierarchy
from signer.issuance.external import create_external
from signer.issuance.hierarchy import HierarchyPlan

DEMO_KEY = "demo"


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """What `qianyan init` was asked for."""

    directory: Path
    demo: bool = False
    external_root: bool = False
    organization: str = "qianyan"
    country: str = "CN"
    public_host: str = "127.0.0.1"
    public_port: int = 8080
    private_host: str = "127.0.0.1"
    private_port: int = 8443
    private_tls: str = "on"
    public_url: str | None = None
    store_url: str | None = None
    store_password_file: str | None = None
    partitions: int = 1
    status_index_oid: str = STATUS_INDEX_DEFAULT

    @property
    def url(self) -> str:
        """What certificates point relying parties to."""
        return (self.public_url or f"http://{self.public_host}:{self.public_port}").rstrip("/")

    @property
    def store(self) -> dict[str, str]:
        """The settings of `[store]`."""
        if self.store_url is None:
            return {"path": "store.sqlite3"}
        password = {} if self.store_password_file is None else {"password_file": self.store_password_file}
        return {"url": self.store_url, **password}

    def plan(self) -> HierarchyPlan:
        """Names, lives and partitions of the authorities."""
        base = {"C": self.country, "O": self.organization}
        return HierarchyPlan(
            root_name={**base, "CN": f"{self.organization} root authority"},
            issuing_name={**base, "CN": f"{self.organization} issuing authority"},
            ocsp_name={**base, "CN": f"{self.organization} OCSP signer"},
            partitions=self.partitions,
            public_url=self.url,
            status_index_oid=self.status_index_oid,
        )


@dataclass(frozen=True, slots=True)
class Installed:
    """What came of it. `issuing_csr`: for an external root, where the request lies."""

    directory: Path
    settings_file: Path
    issuing_csr: Path | None


def refuse_existing(directory: Path) -> None:
    """Raises SettingsError where there is an installation, whole or broken off."""
    if (directory / DEFAULT_FILE).exists():
        raise SettingsError(f"{directory} holds an installation already; it was not touched", code="init_exists")
    left = [name for name in ("keys", "store.sqlite3") if (directory / name).exists()]
    if left:
        raise SettingsError(
            f"an earlier init in {directory} did not finish; remove {' and '.join(left)} there, then run init again",
            code="init_unfinished",
        )


def _toml(values: dict[str, str]) -> str:
    """Settings as lines; a JSON string is a TOML string."""
    return "\n".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items())


def _settings_text(options: InstallOptions) -> str:
    passphrase = '\npassphrase_file = "passphrase"' if options.demo else ""
    return f"""\
# qianyan's settings. Every setting, its default and meaning: qianyan config list
# Paths are relative to this file.

[store]
{_toml(options.store)}

[keys]
directory = "keys"{passphrase}

[public]
host = "{options.public_host}"
port = {options.public_port}

[private]
host = "{options.private_host}"
port = {options.private_port}
tls = "{options.private_tls}"
certificate = "tls-cert.pem"
key = "tls-key.pem"

[issuance]
# Written into every certificate: where relying parties find OCSP, CRLs and issuer certificates.
public_url = "{options.url}"
status_index_oid = "{options.status_index_oid}"

[log]
level = "info"
format = "json"
"""


def _write_tls(options: InstallOptions) -> None:
    material = make_tls(options.private_host)
    write_new(options.directory / "tls-ca.pem", material.authority)
    write_new(options.directory / "tls-cert.pem", material.chain)
    write_new(options.directory / "tls-key.pem", material.key, mode=0o600)


async def install(options: InstallOptions, passphrase: bytearray | None, actor: str) -> Installed:
    """Makes the installation. `passphrase` None: only with `demo`, which makes its own. Raises SettingsError."""
    directory = options.directory
    refuse_existing(directory)
    settings = ServiceSettings.model_validate(
        {
            "public": {"host": options.public_host, "port": options.public_port},
            "private": {"host": options.private_host, "port": options.private_port, "tls": options.private_tls},
            "issuance": {"public_url": options.url},
            "store": options.store,
        }
    )
    loaded = Loaded(settings, directory / DEFAULT_FILE)
    directory.mkdir(parents=True, exist_ok=True)
    database = await create_database(loaded.store)  # first: what is most often wrong about it leaves nothing behind
    try:
        loaded.path(settings.keys.directory).mkdir(mode=0o700)
        if passphrase is None:
            passphrase = bytearray(make_token().encode())
            write_new(directory / "passphrase", passphrase + b"\n", mode=0o600, replace=True)
        keystore = KeyStore(loaded.path(settings.keys.directory), passphrase, settings.keys)
        try:
            csr_path = await _fill(options, loaded, database, keystore, actor)
        finally:
            keystore.close()
    finally:
        await database.close()
    if options.private_tls == "on":
        _write_tls(options)
    write_new(loaded.file, _settings_text(options).encode())
    load(str(loaded.file))  # what was written must be what the next command reads
    return Installed(directory, loaded.file, csr_path)


async def _fill(
    options: InstallOptions, loaded: Loaded, database: Database, keystore: KeyStore, actor: str
) -> Path | None:
    """Authorities and, for a demonstration, its key and token. Returns where an external root's request lies."""
    csr_path = None
    if options.external_root:
        csr = await create_external(database, keystore, options.plan(), system_clock, actor)
        csr_path = options.directory / "issuing.csr.der"
        write_new(csr_path, csr)
    else:
        await create_hierarchy(database, keystore, options.plan(), system_clock, actor)
    await _add_keys(options, loaded, database, keystore, actor)
    if options.demo:
        token = await create_token(database, DEMO_KEY, SCOPES, actor)
        write_new(options.directory / "demo-token", token.encode() + b"\n", mode=0o600)
    return csr_path


async def _add_keys(
    options: InstallOptions, loaded: Loaded, database: Database, keystore: KeyStore, actor: str
) -> None:
    """The key that signs the audit record's checkpoints and, for a demonstration, one for data."""
    follower = await FeedFollower.start(database)
    try:
        engine = SigningEngine(database, follower, keystore, loaded.settings.engine, system_clock)
        await engine.start()
        try:
            await engine.create_key(loaded.settings.audit.key, KeyPurpose.AUDIT, "service", actor)
            if options.demo:
                await engine.create_key(DEMO_KEY, KeyPurpose.DATA, "demonstration", actor, callers=["*"])
        finally:
            await engine.close()
    finally:
        follower.close()
