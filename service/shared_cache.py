"""Opens the cache that nodes and workers share, where the settings name one.

Owns nothing that outlives the node. A Redis that is away is no reason not to start.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import structlog
from prometheus_client import CollectorRegistry

from core.clock import Clock
from core.errors import Unavailable
from core.store import secrets
from core.store.database import Database
from core.store.follow import FeedFollower
from service.settings import Loaded, passphrase_from_environment, read_secret_file
from status.metrics import RedisMetrics
from status.redis_cache import RedisCache
from status.redis_client import RedisClient

#: Under which name the store keeps the key of the codes on cached answers.
_SECRET = "shared_cache"  # noqa: S105 - a name

_log = structlog.get_logger("qianyan.shared_cache")


def _password(loaded: Loaded) -> str | None:
    settings = loaded.settings.redis
    if settings.password_file is not None:
        return read_secret_file(loaded.path(settings.password_file), "Redis password file").decode()
    found = passphrase_from_environment(settings.password_env)
    return None if found is None else found.decode()


async def open_shared_cache(
    loaded: Loaded,
    database: Database,
    follower: FeedFollower,
    clock: Clock,
    registry: CollectorRegistry,
    stack: AsyncExitStack,
) -> RedisCache | None:
    """The cache, connecting in the background and closed with `stack`; None where none is set. Raises SettingsError."""
    settings = loaded.settings.redis
    if not settings.on:
        return None
    password = _password(loaded)
    try:
        secret = await secrets.shared(database, _SECRET)
    except Unavailable as error:  # a replica of a store that no node with Redis has written to yet
        _log.warning("redis_not_used", why="the store has no key for it yet and cannot be written", code=error.code)
        return None
    ca_file = None if settings.tls_ca_file is None else str(loaded.path(settings.tls_ca_file))
    client = RedisClient(settings, password, ca_file)
    cache = RedisCache(
        client, settings, secret, database, follower, clock, RedisMetrics(registry), hints=database.on_postgres
    )
    cache.start()
    stack.push_async_callback(cache.close)
    return cache
