"""The one settings file: composes what each package declares, and resolves where things are.

Owns `qianyan.toml`'s shape, defaults and cross-checks. Paths in it are relative to the file. The environment is read
here and nowhere else.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from core.errors import SettingsError
from core.settings import Settings, load_toml
from core.store.settings import StoreSettings, StoreTarget
from crl.settings import CrlSettings
from signer.engine.sdf.settings import SdfSettings
from signer.engine.settings import EngineSettings, KeyStoreSettings
from signer.holders.settings import HolderSettings
from signer.issuance.settings import IssuanceSettings, KmcSettings
from signer.registration.settings import RegistrationSettings
from signer.signing.settings import SigningSettings
from signer.signing.svs_settings import SvsSettings
from signer.signing.verification_settings import VerificationSettings
from status.directory.settings import DirectorySettings
from status.redis_settings import RedisSettings
from status.set.settings import StatusSetSettings
from status.settings import OcspSettings

DEFAULT_FILE = "qianyan.toml"


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
    hot_path: Literal["on", "off"] = "on"
    """Whether OCSP is answered by compiled connections in front of aiohttp; "off": by aiohttp alone, the same and
    slower."""


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
    client_certificates: Literal["off", "optional", "required"] = "off"
    """Whether callers may ("optional") or must ("required") show a certificate; see client_ca and `qianyan caller`."""
    client_ca: tuple[str, ...] = ()
    """PEM files: authorities under which callers' certificates are accepted in the TLS handshake."""
    hot_path: Literal["on", "off"] = "on"
    """Whether `POST /v1/sign` and `POST /v1/keys/{key}/sign` are answered by compiled connections in front of aiohttp;
    "off" (and always with certificate_header): by aiohttp alone, the same and slower."""
    certificate_header: str = ""
    """Header in which a proxy on this machine hands on the client's certificate; empty: none is believed."""
    wrong_credentials_per_minute: int = Field(default=10, ge=1, le=6000)
    """Tokens or certificates that are not good, answered 401 for each source address; more are answered 429."""
    wrong_credentials_burst: int = Field(default=20, ge=1, le=10_000)
    """How many of them at once."""
    quota_day_offset_minutes: int = Field(default=480, ge=-720, le=840)
    """When a day of quotas begins: midnight so many minutes east of UTC (480: China Standard Time)."""
    record_interval_s: float = Field(default=60.0, ge=1, le=3600)
    """How often refused credentials are written to the audit record, and when callers were last seen."""

    @model_validator(mode="after")
    def _certificates_can_be_asked_for(self) -> Self:
        if self.client_certificates == "off":
            return self
        if self.tls == "on" and not self.client_ca:
            raise ValueError("client_certificates needs client_ca: the authorities that they are issued by")
        if self.tls == "off" and not self.certificate_header:
            raise ValueError("client_certificates without TLS needs certificate_header, which a proxy sets")
        return self

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
    header_timeout_s: float = Field(default=10.0, gt=0, le=600)
    """How long a TLS handshake, and a request's headers, may take to arrive; then the connection is closed."""
    max_header_fields: int = Field(default=64, ge=16, le=1000)
    """Header fields of a request, at most; more are answered 400."""
    max_header_field_bytes: int = Field(default=8190, ge=1024, le=65536)
    """Longest header field and longest request line; more are answered 400."""
    max_pipelined: int = Field(default=64, ge=1, le=10_000)
    """Requests of one connection that may wait for their answers on the hot path; then it is not read until some are
    answered."""
    private_workers: int = Field(default=0, ge=0, le=255)
    """How many of `serve --workers N` serve the private listener alone, the others the public one alone, so that
    signing and OCSP do not wait for each other; 0: each worker serves both."""
    max_connections: int = Field(default=10_000, ge=1, le=1_000_000)
    """Connections of each listener and worker; past it those idle longest are closed."""
    wire_transport: Literal["own", "uvloop"] = "own"
    """What carries the hot paths' plain TCP: "own" reads and answers in one pass over what is ready; "uvloop" (and
    always with TLS) goes through the event loop's streams, the same and slower."""


class AuditSettings(Settings):
    """`[audit]`"""

    key: str = "audit"
    """The key that signs checkpoints, of purpose audit."""
    checkpoint_interval_s: float = Field(default=60.0, ge=1, le=86_400)
    """How often a checkpoint is made, where the record has grown."""


class RetentionSettings(Settings):
    """`[retention]`: how long what is kept of whom."""

    public_years: int = Field(default=5, ge=1, le=100)
    """Years after the end of a certificate for which records about it are kept."""
    government_years: int = Field(default=10, ge=1, le=100)
    """The same for certificates of government departments."""
    government_profiles: tuple[str, ...] = ()
    """Profiles of certificates of government departments."""
    classes: dict[str, int] = Field(default_factory=dict)
    """Years, from their time on, for audit rows that are not about a certificate, by action ("key.freeze") or family of
    actions ("key.")."""
    other_years: int = Field(default=5, ge=1, le=100)
    """The same for all that no class names."""
    audit_store_days: int = Field(default=730, ge=1, le=36_525)
    """How long audit rows stay in the store when an archive has them (`qianyan audit prune`)."""
    requests: Literal["keep", "archive", "remove"] = "keep"
    """What becomes of signed requests and their messages when they were kept as long as their class asks: they stay, go
    to files in `requests_archive`, or are removed for good. Once a day; `qianyan ra retire` does it at once."""
    requests_archive: str | None = None
    """Directory for archives of signed requests."""

    @model_validator(mode="after")
    def _classes_have_years(self) -> Self:
        if wrong := next((name for name, years in self.classes.items() if not 1 <= years <= 100), None):
            raise ValueError(f"classes: {wrong} has 1 to 100 years")
        return self

    @model_validator(mode="after")
    def _archives_have_a_place(self) -> Self:
        if self.requests == "archive" and self.requests_archive is None:
            raise ValueError('requests = "archive" needs requests_archive, the directory')
        return self


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
    verification: VerificationSettings = VerificationSettings()
    svs: SvsSettings = SvsSettings()
    issuance: IssuanceSettings
    kmc: KmcSettings = KmcSettings()
    holders: HolderSettings = HolderSettings()
    registration: RegistrationSettings = RegistrationSettings()
    ocsp: OcspSettings = OcspSettings()
    redis: RedisSettings = RedisSettings()
    crl: CrlSettings = CrlSettings()
    status_set: StatusSetSettings = StatusSetSettings()
    directory: DirectorySettings = DirectorySettings()
    audit: AuditSettings = AuditSettings()
    retention: RetentionSettings = RetentionSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _answers_in_advance_have_a_place(self) -> Self:
        if self.ocsp.presign_per_s and not self.redis.on:
            raise ValueError("ocsp.presign_per_s needs [redis]: answers made in advance are kept there")
        return self


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
        """The store as SQLAlchemy names it; there is no password in it."""
        return self.settings.store.url or f"sqlite+aiosqlite:///{self.path(self.settings.store.path)}"

    @property
    def store(self) -> StoreTarget:
        """The store to open: its URL, settings, and password by file or environment. Raises SettingsError."""
        settings = self.settings.store
        found = None
        if settings.url is not None and settings.password_file is not None:
            found = read_secret_file(self.path(settings.password_file), "database password file")
        elif settings.url is not None:
            found = passphrase_from_environment(settings.password_env)
        return StoreTarget(self.store_url, settings, None if found is None else found.decode())

    @property
    def primary(self) -> StoreTarget | None:
        """The primary of the replica that the store is; None where the store is no replica. Raises SettingsError."""
        url = self.settings.store.primary_url
        return None if url is None else replace(self.store, url=url)


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


def notify_socket() -> str | None:
    """Where systemd wants to be told that the service serves (sd_notify); None where nobody asked."""
    return os.environ.get("NOTIFY_SOCKET")
