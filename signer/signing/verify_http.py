"""The routes by which applications verify signatures, and get reports of it.

Knows routes, media types and bounds; not threads, SQL or certificates. Bodies are read by hand (signer.signing.fields)
because these are the hot paths; long ones are taken apart in a thread. Nothing of a body is logged.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from aiohttp import web

from core.clock import rfc3339
from core.errors import Denied, Malformed, QianyanError, Refused, TooLarge
from core.http import json_response, read_body, require, to_base64
from core.model import serial_to_hex
from signer._native import sm2
from signer.signing import fields
from signer.signing.report import Reporter, ReportOptions
from signer.signing.settings import SigningSettings
from signer.signing.verdicts import Verdict, VerifyItem
from signer.signing.verification import VerificationService

_OCTETS: Final = "application/octet-stream"
_MEMBERS: Final = frozenset({"items", "certificates", "intermediates", "report"})
_ITEM_MEMBERS: Final = frozenset({"certificate", "public_key", "data", "digest", "signature", "user_id", "at"})
_REPORT_MEMBERS: Final = frozenset({"reference", "subjects"})
_SIGNATURE_MAX_BYTES: Final = 256
#: A body longer than this is taken apart in a thread.
_INLINE_MAX_BYTES: Final = 65_536
#: `key_octets` of the octet form: 65 with the leading 04, 64 without.
_POINT_OCTETS: Final = {"65": 65, "64": 64}


@dataclass(slots=True)
class Call:
    """A body taken apart. `places`: for each item that can be verified where it stands in the body; the others have
    their result already."""

    items: list[VerifyItem] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    results: list[dict[str, Any] | None] = field(default_factory=list)
    intermediates: list[bytes] = field(default_factory=list)
    report: ReportOptions | None = None


class VerificationRoutes:
    """`private()` and `public()` are mounted on the two listeners by the service. `reporter` None: no reports."""

    def __init__(
        self, verification: VerificationService, settings: SigningSettings, reporter: Reporter | None = None
    ) -> None:
        self._verification = verification
        self._settings = settings
        self._reporter = reporter

    def private(self) -> list[web.RouteDef]:
        """Reports: for callers with scope `sign`. Verification as on the public listener."""
        return [*self.public(), web.post("/v1/reports", self.report)]

    def public(self) -> list[web.RouteDef]:
        """Verification: for everybody."""
        return [web.post("/v1/verify", self.verify)]

    async def verify(self, request: web.Request) -> web.Response:
        """POST /v1/verify: a result per item, in order; or, in octets, a byte per record."""
        # Not `content_type`, which says octets where a client says nothing.
        if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == _OCTETS:
            return await self._verify_octets(request)
        call = await self._read(request)
        if call.report is None:
            verdicts = await self._verification.verify(call.items, intermediates=call.intermediates)
            return json_response({"results": _results(call, verdicts)})
        if not self._verification.bounds.report.public:
            raise Denied("reports are made by POST /v1/reports on the private listener", code="report_private")
        record, verdicts = await self._reported(call, call.report, "public")
        return json_response({"results": _results(call, verdicts), "report": to_base64(record)})

    async def report(self, request: web.Request) -> web.Response:
        """POST /v1/reports: the signed record of a verification, byte for byte as it is to be kept."""
        caller = require(request, "sign")
        call = await self._read(request)
        record, _ = await self._reported(call, call.report or ReportOptions(), caller.id)
        return web.Response(body=record, content_type="application/json")

    async def _reported(self, call: Call, options: ReportOptions, caller: str) -> tuple[bytes, list[Verdict]]:
        if self._reporter is None:
            raise Refused("reports are not set up: verification.report.key names no key", code="report_key")
        limit = self._verification.bounds.report.max_items
        if len(call.results) > limit:
            raise TooLarge(f"a report has at most {limit} items", code="items", field="items")
        verdicts = await self._verification.verify(call.items, intermediates=call.intermediates, evidence=True)
        judged: list[tuple[VerifyItem | None, Verdict]] = [
            (None, Verdict("malformed", None if told is None else told["detail"])) for told in call.results
        ]
        for place, item, verdict in zip(call.places, call.items, verdicts, strict=True):
            judged[place] = (item, verdict)
        return await self._reporter.make(judged, options, caller), verdicts

    async def _verify_octets(self, request: web.Request) -> web.Response:
        """n records of digest ‖ public key ‖ r ‖ s in, n bytes 1 or 0 out (`signer.signing.records`)."""
        given = request.query.get("key_octets", "65")
        if given not in _POINT_OCTETS:
            raise Malformed("key_octets is 65 (04, X, Y) or 64 (X, Y)", code="key_octets", field="key_octets")
        octets = _POINT_OCTETS[given]
        body = await read_body(request, self._verification.bounds.max_records * (96 + octets))
        return web.Response(body=await self._verification.verify_records(body, octets), content_type=_OCTETS)

    async def _read(self, request: web.Request) -> Call:
        body = await read_body(request, self._settings.max_verify_body_bytes)
        if len(body) <= _INLINE_MAX_BYTES:
            return self.take_apart(body)
        return await asyncio.to_thread(self.take_apart, body)

    def take_apart(self, encoded: bytes) -> Call:
        """The JSON body. Raises Malformed or TooLarge for the body; what is wrong with one item is its result."""
        try:
            body = fields.members(orjson.loads(encoded), _MEMBERS, "")
        except orjson.JSONDecodeError as error:
            raise Malformed(f"the body is not JSON: {error}", code="json") from error
        items = body.get("items")
        if not isinstance(items, list) or not items:
            raise Malformed("items must be a list that is not empty", code="body", field="items")
        limit = self._settings.max_verify_items
        if len(items) > limit:
            raise TooLarge(f"items has {len(items)} entries; at most {limit} are taken", code="items", field="items")
        call = Call(report=_report_options(body, self._verification.bounds.report.max_reference_chars))
        call.intermediates = self._listed(body, "intermediates", self._verification.bounds.max_intermediates)
        shared = self._shared(body)
        for index, value in enumerate(items):
            try:
                call.items.append(self.item(value, f"items[{index}]", shared))
                call.places.append(index)
                call.results.append(None)
            except QianyanError as error:
                call.results.append({"valid": False, "reason": "malformed", "detail": error.detail})
        return call

    def _listed(self, body: dict[str, Any], name: str, limit: int) -> list[bytes]:
        """A list of certificates, each in base64."""
        values = body.get(name, [])
        if not isinstance(values, list):
            raise Malformed(f"{name} must be a list", code="body", field=name)
        if len(values) > limit:
            raise TooLarge(f"{name} has {len(values)} entries; at most {limit} are taken", code=name, field=name)
        size = self._settings.max_certificate_bytes
        return [
            fields.binary({"it": value}, "it", f"{name}[{index}]", max_bytes=size) for index, value in enumerate(values)
        ]

    def _shared(self, body: dict[str, Any]) -> list[bytes | QianyanError]:
        """`certificates`, which items name by number; one that is no base64 fails those that name it."""
        values = body.get("certificates", [])
        if not isinstance(values, list) or len(values) > self._settings.max_verify_items:
            raise Malformed(
                "certificates must be a list, no longer than items may be", code="body", field="certificates"
            )
        out: list[bytes | QianyanError] = []
        for index, value in enumerate(values):
            where = f"certificates[{index}]"
            try:
                out.append(fields.binary({"it": value}, "it", where, max_bytes=self._settings.max_certificate_bytes))
            except QianyanError as error:
                out.append(error)
        return out

    def item(self, value: Any, where: str, shared: list[bytes | QianyanError]) -> VerifyItem:
        """One item. Raises Malformed or TooLarge naming the member."""
        item = fields.members(value, _ITEM_MEMBERS, where)
        settings = self._settings
        by_certificate = fields.one_of(item, ("certificate", "public_key"), where) == "certificate"
        over_data = fields.one_of(item, ("data", "digest"), where) == "data"
        if "user_id" in item and not over_data:
            raise Malformed(f"{where}.user_id belongs to 'data'; a digest has it in it", code="body")
        return VerifyItem(
            signature=fields.binary(item, "signature", where, max_bytes=_SIGNATURE_MAX_BYTES),
            certificate=self._certificate(item, where, shared) if by_certificate else None,
            public_key=None if by_certificate else fields.binary(item, "public_key", where, max_bytes=65),
            data=fields.binary(item, "data", where, max_bytes=settings.max_data_bytes) if over_data else None,
            digest=None if over_data else fields.digest(item, "digest", where),
            user_id=fields.user_id(item, where, sm2.DEFAULT_ID),
            at_ms=fields.time_ms(item, "at", where),
        )

    def _certificate(self, item: dict[str, Any], where: str, shared: list[bytes | QianyanError]) -> bytes:
        """By value, or by its number in `certificates`."""
        given = item["certificate"]
        if type(given) is not int:
            return fields.binary(item, "certificate", where, max_bytes=self._settings.max_certificate_bytes)
        if not 0 <= given < len(shared):
            name = fields.path(where, "certificate")
            raise Malformed(f"{name} is the number of no entry in certificates", code="body", field=name)
        found = shared[given]
        if isinstance(found, QianyanError):
            raise found
        return found


def _report_options(body: dict[str, Any], max_reference: int) -> ReportOptions | None:
    """`report`: true, or an object that says what goes in."""
    given = body.get("report", False)
    if isinstance(given, bool):
        return ReportOptions() if given else None
    options = fields.members(given, _REPORT_MEMBERS, "report")
    reference = options.get("reference")
    if reference is not None:
        reference = fields.text(options, "reference", "report", max_chars=max_reference)
    return ReportOptions(reference, fields.flag(options, "subjects", "report", default=True))


def _results(call: Call, verdicts: list[Verdict]) -> list[dict[str, Any]]:
    """Each result in its place; items that share a verdict share its rendering."""
    written: dict[int, dict[str, Any]] = {}
    for verdict in verdicts:
        if id(verdict) not in written:
            written[id(verdict)] = rendered(verdict)
    found = iter(verdicts)
    return [written[id(next(found))] if told is None else told for told in call.results]


def rendered(verdict: Verdict) -> dict[str, Any]:
    """A verdict as the API writes it."""
    out: dict[str, Any] = {"valid": verdict.valid, "reason": verdict.reason}
    if verdict.detail is not None:
        out["detail"] = verdict.detail
    if verdict.serial is not None:
        out["serial"] = serial_to_hex(verdict.serial)
    if verdict.authority_id is not None:
        out["authority"] = verdict.authority_id
    if verdict.checked_at_ms is not None:
        out["checked_at"] = rfc3339(verdict.checked_at_ms)
    if verdict.revoked_at_ms is not None:
        out["revoked_at"] = rfc3339(verdict.revoked_at_ms)
    if verdict.revocation_reason is not None:
        out["revocation_reason"] = verdict.revocation_reason.label
    return out
