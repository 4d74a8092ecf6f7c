"""Binds the listeners' sockets, before anything serves on them.

Owns the rule that a port is ours alone: several workers share one by SO_REUSEPORT, but only after it was shown that
nobody else has it, which SO_REUSEPORT by itself would hide.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import SettingsError
from service.settings import Loaded

#: Connections that the kernel keeps for a worker that is busy or being replaced.
_BACKLOG: Final = 1024


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a node listens, ports resolved."""

    public_url: str
    private_url: str


@dataclass(frozen=True, slots=True)
class Sockets:
    """One worker's listening sockets; None for a listener that it does not serve (server.private_workers)."""

    public: socket.socket | None
    private: socket.socket | None

    @property
    def descriptors(self) -> tuple[int, int]:
        """Their file descriptors, public first, -1 for none; `inherited` takes them."""
        return _descriptor(self.public), _descriptor(self.private)

    def close(self) -> None:
        """Closes them."""
        for bound in (self.public, self.private):
            if bound is not None:
                bound.close()


def _descriptor(bound: socket.socket | None) -> int:
    return -1 if bound is None else bound.fileno()


def inherited(public: int, private: int) -> Sockets:
    """The sockets behind descriptors that a supervisor handed down."""
    return Sockets(*(None if one < 0 else socket.socket(fileno=one) for one in (public, private)))


def bind(loaded: Loaded, workers: int = 1) -> list[Sockets]:
    """Sockets for so many workers, listening; the first ones have the private listener where some have it alone.

    Raises SettingsError (code "address") naming the listener, or (code "private_workers").
    """
    settings = loaded.settings
    alone = settings.server.private_workers
    if alone >= workers:
        raise SettingsError(
            f"server.private_workers = {alone} leaves no worker for the public listener: serve --workers {alone + 1}",
            code="private_workers",
        )
    private = _bind("private", settings.private.host, settings.private.port, alone or workers)
    try:
        public = _bind("public", settings.public.host, settings.public.port, workers - alone)
    except SettingsError:
        for bound in private:
            bound.close()
        raise
    if not alone:
        return [Sockets(*pair) for pair in zip(public, private, strict=True)]
    return [*(Sockets(None, bound) for bound in private), *(Sockets(bound, None) for bound in public)]


def _bind(name: str, host: str, port: int, copies: int) -> list[socket.socket]:
    made: list[socket.socket] = []
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if copies > 1:
            with socket.socket(family, kind, protocol) as alone:
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind(address)
                address = alone.getsockname()  # a port of 0 is settled here, once for all copies
        for _ in range(copies):
            bound = socket.socket(family, kind, protocol)
            made.append(bound)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if copies > 1:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(address)
            bound.listen(_BACKLOG)
            bound.setblocking(False)
    except OSError as error:
        for bound in made:
            bound.close()
        # getaddrinfo has error numbers of its own, and its own words for them.
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise SettingsError(
            f"the {name} listener cannot have {host}:{port} ({why}); stop what uses it or set {name}.port",
            code="address",
        ) from error
    return made


def describe(loaded: Loaded, workers: Sequence[Sockets]) -> Listening:
    """The URLs of bound sockets."""
    settings = loaded.settings
    scheme = "https" if settings.private.tls == "on" else "http"
    public = next(one.public for one in workers if one.public is not None)
    private = next(one.private for one in workers if one.private is not None)
    return Listening(_url("http", settings.public.host, public), _url(scheme, settings.private.host, private))


def _url(scheme: str, host: str, bound: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{bound.getsockname()[1]}"
