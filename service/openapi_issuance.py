"""The description of issuance, the life cycle, recovery, holders and registration authorities: a table of operations.

`tests/test_openapi.py` compares it with the routes that are registered.
"""

from __future__ import annotations

from typing import Any, Final

from service.openapi_schemas import (
    JSON,
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
from signer.holders.http import FindBody
from signer.issuance.http import ChangeBody, IssueBody, ReissueBody, RenewBody, RevokeBody, SerialBody, SuspendBody
from signer.issuance.recovery_http import RecoverBody, RedeemBody

CERTIFICATES: Final = "certificates"
RECOVERY: Final = "recovery and unlocking"
HOLDERS: Final = "holders"

_ONE: Final = "/v1/certificates/{serial}"
_STATUS: Final = one_of("good", "revoked", "held")
_STATUS_MEMBERS: Final[dict[str, Schema]] = {
    "serial": hexadecimal(),
    "authority": text(),
    "status": _STATUS,
    "reason": maybe(text("RFC 5280's reason.")),
    "revoked_at": maybe(time()),
    "invalidity_at": maybe(time()),
}

COMPONENTS: Final[dict[str, Any]] = {
    "Issued": members(
        {
            "certificates": many(
                members({"serial": hexadecimal(), "usage": one_of("sign", "encrypt"), "certificate": binary("DER.")})
            ),
            "chain": many(binary(), description="The authorities' certificates, the issuing one first."),
            "enveloped_key": maybe(binary("SM2EnvelopedKey (GM/T 0009 §7.4) for the key of the request.")),
        },
        {"holder": maybe(text("The holder's id."))},
    ),
    "Changed": members({"certificates": many(members({**_STATUS_MEMBERS, "usage": one_of("sign", "encrypt")}))}),
    "Certificate": members(
        {
            **_STATUS_MEMBERS,
            "state": one_of("active", "renewed", "suspended", "suspended_renewed", "expired", "revoked"),
            "holder": maybe(text("The holder's id.")),
            "usage": text(),
            "profile": text(),
            "not_before": time(),
            "not_after": time(),
            "issued_at": time(),
            "pair": maybe(hexadecimal("The other certificate of the pair.")),
            "certificate": binary("DER."),
        }
    ),
    "Recovery": members(
        {
            "id": text(),
            "state": one_of("asked", "approved", "done", "rejected"),
            "judicial": flag(),
            "reference": text("The case's number."),
            "requested_by": text(),
            "approved_by": many(text()),
            "asked_at": time(),
            "expires_at": time(),
            "enveloped_key": maybe(binary("SM2EnvelopedKey, once it is done.")),
        }
    ),
    "Unlock": members({"serial": hexadecimal(), "token": text("Good once."), "expires_at": time()}),
    "Holder": members(
        {
            "id": text(),
            "kind": one_of("organisation", "person", "device"),
            "created_at": time(),
            "changed_at": time(),
            "certificates": many(
                members(
                    {
                        "serial": hexadecimal(),
                        "authority": text(),
                        "usage": text(),
                        "profile": text(),
                        "status": _STATUS,
                        "not_before": time(),
                        "not_after": time(),
                    }
                )
            ),
        },
        {name: maybe(text("Masked.")) for name in ("number", "name", "phone", "address")},
    ),
    "History": members(
        {
            "history": many(
                members(
                    {
                        "operation": text(),
                        "at": time(),
                        "actor": text(),
                        "ground": maybe(text()),
                        "authority": text(),
                        "serial": hexadecimal(),
                        "replaces": maybe(hexadecimal()),
                    }
                )
            ),
            "next": maybe(number("Goes on, as `?before=`.")),
        }
    ),
}

_REQUEST_CODES: Final = (
    "csr_public_key", "csr_signature_algorithm", "csr_signature", "csr_attribute", "subject_policy", "subject_field",
    "subject_field_too_long", "extension_policy", "key_of_another", "key_compromised_before", "profile_unknown",
    "issuer_expires",
)  # fmt: skip
_HOLDER_CODES: Final = ("holder_required", "holder_number", "holder_kind", "holder_data")
_STATE_CODES: Final = ("already_replaced", "suspended", "expired", "already_revoked")
_UNKNOWN: Final = ("certificate_unknown",)
#: What the life cycle refuses, by whatever way it is asked for.
LIFE_CYCLE_CODES: Final = (
    *_STATE_CODES, "already_held", "not_held", "renewal_early", "subject_changed", "key_changed", "key_not_new",
    "reissue_ground", "no_encryption_key", "recovery_recipient", *_HOLDER_CODES, *_REQUEST_CODES,
)  # fmt: skip
RACES: Final = (
    "idempotency_key", "holder_busy", "request_contended", "serial_ambiguous", "state_changed", "kmc_key_taken",
)  # fmt: skip
#: Where `registration.required` is set.
_BY_TOKEN: Final[dict[int, tuple[str, ...]]] = {403: ("signed_request_required",)}
_ISSUED: Final = {201: ("The new certificates.", {JSON: ref("Issued")})}
_CHANGED: Final = {200: ("Where both certificates of the pair stand now.", {JSON: ref("Changed")})}
_AUTHORITY: Final = Parameter("authority", text("The issuing authority, where several have the serial."))


def _replace(verb: str, model: type, summary: str, codes: tuple[str, ...], *, optional: bool = False) -> Operation:
    return Operation(
        "post", f"{_ONE}/{verb}", CERTIFICATES, summary, scope="issue", body={JSON: model}, optional=optional,
        answers=_ISSUED, once=True,
        codes={**_BY_TOKEN, 400: ("serial", "csr"), 404: _UNKNOWN, 409: RACES,
               422: (*codes, *_STATE_CODES, *_REQUEST_CODES)},
    )  # fmt: skip


def _move(verb: str, model: type, summary: str, codes: tuple[str, ...], *, optional: bool = True) -> Operation:
    return Operation(
        "post", f"{_ONE}/{verb}", CERTIFICATES, summary, scope="revoke", body={JSON: model}, optional=optional,
        answers=_CHANGED, codes={**_BY_TOKEN, 400: ("serial",), 404: _UNKNOWN, 409: RACES, 422: codes}, once=True,
    )  # fmt: skip


OPERATIONS: Final = (
    Operation(
        "post", "/v1/certificates", CERTIFICATES, "Issue a certificate, or a pair", scope="issue",
        body={JSON: IssueBody}, answers=_ISSUED, once=True,
        codes={
            **_BY_TOKEN,
            400: ("csr",),
            409: RACES,
            413: ("csr_size",),
            422: (*_REQUEST_CODES, *_HOLDER_CODES, "holders_off"),
            503: (
                *("register_unavailable", "register_busy", "issuance_queue", "clock_behind"),
                *("kmc_no_answer", "kmc_left"),
            ),
        },
    ),
    Operation(
        "get", _ONE, CERTIFICATES, "A certificate and where it stands", scope="read", query=(_AUTHORITY,),
        answers={200: ("The certificate.", {JSON: ref("Certificate")})},
        codes={400: ("serial",), 404: _UNKNOWN, 409: ("serial_ambiguous",)},
    ),
    _move("revoke", RevokeBody, "Revoke for good, or with certificate_hold suspend",
          ("already_revoked", "already_held"), optional=False),
    _move("suspend", SuspendBody, "Suspend", ("already_held", "already_revoked", "expired")),
    _move("resume", SerialBody, "End a suspension", ("not_held", "expired")),
    _replace("renew", RenewBody, "A new pair from the old one's end",
             ("renewal_early", "subject_changed"), optional=True),
    _replace("change", ChangeBody, "A new subject; the old pair is revoked", ("key_changed",)),
    _replace("reissue", ReissueBody, "New keys; the old pair is revoked",
             ("subject_changed", "key_not_new", "reissue_ground")),
    Operation(
        "post", f"{_ONE}/unlock", RECOVERY, "Permit a medium to be unlocked", scope="unlock", body={JSON: SerialBody},
        optional=True, answers={201: ("A token that is good once.", {JSON: ref("Unlock")})}, once=True,
        codes={**_BY_TOKEN, 400: ("serial",), 404: _UNKNOWN, 409: RACES,
               422: ("suspended", "expired", "already_revoked")},
    ),
    Operation(
        "post", "/v1/unlocks/redeem", RECOVERY, "Spend an unlock token", scope="unlock", body={JSON: RedeemBody},
        answers={200: ("For which certificate it was.",
                       {JSON: members({"serial": hexadecimal(), "authority": text()})})},
        codes={404: ("unlock_unknown",), 409: ("unlock_used",), 422: ("unlock_token", "unlock_expired")},
    ),
    Operation(
        "post", f"{_ONE}/recover", RECOVERY, "Ask for the encryption key's recovery", scope="recover",
        description="With `judicial` the scope is `recover_judicial`.", body={JSON: RecoverBody}, once=True,
        answers={201: ("It waits for two approvals.", {JSON: ref("Recovery")})},
        codes={**_BY_TOKEN, 400: ("serial",), 404: _UNKNOWN, 409: RACES,
               422: ("no_encryption_key", "recovery_recipient", "recovery_reference")},
    ),
    Operation(
        "get", "/v1/recoveries", RECOVERY, "The latest recoveries, newest first", scope="recover",
        description="Scopes `recover`, `recover_judicial`, `approve_recovery` and `audit` read.",
        query=(Parameter("state", one_of("asked", "approved", "done", "rejected")),),
        answers={200: ("Recoveries.", {JSON: members({"recoveries": many(ref("Recovery"))})})}, codes={400: ("state",)},
    ),
    Operation(
        "get", "/v1/recoveries/{recovery}", RECOVERY, "A recovery", scope="recover",
        answers={200: ("The recovery.", {JSON: ref("Recovery")})}, codes={404: ("recovery_unknown",)},
    ),
    Operation(
        "post", "/v1/recoveries/{recovery}/approve", RECOVERY, "One of the two approvals", scope="approve_recovery",
        answers={200: ("The recovery; with the key once it is done.", {JSON: ref("Recovery")})},
        codes={404: ("recovery_unknown",), 409: ("recovery_changed",),
               422: ("same_person", "recovery_expired", "recovery_rejected", "recovery_recipient")},
    ),
    Operation(
        "post", "/v1/recoveries/{recovery}/reject", RECOVERY, "End a recovery", scope="approve_recovery",
        answers={200: ("The recovery.", {JSON: ref("Recovery")})},
        codes={404: ("recovery_unknown",), 409: ("recovery_changed",), 422: ("recovery_done",)},
    ),
    Operation(
        "post", "/v1/holders/find", HOLDERS, "The holder with a number, masked", scope="holders",
        description="By POST, so that the number is in no proxy's log.", body={JSON: FindBody},
        answers={200: ("The holder.", {JSON: ref("Holder")})},
        codes={404: ("holder_unknown",), 422: ("holder_number", "holder_kind")},
    ),
    Operation(
        "get", "/v1/holders/{holder}", HOLDERS, "A holder, masked", scope="holders",
        answers={200: ("The holder.", {JSON: ref("Holder")})}, codes={404: ("holder_unknown",)},
    ),
    Operation(
        "get", "/v1/holders/{holder}/history", HOLDERS, "The business done for a holder, newest first", scope="holders",
        query=(Parameter("before", number("The `next` of the page before.")),),
        answers={200: ("A page.", {JSON: ref("History")})}, codes={400: ("before",), 404: ("holder_unknown",)},
    ),
)  # fmt: skip
