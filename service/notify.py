"""Tells systemd how the service stands (sd_notify), where systemd asked to be told: one datagram, no library.

Knows the protocol's words; the supervisor and the server say when. Without a socket, or where it cannot be reached,
nothing happens: serving does not depend on who watches.
"""

from __future__ import annotations

import socket
from typing import Final

import structlog

_log = structlog.get_logger("qianyan.notify")

READY: Final = "READY=1"


def notify(address: str | None, *words: str) -> None:
    """Sends `words` to the socket at `address` (a path, or "@name" for an abstract one); nothing where that is None."""
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto("\n".join(words).encode(), target)
    except OSError as error:
        _log.warning("notify_failed", detail=str(error))
