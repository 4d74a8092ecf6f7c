"""Where the shared cache is and how long it may take: the `[redis]` table of the settings file."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from core.settings import Settings


class RedisSettings(Settings):
    """`[redis]`: a cache that nodes and workers share. Without `url`, `sentinels` or `cluster` there is none."""

    url: str | None = None
    """One Redis: redis://HOST:PORT/DB, rediss:// with TLS, or unix:///SOCKET. No password here."""
    sentinels: tuple[str, ...] = ()
    """Redis Sentinels as HOST:PORT, which say where the primary is."""
    sentinel_service: str = "qianyan"
    """What the sentinels call the primary."""
    cluster: tuple[str, ...] = ()
    """Some nodes of a Redis Cluster as HOST:PORT; the others are found."""
    username: str | None = None
    """The user of Redis's access control list, where it has one."""
    password_file: str | None = None
    """File whose first line is the password; mode 0600. Without it: the variable below."""
    password_env: str = "QIANYAN_REDIS_PASSWORD"  # noqa: S105 - the name of a variable
    """Environment variable that holds the password."""
    tls: bool = False
    """TLS to sentinels' primary and to a cluster; with `url` the scheme says it."""
    tls_ca_file: str | None = None
    """PEM file of the authorities that Redis's certificate is checked against; without it the system's."""
    prefix: str = Field(default="qianyan", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """What every key and channel begins with."""
    timeout_ms: int = Field(default=20, ge=1, le=1_000)
    """How long one question or write may take; then the answer is signed instead."""
    connect_timeout_ms: int = Field(default=200, ge=1, le=10_000)
    """How long a connection may take; nobody waits for it longer than for `timeout_ms`."""
    failures: int = Field(default=3, ge=1, le=100)
    """After so many failures in a row Redis is left alone ..."""
    retry_s: float = Field(default=1.0, ge=0.05, le=30)
    """... for so long, twice as long after each trial that fails, 30 s at most."""
    write_queue_bytes: int = Field(default=16 * 1024 * 1024, ge=65_536, le=1 << 30)
    """Answers that wait to be written, in each process; what does not fit is not written."""
    history_entries: int = Field(default=50_000, ge=100, le=5_000_000)
    """Changes of the feed that each process remembers to judge what it finds, about 200 bytes each. An answer made
    before the oldest of them is not used."""

    @property
    def on(self) -> bool:
        """Whether there is one."""
        return self.url is not None or bool(self.sentinels) or bool(self.cluster)

    @field_validator("url")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("write redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///SOCKET")
        if "@" in value or "password=" in value:
            raise ValueError("a password does not belong here: use password_file, or the variable of password_env")
        return value

    @field_validator("sentinels", "cluster")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            address(one)
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum((self.url is not None, bool(self.sentinels), bool(self.cluster))) > 1:
            raise ValueError("of url, sentinels and cluster only one can be set")
        return self


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, an IPv6 host in brackets. ValueError otherwise."""
    host, mark, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not mark or not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host, int(port)
