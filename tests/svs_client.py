"""A client of GB/T 38629-2020 in both HTTP mappings, written from the standard (Annex A) alone: it knows nothing of the
service's own code."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote

from aiohttp import web
from aiohttp.test_utils import TestClient

SGD_SM3_SM2 = 0x00020201
BASE = 0x04000000
REQUEST_TIME = "20261120120000Z"
_TIME = re.compile(r"\d{14}Z")

Value = bytes | int | bool | str


@dataclass(frozen=True)
class Answer:
    """What came back: the number past 0x04000000 (0: success), and the other members."""

    code: int
    members: dict[str, str]
    status: int
    headers: dict[str, str]

    def octets(self, name: str) -> bytes:
        return base64.b64decode(self.members[name], validate=True)


def text_of(value: Value) -> str:
    """INTEGER: decimal. BOOLEAN: TRUE or FALSE. OCTET STRING and Certificate: base64."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def code_of(text: str) -> int:
    value = int(text)
    assert str(value) == text
    assert value == 0 or 0 < value - BASE < 0x100
    return value - BASE if value else 0


class SvsClient:
    """`mapping`: "form" or "json"."""

    def __init__(
        self, client: TestClient[web.Request, web.Application], mapping: str, token: str | None = None
    ) -> None:
        self.client = client
        self.mapping = mapping
        self.token = token

    async def call(self, request_type: str, **members: Value) -> Answer:
        """`request_type` in lower camel case, as in ReqType."""
        texts = {name: text_of(value) for name, value in members.items()}
        path = f"/SignServer/{request_type[0].upper()}{request_type[1:]}"
        headers = {} if self.token is None else {"Authorization": self.token}
        if self.mapping == "form":
            body = "&".join(f"{name}={quote(value, safe='')}" for name, value in texts.items())
            headers |= {
                "Content-Type": "application/x-www-form-urlencoded;charset=GB2312",
                "SVS-Request-Version": "v1",
                "SVS-Request-Time": REQUEST_TIME,
            }
        else:
            envelope = {"version": "v1", "reqType": request_type, "request": texts, "reqTime": REQUEST_TIME}
            body = json.dumps(envelope)
            headers |= {"Content-Type": "application/json"}
        async with self.client.post(path, data=body.encode("ascii"), headers=headers) as response:
            content = (await response.read()).decode("ascii")
            return self._answer(request_type, response.status, dict(response.headers), content)

    def _answer(self, request_type: str, status: int, headers: dict[str, str], content: str) -> Answer:
        assert headers["SVS-Response-Type"] == request_type
        assert headers["SVS-Response-Version"] == "v1"
        assert _TIME.fullmatch(headers["SVS-Response-Time"])
        if self.mapping == "form":
            members: dict[str, Any] = dict(parse_qsl(content, strict_parsing=True, keep_blank_values=True))
        else:
            envelope = json.loads(content)
            assert set(envelope) == {"version", "reqType", "respond", "reqTime"}
            assert (envelope["version"], envelope["reqType"]) == ("v1", request_type)
            assert _TIME.fullmatch(envelope["reqTime"])
            members = envelope["respond"]
        assert all(isinstance(value, str) for value in members.values())
        return Answer(code_of(members.pop("respValue")), members, status, headers)
