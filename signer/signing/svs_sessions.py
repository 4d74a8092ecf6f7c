"""Data that comes in pieces: the sessions of Init, Update and Final.

Owns them, in the memory of one worker, bounded in number, bytes and life. Knows hashing; not keys or HTTP. Where Init
named the signer's public key, the data is hashed as it comes (SM3 behind Z); where it did not, Z is not known before
Final, and the data is kept until then.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from core.clock import Clock
from core.errors import Busy
from signer._native import sm3
from signer.signing.svs_codec import SvsError, bad_format
from signer.signing.svs_settings import SvsSettings

_ID_BYTES: Final = 16
#: a ‖ b ‖ xG ‖ yG of the SM2 curve (GB/T 32918.5), as Z begins behind the user id (GB/T 32918.2 §5.5).
_CURVE: Final = bytes.fromhex(
    "fffffffeffffffffffffffffffffffffffffffff00000000fffffffffffffffc"
    "28e9fa9e9d9f5e344d5a9e4bcf6509a7f39789f515ab8f92ddbcbd414d940e93"
    "32c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7"
    "bc3736a2f4f6779c59bdcee36b692153d0a9877cc62a474002df32e52139f0a0"
)

Kind = Literal["sign", "verify"]


def z_value(public_key: bytes, user_id: bytes) -> bytes:
    """Z of a user id and an uncompressed point (GB/T 32918.2 §5.5)."""
    return sm3.sm3((len(user_id) * 8).to_bytes(2, "big") + user_id + _CURVE + public_key[1:])


class Session:
    """One of them. `public_key`: of Init, 65 bytes, or None; `size`: how much data has come."""

    __slots__ = ("_buffer", "_hash", "busy", "kind", "public_key", "size", "used_ms", "user_id")

    def __init__(self, kind: Kind, public_key: bytes | None, user_id: bytes) -> None:
        self.kind = kind
        self.public_key = public_key
        self.user_id = user_id
        self.size = 0
        self.used_ms = 0
        self.busy = False
        self._hash = None if public_key is None else sm3.SM3(z_value(public_key, user_id))
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """How many bytes it keeps."""
        return len(self._buffer)

    def add(self, data: bytes) -> None:
        """More data."""
        self.size += len(data)
        if self._hash is None:
            self._buffer += data
        else:
            self._hash.update(data)

    def digest(self) -> bytes | None:
        """e of all the data, where the public key was known from the start."""
        return None if self._hash is None else self._hash.digest()

    def data(self) -> bytes:
        """All the data, where it was not."""
        return bytes(self._buffer)


class Sessions:
    """See the module. `steady` never goes back."""

    def __init__(self, settings: SvsSettings, steady: Clock) -> None:
        self._settings = settings
        self._steady = steady
        self._open: dict[bytes, Session] = {}  # the longest unused first

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, kind: Kind, public_key: bytes | None, user_id: bytes) -> bytes:
        """A new session's id. Raises Busy (code "svs_sessions") where too many are open."""
        self._expire()
        if len(self._open) >= self._settings.max_sessions:
            raise Busy("too many sessions are open", code="svs_sessions", retry_after_s=1 + secrets.randbelow(3))
        session_id = secrets.token_bytes(_ID_BYTES)
        session = self._open[session_id] = Session(kind, public_key, user_id)
        session.used_ms = self._steady()
        return session_id

    async def update(self, session_id: bytes, kind: Kind, data: bytes) -> None:
        """More data for a session. Raises SvsError where there is no such session, or it has had enough; Busy."""
        with self.using(session_id, kind) as session:
            if session.size + len(data) > self._settings.max_session_bytes:
                raise bad_format("the session was given too much data")
            if session.public_key is None:
                kept = sum(other.buffered for other in self._open.values())
                if kept + len(data) > self._settings.max_buffered_bytes:
                    raise Busy("too much data is kept for sessions", code="svs_sessions", retry_after_s=1)
                session.add(data)
            elif len(data) <= self._settings.hash_inline_max_bytes:
                session.add(data)
            else:
                await asyncio.to_thread(session.add, data)

    @contextmanager
    def using(self, session_id: bytes, kind: Kind) -> Iterator[Session]:
        """The session, for one call at a time. Raises SvsError where there is none of that kind, or it is in use."""
        self._expire()
        session = self._open.get(session_id)
        if session is None or session.kind != kind or session.busy:
            raise _no_session()
        session.busy = True
        try:
            yield session
        except asyncio.CancelledError:
            self.end(session_id)  # a thread may still be hashing
            raise
        finally:
            session.busy = False
            session.used_ms = self._steady()
            if self._open.pop(session_id, None) is not None:
                self._open[session_id] = session

    def end(self, session_id: bytes) -> None:
        """Forgets a session."""
        self._open.pop(session_id, None)

    def _expire(self) -> None:
        before_ms = self._steady() - self._settings.session_idle_s * 1000
        idle = []
        for session_id, session in self._open.items():
            if session.used_ms >= before_ms:
                break
            if not session.busy:
                idle.append(session_id)
        for session_id in idle:
            del self._open[session_id]


def _no_session() -> SvsError:
    return bad_format("there is no such session here, or another call uses it")
