"""The description of signing, verification, messages and operation: a table of operations."""

from __future__ import annotations

from typing import Any, Final

from service.openapi_schemas import (
    JSON,
    OCTETS,
    TEXT,
    Operation,
    Parameter,
    Schema,
    binary,
    flag,
    hexadecimal,
    many,
    maybe,
    members,
    number,
    one_of,
    ref,
    text,
    time,
)

SIGNING: Final = "signing"
VERIFYING: Final = "verification"
OPERATION: Final = "operation"
_FORM: Final = "application/x-www-form-urlencoded"
_BOTH: Final = ("private", "public")
_KEY: Final = text("The key's id.", maxLength=64)
_INPUT: Final[dict[str, Schema]] = {
    "digest": binary("e = SM3(Z ‖ M), 32 octets; in place of `data`."),
    "data": binary("What is hashed here; in place of `digest`."),
    "user_id": binary("1234567812345678 without it; with `data` only."),
}
_KEY_USE: Final = {
    403: ("key_caller",),
    404: ("key_unknown",),
    413: ("key_rate", "items", "field_size"),
    422: ("key_purpose", "key_frozen", "key_compromised", "key_retired", "key_hours", "key_count"),
    429: ("key_rate",),
    503: ("sign_queue", "key_changed", "hsm_out"),
}
_DECRYPT_USE: Final = {**_KEY_USE, 422: (*_KEY_USE[422], "decrypt_failed"), 503: ("decrypt_queue", "key_changed")}

COMPONENTS: Final[dict[str, Any]] = {
    "Verdict": members(
        {
            "valid": flag(),
            "reason": maybe(
                one_of(
                    "malformed", "signature", "chain", "not_yet_valid", "expired", "key_usage", "revoked", "suspended",
                    "unknown_status",
                )
            ),
        },
        {
            "detail": text(),
            "serial": hexadecimal(),
            "authority": text(),
            "checked_at": time(),
            "revoked_at": time(),
            "revocation_reason": text(),
        },
    ),
    "VerifyBody": members(
        {
            "items": many(
                members(
                    {"signature": binary("DER SM2Signature, or r ‖ s.")},
                    {
                        "certificate": {
                            "anyOf": [binary("DER."), number("An entry of `certificates`.", minimum=0)]
                        },
                        "public_key": binary("65 octets; in place of a certificate."),
                        "at": time("Judge as of then."),
                        **_INPUT,
                    },
                ),
                minItems=1,
                maxItems=10_000,
            )
        },
        {
            "certificates": many(binary()),
            "intermediates": many(binary(), maxItems=32),
            "report": {"anyOf": [flag(), members({}, {"reference": text(), "subjects": flag()})]},
        },
    ),
    "Device": members(
        {
            "device": text(),
            "wanted": text(),
            "complete": flag(),
            "ordered_by": maybe(text()),
            "ordered_at": maybe(time()),
            "workers": many(members({"worker": text(), "state": text(), "obeyed": flag()})),
        }
    ),
    "Readiness": members(
        {
            "ready": flag(),
            "checks": {"type": "object", "additionalProperties": members({"ok": flag(), "detail": text()})},
        }
    ),
    "AuditRow": members(
        {"seq": number(), "at": time(), "actor": text(), "action": text(), "subject": text(), "outcome": text()},
        {"detail": {}},
    ),
}  # fmt: skip

OPERATIONS: Final = (
    Operation(
        "post", "/v1/sign", SIGNING, "Sign a digest, data, or a list of them", scope="sign",
        body={JSON: members({"key": _KEY}, {**_INPUT, "items": many(members({}, _INPUT), maxItems=1024)})},
        answers={200: ("`signature`, or with `items` `signatures` in order.", {JSON: members(
            {"algorithm": text()}, {"signature": binary("DER SM2Signature."), "signatures": many(binary())})})},
        codes=_KEY_USE,
    ),
    Operation(
        "post", "/v1/keys/{key}/sign", SIGNING, "Sign digests by the thousand", scope="sign",
        body={OCTETS: text("n × 32 octets of digests.")},
        answers={200: ("n × 64 octets r ‖ s.", {OCTETS: text()})},
        codes={**_KEY_USE, 400: ("digest_length", "content_type")},
    ),
    Operation(
        "post", "/v1/decrypt", SIGNING, "Decrypt SM2 ciphertexts", scope="decrypt",
        body={JSON: members({"key": _KEY}, {"ciphertext": binary(), "encoding": one_of("der", "c1c3c2"),
                                            "items": many(members({"ciphertext": binary()}), maxItems=1024)})},
        answers={200: ("`plaintext`, or with `items` `results` in order.", {JSON: members(
            {}, {"plaintext": binary(),
                 "results": many(members({}, {"plaintext": binary(), "code": text()}))})})},
        codes=_DECRYPT_USE,
    ),
    Operation(
        "post", "/v1/cms/decrypt", SIGNING, "Open EnvelopedData (GM/T 0010)", scope="decrypt",
        body={JSON: members({"key": _KEY, "cms": binary()})},
        answers={200: ("The content.", {JSON: members({"data": binary()})})},
        codes={**_DECRYPT_USE, 422: (*_KEY_USE[422], "cms_recipient", "cms_decrypt", "cms_type", "cms_version")},
    ),
    Operation(
        "post", "/v1/cms/sign", SIGNING, "Make SignedData (GM/T 0010)", scope="sign",
        body={JSON: members({"key": _KEY, "data": binary()},
                            {"user_id": binary(), "detached": flag(), "certificates": flag()})},
        answers={200: ("The message.", {JSON: members({"cms": binary()})})},
        codes={**_KEY_USE, 422: (*_KEY_USE[422], "key_certificate", "cms_ambiguous")},
    ),
    Operation(
        "post", "/v1/cms/verify", VERIFYING, "Verify SignedData", _BOTH,
        body={JSON: members({"cms": binary()}, {"data": binary("Where the message is detached."), "user_id": binary(),
                                                "at": time()})},
        answers={200: ("A result for each signer.", {JSON: members(
            {"valid": flag(), "results": many(ref("Verdict"))}, {"content": binary()})})},
        codes={413: ("field_size", "cms_signers", "cms_set_size"),
               422: ("cms_type", "cms_version", "cms_algorithm", "cms_digest", "cms_no_content", "cms_content",
                     "cms_no_signer", "cms_identifier")},
    ),
    Operation(
        "post", "/v1/encrypt", SIGNING, "Encrypt for a certificate or a public key", scope="sign",
        body={JSON: members({"data": binary()}, {"certificate": binary(), "public_key": binary(),
                                                 "format": one_of("cms", "sm2")})},
        answers={200: ("The ciphertext.", {JSON: members({"ciphertext": binary(), "format": text()})})},
        codes={400: ("certificate", "public_key"), 422: ("data_empty", "certificate_key_usage")},
    ),
    Operation(
        "post", "/v1/verify", VERIFYING, "Verify signatures and the certificates behind them", _BOTH,
        description="As octets: n records of digest ‖ public key ‖ r ‖ s in, n octets 1 or 0 out; signatures alone.",
        body={JSON: ref("VerifyBody"), OCTETS: text()}, query=(Parameter("key_octets", one_of("64", "65")),),
        answers={200: ("A result for each item, in order.", {JSON: members(
            {"results": many(ref("Verdict"))}, {"report": binary()}), OCTETS: text()})},
        codes={400: ("key_octets", "record_length"), 413: ("items", "records"), 422: ("report_key",),
               503: ("verify_queue",)},
    ),
    Operation(
        "post", "/v1/reports", VERIFYING, "A signed record of a verification", scope="sign",
        body={JSON: ref("VerifyBody")}, answers={200: ("The record, to be kept byte for byte.", {JSON: members({})})},
        codes={413: ("items",), 422: ("report_key",)},
    ),
    Operation(
        "post", "/SignServer/{operation}", SIGNING, "Sign-and-verify server (GB/T 38629)", scope="sign",
        description="Where `svs.enabled` is set. Errors are `respValue`, with status 200.",
        body={JSON: members({}), _FORM: members({})},
        answers={200: ("The operation's answer.", {JSON: members({}), _FORM: members({})})},
        codes={404: ("svs_operation",)},
    ),
    Operation(
        "get", "/v1/audit", OPERATION, "Rows of the audit record, newest first", scope="audit",
        query=tuple(Parameter(name, text()) for name in ("subject", "action", "actor"))
        + tuple(Parameter(name, number(minimum=0)) for name in ("since_ms", "until_ms", "limit")),
        answers={200: ("Rows.", {JSON: members({"rows": many(ref("AuditRow"))})})}, codes={400: ("query",)},
    ),
    Operation(
        "get", "/v1/audit/checkpoint", OPERATION, "The newest signed checkpoint", scope="audit",
        answers={200: ("The checkpoint.", {TEXT: text()})}, codes={404: ("audit_checkpoint",)},
    ),
    Operation(
        "get", "/v1/audit/{seq}/proof", OPERATION, "That a row is in the record", scope="audit",
        answers={200: ("The proof.", {JSON: members({
            "kind": text(), "record": text(), "seq": number(), "proof": many(text()), "checkpoint": text()})})},
        codes={404: ("audit_checkpoint", "audit_seq")},
    ),
    Operation(
        "get", "/v1/statistics", OPERATION, "What was issued, revoked and asked for", scope="statistics",
        description="`from` and `until` are days (`until` is not in it), `by` dimensions with commas between; a value "
        "of a dimension narrows, as a member of that name.",
        query=(Parameter("from", text(format="date")), Parameter("until", text(format="date")), Parameter("by", text()),
               Parameter("period", text()), Parameter("format", one_of("json", "csv")),
               Parameter("report", one_of("business", "states"))),
        answers={200: ("The counts.", {JSON: members({
            "at": time(), "from": text(), "until": text(), "by": many(text()), "period": maybe(text()),
            "business": many(members({})), "states": many(members({}))}), "text/csv": text()})},
        codes={400: ("query",), 503: ("statistics_stale",)},
    ),
    Operation(
        "post", "/v1/kmc", OPERATION, "A CA's message to key management (GM/T 0014)", scope="kmc",
        body={OCTETS: text("CARequest, DER.")},
        answers={200: ("KMRespond, DER; with its own error where there is one.", {OCTETS: text()})},
    ),
    Operation(
        "get", "/v1/hsm", OPERATION, "How hardware modules stand", scope="operate",
        answers={200: ("Devices.", {JSON: members({"devices": many(ref("Device"))})})},
    ),
    *(
        Operation(
            "post", f"/v1/hsm/{{device}}/{verb}", OPERATION, summary, scope="operate", optional=True,
            body={JSON: members({}, {"force": flag(), "wait_s": {"type": "number", "minimum": 0, "maximum": 120}})},
            answers={200: ("Every worker has it so.", {JSON: ref("Device")}),
                     202: ("Some have not yet.", {JSON: ref("Device")})},
            codes={404: ("hsm_device",), 422: ("hsm_last",)},
        )
        for verb, summary in (("drain", "Leave a module alone"), ("resume", "Use it again"))
    ),
    Operation(
        "get", "/metrics", OPERATION, "Prometheus", scope="metrics",
        answers={200: ("The metrics.", {TEXT: text()})},
    ),
    Operation(
        "get", "/openapi.json", OPERATION, "This description",
        answers={200: ("OpenAPI 3.1.", {JSON: members({})})},
    ),
    Operation(
        "get", "/healthz", OPERATION, "Whether it is alive", _BOTH,
        answers={200: ("Alive.", {JSON: members({"status": text()})})},
    ),
    Operation(
        "get", "/readyz", OPERATION, "Whether it is ready, and what to do where not", _BOTH,
        query=(Parameter("ignore", many(text("A check that is told and does not count."))),),
        answers={200: ("Ready.", {JSON: ref("Readiness")}), 503: ("Not ready.", {JSON: ref("Readiness")})},
    ),
)  # fmt: skip
