from asyncio import Protocol, Transport
from collections.abc import Callable, Sequence
from typing import Any, Literal

from service.drain import Drain
from service.guard import Guard
from status._answers import AnswerTable

Answer = tuple[int, bytes, bytes]

HEAD_MAX: int

def parse_head(data: bytes, *, max_bytes: int = ..., max_fields: int = ...) -> tuple[int, dict[str, Any] | None]: ...

class Request:
    target: bytes
    body: bytes
    if_none_match: bytes | None
    authorization: bytes | None
    content_type: bytes | None
    caller: str | None
    context: Any
    @property
    def method(self) -> Literal["GET", "POST"]: ...
    @property
    def request_id(self) -> bytes: ...
    @property
    def gone(self) -> bool: ...
    @property
    def answered(self) -> bool: ...
    @property
    def remote(self) -> str | None: ...
    def get_extra_info(self, name: str) -> Any: ...
    def answer(self, status: int, fields: bytes, body: bytes) -> None: ...
    @staticmethod
    def answer_many(requests: list[Request], answers: list[Answer]) -> None: ...

class Route:
    method: str
    pattern: str
    path: bytes
    prefix: bool
    max_body: int
    def __init__(
        self,
        method: Literal["GET", "POST"],
        path: bytes,
        handler: Callable[[Any], Any],
        *,
        pattern: str,
        prefix: bool = False,
        max_body: int = 0,
        table: AnswerTable | None = None,
    ) -> None: ...

class Server:
    draining: bool
    late: int
    gave_way: int
    refused: int
    def __init__(
        self,
        routes: Sequence[Route],
        fallback: Callable[[], Any],
        elsewhere: Guard,
        drain: Drain,
        *,
        bounds: Sequence[float],
        id_prefix: bytes,
        keepalive_s: float,
        head_s: float,
        body_s: float,
        max_slots: int,
        max_connections: int,
        max_head: int,
        max_fields: int,
        failed: Callable[[Exception], None],
        log: Callable[[str, str, str, int, float, str | None], None] | None = None,
    ) -> None: ...
    def factory(self) -> Connection: ...
    def __len__(self) -> int: ...
    @property
    def open_slots(self) -> int: ...
    def take_counts(self) -> list[tuple[str, int, list[int], float]]: ...
    def unfinished(self, heads: bool) -> int: ...
    def silent(self) -> bool: ...
    def begin_drain(self) -> None: ...
    def close(self) -> None: ...
    def sweep(self, lapse_s: float = 0.0) -> None: ...

class Connection(Protocol):
    def connection_made(self, transport: Transport) -> None: ...  # type: ignore[override]
