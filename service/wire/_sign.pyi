from collections.abc import Callable
from typing import Any

Answer = tuple[int, bytes, bytes]

def read_body(body: bytes) -> tuple[bytes, bytes] | None: ...
def read_path(target: bytes) -> bytes | None: ...

class Group:
    authorization: bytes | None
    key: bytes
    certificate: Any
    octets: bool
    requests: list[Any]
    counts: list[int]
    count: int
    @property
    def digests(self) -> bytes: ...
    def digests_of(self, which: int) -> bytes: ...

class Gatherer:
    waiting: int
    def __init__(
        self,
        *,
        limit: int,
        max_waiting: int,
        turn: Callable[[], None],
        soon: Callable[[Callable[[], None]], object],
        otherwise: Callable[[Any, bytes | None], Any],
        full: Callable[[Any], Any],
        certificate: Callable[[Any], Any] | None = None,
    ) -> None: ...
    def json(self, request: Any) -> Any: ...
    def octets(self, request: Any) -> Any: ...
    def take(self) -> list[Group]: ...
    def done(self, count: int) -> None: ...

def json_fields(size: int) -> bytes: ...
def octets_fields(size: int) -> bytes: ...
def answers(group: Group, signatures: bytes) -> list[Answer]: ...
