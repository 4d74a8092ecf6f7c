"""Where the store is and how long it may take: `[store]` of the settings file, and what opening one needs.

Owns the bounds that the change feed's promise rests on (core.store.follow). Reads no file and no environment: the
password is handed in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Self

from pydantic import Field, field_validator, model_validator

from core.settings import Settings

POSTGRES_SCHEMES: Final = ("postgresql+asyncpg://", "postgresql://")

#: No process relies on what it saw of the feed for longer than this, whatever its settings say; a change that must be
#: in effect before its call returns waits so long after the commit (`Database.settle_ms`).
SETTLE_MS: Final = 1_000

_PASSWORD: Final = re.compile(r"://[^/@?]*:[^/@?]*@|[?&]password=")


class StoreSettings(Settings):
    """`[store]`"""

    path: str = "store.sqlite3"
    """The SQLite file of the embedded store; not used where `url` is set."""
    url: str | None = None
    """PostgreSQL: postgresql+asyncpg://USER@HOST:PORT/NAME. Several hosts as HOST:PORT,HOST:PORT. No password here."""
    password_file: str | None = None
    """File whose first line is the database password; mode 0600. Without it: the variable below, then ~/.pgpass."""
    password_env: str = "QIANYAN_STORE_PASSWORD"  # noqa: S105 - the name of a variable
    """Environment variable that holds the database password."""
    pool_size: int = Field(default=8, ge=2, le=200)
    """Connections of each worker, beside one for the change feed. At most half of them write at a time."""
    connect_timeout_s: float = Field(default=5.0, gt=0, le=60)
    """How long one host may take to accept a connection."""
    wait_timeout_s: float = Field(default=15.0, ge=0.1, le=600)
    """How long a request waits for its turn at the store when others are using it, before it is refused as busy."""
    wait_max: int = Field(default=2_000, ge=1, le=100_000)
    """How many requests of a worker wait so; more are refused at once."""
    statement_timeout_s: float = Field(default=10.0, ge=0.1, le=600)
    """How long one statement may take; the server ends it. The commit has this and a second more."""
    lock_timeout_s: float = Field(default=5.0, ge=0.1, le=600)
    """How long a statement may wait for another transaction."""
    require_synchronous: bool = False
    """Write only where the server waits for a synchronous standby, so that fail-over loses nothing (PostgreSQL)."""
    feed_poll_ms: int = Field(default=150, ge=10, le=500)
    """How often the change feed is read where no notification came (PostgreSQL)."""
    feed_max_age_ms: int = Field(default=500, ge=50, le=800)
    """Nothing in memory is relied on if the feed's end was not confirmed this recently (PostgreSQL)."""
    feed_patience_s: float = Field(default=2.0, ge=0.1, le=60)
    """How long a request waits for a change feed that cannot be read before it is refused."""
    primary_url: str | None = None
    """Where `url` is a replica: its primary, as `url` is written. The node is a responder then: it answers for status
    alone, reads the replica, and accounts for the uses of its keys at the primary, a block at a time."""
    replica_max_lag_s: float = Field(default=5.0, ge=0.1, le=3600)
    """On a replica: refuse to answer when it stands further behind the primary than this."""
    partitions_ahead_years: int = Field(default=3, ge=1, le=30)
    """For how many years after this one room for certificates is made ahead (PostgreSQL)."""
    certificate_years: int = Field(default=10, ge=1, le=100)
    """How long a certificate's record is kept after it has ended; `qianyan store retire` removes none before."""
    heartbeat_s: float = Field(default=0.0, ge=0.0, le=60)
    """Commit something this often, so that replicas can tell idle from cut off; 0: no responder reads a replica."""

    @field_validator("url", "primary_url")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is None or value.startswith("sqlite+aiosqlite:///"):
            return value
        if not value.startswith(POSTGRES_SCHEMES):
            raise ValueError("write postgresql+asyncpg://USER@HOST:PORT/NAME, or leave it out for SQLite")
        if _PASSWORD.search(value):
            raise ValueError("a password does not belong here: use password_file, or the variable of password_env")
        return value

    @model_validator(mode="after")
    def _a_primary_of_a_replica(self) -> Self:
        if self.primary_url is not None and not (
            is_postgres(self.primary_url) and self.url is not None and is_postgres(self.url)
        ):
            raise ValueError("primary_url goes with a url of a PostgreSQL replica, and is its primary's")
        return self

    @model_validator(mode="after")
    def _poll_within_age(self) -> Self:
        if self.feed_poll_ms * 2 > self.feed_max_age_ms:
            raise ValueError("feed_poll_ms is at most half of feed_max_age_ms")
        return self


@dataclass(frozen=True, slots=True)
class StoreTarget:
    """A store to open: SQLAlchemy's URL for it, its settings, and the password where one is needed."""

    url: str
    settings: StoreSettings = field(default_factory=StoreSettings)
    password: str | None = field(default=None, repr=False)


def as_target(store: StoreTarget | str) -> StoreTarget:
    """A bare URL with default settings, or the target itself."""
    return store if isinstance(store, StoreTarget) else StoreTarget(store)


def is_postgres(url: str) -> bool:
    """Whether the URL names a PostgreSQL database."""
    return url.startswith(POSTGRES_SCHEMES)
