from collections.abc import Callable, Hashable
from typing import Any

Answer = tuple[int, bytes, bytes]

def read_plain(der: bytes) -> tuple[bytes, bytes, bytes, bytes | None] | None: ...

class Asked:
    slot: Any
    octets: bytes
    issuer: bytes
    cert_id: bytes
    serial: bytes
    nonce: bytes
    answered: bool

def read_asked(slot: Any, octets: bytes) -> Asked | None: ...

class Gathered:
    waiting: int
    def __init__(
        self, *, max_waiting: int, soon: Callable[[Callable[[], None]], Any], turn: Callable[[], None]
    ) -> None: ...
    def __len__(self) -> int: ...
    def add(self, asked: Asked) -> bool: ...
    def take(self, most: int) -> list[Asked]: ...
    def done(self, asked: list[Asked]) -> None: ...

def pair_up(
    batch: list[Asked], by_cert_id: dict[bytes, Any], statuses: dict[Any, Any]
) -> tuple[Any, list[tuple[Asked, Any]], list[Asked]]: ...
def responses_data(
    pairs: list[tuple[Asked, Any]], responder_id: bytes, produced: bytes, until: bytes, unknown_until: bytes
) -> list[bytes]: ...
def decode_path(target: bytes) -> bytes | None: ...
def response_data(
    responder_id: bytes,
    produced: bytes,
    cert_id: bytes,
    status: bytes,
    until: bytes,
    extensions: bytes,
    nonce: bytes | None,
) -> bytes: ...
def finish(data: list[bytes], signatures: bytes, certificates: bytes) -> list[Answer]: ...
def no_store(size: int) -> bytes: ...

class Entry:
    etag: bytes
    owner: Hashable
    def __init__(
        self,
        der: bytes,
        owner: Hashable,
        this_update_ms: int,
        refresh_ms: int,
        etag: bytes,
        last_modified: bytes,
        expires: bytes,
    ) -> None: ...

class AnswerTable:
    checks: int
    now_ms: int
    live: Gathered | None
    def __init__(
        self,
        *,
        max_bytes: int,
        max_request_bytes: int,
        max_age_s: int,
        check_every_s: float,
        check: Callable[[], int],
        miss: Callable[[Any, bytes], Any],
        odd_path: Callable[[Any], Any],
        matches: Callable[[bytes, bytes], bool],
        soon: Callable[[Callable[[], None]], Any],
    ) -> None: ...
    def __len__(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    def take_hits(self) -> int: ...
    def post(self, request: Any) -> Any: ...
    def get(self, request: Any) -> Any: ...
    def give(self, request: Any, entry: Entry) -> Answer: ...
    def current(self) -> bool: ...
    def put(self, octets: bytes, entry: Entry) -> None: ...
    def drop(self, owner: Hashable) -> None: ...
    def clear(self) -> None: ...
