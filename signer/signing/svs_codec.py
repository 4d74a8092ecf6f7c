"""Both HTTP mappings of GB/T 38629-2020 Annex A: urlencoded form and JSON envelope, read leniently, written strictly.

Knows texts and bounds; not operations' meaning, keys or HTTP. Where the standard's text can be read in several ways
each is accepted here; docs/gbt38629.md lists them and says which one is written.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, quote

import orjson

from core.clock import to_datetime
from core.errors import Refused

#: Path segments (folded) and the name of the operation in messages.
OPERATIONS: Final = {
    name.lower(): name
    for name in (
        "exportCert", "parseCert", "validateCert", "signData", "verifySignedData", "signDataInit", "signDataUpdate",
        "signDataFinal", "verifySignedDataInit", "verifySignedDataUpdate", "verifySignedDataFinal", "signMessage",
        "verifySignedMessage",
    )
} | {"exportusercert": "exportCert"}  # fmt: skip

_MEMBERS_MAX: Final = 64
_VERSIONS: Final = frozenset({"v1", "0"})
_INTEGER: Final = re.compile(r"[0-9]{1,10}|0[xX][0-9a-fA-F]{1,8}")
_TIME: Final = re.compile(r"[0-9]{12}([0-9]{2}([.,][0-9]{1,9})?)?(Z?[+-][0-9]{4}|Z)")

MappingName = Literal["form", "json"]


class Code(IntEnum):
    """Response codes (Annex B): 0, or 0x04000000 and a number."""

    SUCCESS = 0
    CERT_ID = 0x04000001
    CERT_INFO_TYPE = 0x04000002
    SERVER_CONNECT = 0x04000003
    SIGN_METHOD = 0x04000004
    KEY_INDEX = 0x04000005
    KEY_VALUE = 0x04000006
    CERT = 0x04000007
    CERT_DECODE = 0x04000008
    CERT_INVALID_AF = 0x04000009
    CERT_INVALID_BF = 0x0400000A
    CERT_REMOVED = 0x0400000B
    INVALID_SIGNATURE = 0x0400000C
    INVALID_DATA_FORMAT = 0x0400000D
    SYSTEM_FAILURE = 0x0400000E


class SvsError(Refused):
    """A call that ends in a response code. `respond`: members that go with it all the same."""

    def __init__(
        self,
        response: Code,
        detail: str,
        *,
        respond: Mapping[str, str] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail, code=f"svs_{response.name.lower()}", retry_after_s=retry_after_s)
        self.response = response
        self.respond = dict(respond or {})


def bad_format(detail: str) -> SvsError:
    """GM_ERROR_INVALID_DATA_FORMAT."""
    return SvsError(Code.INVALID_DATA_FORMAT, detail)


class Members:
    """The members of a request by name, whatever the case of its letters."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self._values: dict[str, Any] = {}
        for name, value in pairs:
            if name.lower() in self._values:
                raise bad_format("a member comes twice")
            self._values[name.lower()] = value

    def __contains__(self, name: str) -> bool:
        return self._values.get(name.lower()) not in (None, "")

    def integer(self, name: str, default: int | None = None) -> int:
        """An INTEGER: decimal text, also a JSON number. Raises SvsError where it is not, or missing with no default."""
        value = self._values.get(name.lower())
        if value in (None, "") and default is not None:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32:
            return value
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            return int(value, 16 if value[:2].lower() == "0x" else 10)
        raise bad_format(f"{name} is not a number")

    def boolean(self, name: str) -> bool:
        """A BOOLEAN: TRUE or FALSE in any case, also JSON's. False where it is missing."""
        value = self._values.get(name.lower())
        if value is None or value is False or value is True:
            return bool(value)
        text = value.lower() if isinstance(value, str) else None
        if text in ("", "false", "true"):
            return text == "true"
        raise bad_format(f"{name} is neither TRUE nor FALSE")

    def octets(self, name: str, max_bytes: int) -> bytes:
        """An OCTET STRING: base64, in which blanks stand for the '+' that a form was sent with unescaped."""
        value = self._values.get(name.lower())
        if not isinstance(value, str):
            raise bad_format(f"{name} is missing")
        if len(value) > max_bytes // 3 * 4 + 1_024:
            raise bad_format(f"{name} is too long")
        try:
            found = base64.b64decode(re.sub(r"[\r\n]", "", value).replace(" ", "+"), validate=True)
        except (binascii.Error, ValueError) as error:
            raise bad_format(f"{name} is not base64") from error
        if len(found) > max_bytes:
            raise bad_format(f"{name} is too long")
        return found

    def sized(self, name: str, length_name: str, max_bytes: int) -> bytes:
        """An OCTET STRING and its length, which, where given, counts its octets or the characters of its base64."""
        found = self.octets(name, max_bytes)
        if length_name in self and self.integer(length_name) not in (len(found), len(self._values[name.lower()])):
            raise bad_format(f"{length_name} is not the length of {name}")
        return found

    def readings(self, name: str) -> list[bytes]:
        """What a text may stand for: the octets of its base64, and the text itself."""
        value = self._values.get(name.lower())
        if not isinstance(value, str) or not 1 <= len(value) <= 1_024:
            raise bad_format(f"{name} is missing or too long")
        plain = value.encode("utf-8", "surrogatepass")
        try:
            return [base64.b64decode(plain.replace(b" ", b"+"), validate=True), plain]
        except (binascii.Error, ValueError):
            return [plain]


@dataclass(frozen=True, slots=True)
class Call:
    """A request: which operation, in which mapping."""

    operation: str
    mapping: MappingName
    members: Members


def mapping_of(content_type: str, body: bytes) -> MappingName:
    """By the media type; where that says neither, by the body's first character."""
    if content_type.endswith("json"):
        return "json"
    if content_type == "application/x-www-form-urlencoded":
        return "form"
    return "json" if body.lstrip()[:1] == b"{" else "form"


def read_form(operation: str, body: bytes, version: str | None, time: str | None) -> Call:
    """The form mapping; version and time come in headers."""
    _check_envelope(version, time)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            encoding="latin-1",
            max_num_fields=_MEMBERS_MAX,
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise bad_format("the body is not a urlencoded form") from error
    return Call(operation, "form", Members(list(pairs)))


def read_json(operation: str, body: bytes) -> Call:
    """The JSON mapping: {"version", "reqType", "request": {...}, "reqTime"}."""
    try:
        envelope = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_format("the body is not JSON") from error
    request = envelope.get("request") if isinstance(envelope, dict) else None
    if not isinstance(request, dict) or len(request) > _MEMBERS_MAX:
        raise bad_format("the body is not an envelope with a request")
    _check_envelope(envelope.get("version"), envelope.get("reqTime"))
    named = envelope.get("reqType", operation)
    if not isinstance(named, str) or OPERATIONS.get(named.lower()) != operation:
        raise bad_format("reqType is another than the path's")
    return Call(operation, "json", Members(list(request.items())))


def _check_envelope(version: Any, time: Any) -> None:
    if version is not None and str(version).lower() not in _VERSIONS:
        raise bad_format("the version is not v1")
    if time is not None and not (isinstance(time, str) and _TIME.fullmatch(time)):
        raise bad_format("the request's time is no GeneralizedTime")


def write_form(respond: Mapping[str, str]) -> bytes:
    """`respValue=0&signature=...`, percent-encoded."""
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in respond.items()).encode("ascii")


def write_json(operation: str, respond: Mapping[str, str], at_ms: int) -> bytes:
    """The envelope of an answer, as the sample has it: every value a text, `reqType` and `reqTime` by those names."""
    return orjson.dumps({"version": "v1", "reqType": operation, "respond": respond, "reqTime": time_text(at_ms)})


def time_text(at_ms: int) -> str:
    """GeneralizedTime as the standard's grammar has it: `20261120081500Z`."""
    return to_datetime(at_ms).strftime("%Y%m%d%H%M%SZ")


def encode(octets: bytes) -> str:
    """OCTET STRING and Certificate: base64."""
    return base64.b64encode(octets).decode("ascii")
