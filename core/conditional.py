"""Answers GET and HEAD for a file that is in memory: all of it, a part, or that the client has it (RFC 9110 §13, §14).

Knows validators and ranges; not what the file is, nor how long it may be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Representation:
    """The file as it is now. `tag`: its entity tag without quotes. `modified`: in whole seconds.

    dates_tell: whether two files never share a second; where they may, only a tag says that a client has this one.
    """

    body: bytes
    tag: str
    modified: datetime
    content_type: str
    dates_tell: bool


def unchanged(request: web.Request, file: Representation) -> bool:
    """If-None-Match, else If-Modified-Since (RFC 9110 §13.2.2)."""
    try:
        tags = request.if_none_match
    except ValueError:
        return False
    if tags is not None:
        return any(tag.value in (file.tag, "*") for tag in tags)
    since = request.if_modified_since
    if since is None:
        return False
    return file.modified <= since if file.dates_tell else file.modified < since


def answer(request: web.Request, file: Representation, headers: dict[str, str]) -> web.Response:
    """200, 206, 304 or 416, with `headers`."""
    if unchanged(request, file):
        return web.Response(status=304, headers=headers)
    size = len(file.body)
    asked = _range(request, file, size)
    if asked is None:
        return web.Response(body=file.body, content_type=file.content_type, headers=headers)
    start, end = asked
    if start >= end:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return web.Response(status=206, body=file.body[start:end], content_type=file.content_type, headers=headers)


def _range(request: web.Request, file: Representation, size: int) -> tuple[int, int] | None:
    """(start, end) of a single satisfiable range; (0, 0) for one that is not; None where all of it is to be sent."""
    if request.method != "GET" or not _range_applies(request, file):
        return None
    try:
        asked = request.http_range
    except ValueError:
        return None  # several ranges, another unit or nonsense: a server may ignore Range (RFC 9110 §14.2)
    if asked.start is None:
        return None
    if asked.start == 0 and "=-" in request.headers["Range"]:
        return 0, 0  # the last no bytes
    start, end, _ = slice(asked.start, asked.stop).indices(size)
    return (start, end) if start < end else (0, 0)


def _range_applies(request: web.Request, file: Representation) -> bool:
    """If-Range: the part is wanted only of the same file (RFC 9110 §13.1.5)."""
    condition = request.headers.get("If-Range")
    if condition is None:
        return True
    if condition.startswith('"') or not file.dates_tell:
        return condition == f'"{file.tag}"'
    return request.if_range == file.modified
