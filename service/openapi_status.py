"""The description of what relying parties ask: OCSP, CRLs, status sets, bulk status. A table of operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from service.openapi_schemas import (
    JSON,
    OCTETS,
    Operation,
    Parameter,
    Schema,
    hexadecimal,
    many,
    maybe,
    members,
    one_of,
    text,
    time,
)

STATUS: Final = "status"
_PUBLIC: Final = ("public",)
_OCSP: Final = {"application/ocsp-response": text("OCSPResponse, DER.")}
COMPONENTS: Final[dict[str, Any]] = {}


def _ocsp_post(path: str) -> Operation:
    return Operation(
        "post", path, STATUS, "OCSP (RFC 6960)", _PUBLIC,
        description="Errors of the protocol are OCSP answers with status 200.",
        body={"application/ocsp-request": text("OCSPRequest, DER.")},
        answers={200: ("The answer.", _OCSP)}, codes={413: ("ocsp_request_size", "body_size")},
    )  # fmt: skip


def _file(path: str, summary: str, media: str, codes: Mapping[int, tuple[str, ...]]) -> Operation:
    contents: dict[str, Schema] = {media: text("DER, or the set's own format.")}
    return Operation(
        "get", path, STATUS, summary, _PUBLIC, codes=codes,
        description="With `ETag`, `Last-Modified`, `Expires`; conditional, and for CRLs and sets single ranges.",
        answers={200: ("The file.", contents), 206: ("A part of it.", contents), 304: ("Unchanged.", {}),
                 416: ("No such part.", {})},
    )  # fmt: skip


_CRL: Final = {404: ("crl_unknown", "partition_unknown"), 503: ("crl_expired", "crl_missing")}
_SET: Final = {404: ("authority_unknown",), 503: ("set_missing", "set_expired")}

OPERATIONS: Final = (
    _ocsp_post("/ocsp"),
    _ocsp_post("/ocsp/"),
    Operation(
        "get", "/ocsp/{request}", STATUS, "OCSP by GET (RFC 9919)", _PUBLIC,
        description="`request`: base64 of the OCSPRequest. Answers can be cached.",
        answers={200: ("The answer.", _OCSP), 304: ("Unchanged.", {})}, codes={413: ("ocsp_request_size",)},
    ),
    Operation(
        "post", "/v1/status", STATUS, "The status of thousands of serials", _PUBLIC,
        description="As octets: serials of 20 octets in, an octet for each out: 1 good, 2 revoked, 3 held, 4 unknown.",
        body={JSON: members({"serials": many(hexadecimal(), maxItems=10_000)}, {"authority": text()}), OCTETS: text()},
        query=(Parameter("authority", text("For octets; `issuing` without it.")),),
        answers={200: ("In order.", {JSON: members({"statuses": many(members({
            "serial": hexadecimal(), "status": one_of("good", "revoked", "held", "unknown"),
            "revoked_at": maybe(time()), "reason": maybe(text()), "invalidity_at": maybe(time())}))}),
            OCTETS: text()})},
        codes={400: ("serial", "serials_size"), 404: ("authority_unknown",), 413: ("serials_count",),
               503: ("status_queue_full", "feed_gap")},
    ),
    _file("/ca/{authority}.cer", "An authority's certificate", "application/pkix-cert", {404: ("authority_unknown",)}),
    _file("/crl/{authority}/{partition}.crl", "A CRL", "application/pkix-crl", _CRL),
    _file("/crl/{authority}/{partition}-delta.crl", "A delta CRL", "application/pkix-crl", _CRL),
    _file("/set/{authority}.set", "A status set", OCTETS, _SET),
    _file("/set/{authority}-delta.set", "The delta of a status set", OCTETS, _SET),
    Operation(
        "get", "/status", STATUS, "How fresh everything is: a page for people", _PUBLIC,
        query=(Parameter("lang", one_of("zh", "en")), Parameter("refresh", one_of("on"))),
        answers={200: ("The page.", {"text/html": text()})},
    ),
)  # fmt: skip
