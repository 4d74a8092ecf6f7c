"""The one settings file: composes what each package declares, and resolves where things are.

Owns `qianyan.toml`'s shape, defaults and cross-checks. Paths in it are relative to the file. The environment is read
here and nowhere else.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from core.errors import SettingsError
from core.settings import Settings, load_toml
from crl.settings import CrlSettings
from signer.engine.sdf.settings import SdfSettings
from signer.engine.settings import EngineSettings, KeyStoreSettings
from signer.issuance.settings import IssuanceSettings
from signer.signing.settings import SigningSettings
from signer.signing.svs_settings import SvsSettings
from status.settings import OcspSettings

DEFAULT_FILE = "qianyan.toml"


class StoreSettings(Settings):
    """`[store]`"""

    path: str = "store.sqlite3"
    """The SQLite file of the embedded store."""


class KeysSettings(KeyStoreSettings):
    """`[keys]`: where private keys are and how their passphrase is found."""

    directory: str = "keys"
    """Directory of the encrypted key files; mode 0700."""
    passphrase_file: str | None = None
    """File whose first line is the passphrase; mode 0600. Without it: the variable below, then a prompt."""
    passphrase_env: str = "QIANYAN_PASSPHRASE"  # noqa: S105 - the name of a variable
    """Environment variable that holds the passphrase."""


class PublicSettings(Settings):
    """`[public]`: the plain HTTP listener for relying parties."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    max_body_bytes: int = Field(default=4 << 20, ge=1024, le=64 << 20)
    """Largest request body; more is answered 413."""


class PrivateSettings(Settings):
    """`[private]`: the TLS listener for the RA, applications and operators."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8443, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    tls: Literal["on", "off"] = "on"
    """"off" is accepted on a loopback address only: for a TLS terminator on the same host, and for benchmarks."""
    certificate: str = "tls-cert.pem"
    """PEM file: the listener's certificate and its chain."""
    key: str = "tls-key.pem"
    """PEM file: the listener's private key, mode 0600."""
    max_body_bytes: int = Field(default=8 << 20, ge=1024, le=64 << 20)
    """Largest request body; more is answered 413."""

    @model_validator(mode="after")
    def _plain_only_on_loopback(self) -> Self:
        if self.tls == "off" and not is_loopback(self.host):
            raise ValueError('tls = "off" is accepted only on a loopback address (127.0.0.1, ::1, localhost)')
        return self


class ServerSettings(Settings):
    """`[server]`: what both listeners share."""

    stop_timeout_s: float = Field(default=20.0, gt=0, le=600)
    """How long a graceful stop waits for requests under way."""
    keepalive_timeout_s: float = Field(default=75.0, gt=0, le=3600)
    """How long an idle connection is kept."""
    body_timeout_s: float = Field(default=30.0, gt=0, le=600)
    """How long a request's body may take to arrive."""


class LogSettings(Settings):
    """`[log]`"""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written."""
    format: Literal["json", "console"] = "json"
    """One JSON object a line, or text for a person."""
    requests: bool = False
    """Whether each request writes a line."""


class ServiceSettings(Settings):
    """The whole file."""

    store: StoreSettings = StoreSettings()
    keys: KeysSettings = KeysSettings()
    public: PublicSettings = PublicSettings()
    private: PrivateSettings = PrivateSettings()
    server: ServerSettings = ServerSettings()
    hsm: SdfSettings = SdfSettings()
    engine: EngineSettings = EngineSettings()
    signing: SigningSettings = SigningSettings()
    svs: SvsSettings = SvsSettings()
    issuance: IssuanceSettings
    ocsp: OcspSettings = OcspSettings()
    crl: CrlSettings = CrlSettings()
    log: LogSettings = LogSettings()


class Loaded:
    """Settings with the file they came from: resolves the paths in them."""

    def __init__(self, settings: ServiceSettings, file: Path) -> None:
        self.settings = settings
        self.file = file
        self.directory = file.resolve().parent

    def path(self, name: str) -> Path:
        """A path of the settings, relative to the file."""
        return self.directory / name

    @property
    def store_url(self) -> str:
        """The store as SQLAlchemy names it."""
        return f"sqlite+aiosqlite:///{self.path(self.settings.store.path)}"


def is_loopback(host: str) -> bool:
    """Whether `host` can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(file: str | None) -> Loaded:
    """The settings in `file`, else in the file that QIANYAN_CONFIG names, else in ./qianyan.toml."""
    path = Path(file or os.environ.get("QIANYAN_CONFIG") or DEFAULT_FILE)
    return Loaded(load_toml(path, ServiceSettings), path)


def read_secret_file(path: Path, what: str) -> bytearray:
    """The first line of a file that only its owner may read. Raises SettingsError saying what to do."""
    try:
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"{what} {path} is open to others: chmod 600 {path}", code="secret_mode")
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{what} {path} cannot be read: {error.strerror}", code="secret_unreadable") from error
    line = content.split(b"\n", 1)[0].rstrip(b"\r")
    content[:] = bytes(len(content))
    if not line:
        raise SettingsError(f"{what} {path} is empty", code="secret_empty")
    return line


def passphrase_from_environment(name: str) -> bytearray | None:
    """The passphrase in the environment variable `name`, where it is set."""
    value = os.environ.get(name)
    return bytearray(value.encode()) if value else None
