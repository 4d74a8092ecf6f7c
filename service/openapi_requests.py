"""The description of registration authorities and their signed requests: a table of operations.

What is inside a signed message has its schema, too (`SignedRequest`), though HTTP sees octets only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from service import openapi_issuance
from service.openapi_schemas import (
    JSON,
    Operation,
    Parameter,
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
from signer.registration.admin_http import NewRaBody, RaBody, WithdrawBody
from signer.registration.appointing import AppointmentBody, DismissalBody
from signer.registration.bodies import PersonBody
from signer.registration.payloads import PAYLOADS, RejectionBody
from signer.registration.roles import Kind, Role

REQUESTS: Final = "signed requests"
REGISTRATION: Final = "registration authorities"

_CMS: Final = {"application/pkcs7-mime": text("ContentInfo, DER: SignedData of GM/T 0010 around a SignedRequest.")}
_RA: Final = Parameter("ra", text("The RA's id."), required=True)
_STATES: Final = one_of("entered", "done", "rejected", "failed")
_STORED_STATES: Final = one_of("entered", "done", "rejected")

MODELS: Final = (*PAYLOADS.values(), RejectionBody, AppointmentBody, DismissalBody)


def _signed(kind: Kind) -> dict[str, Any]:
    return members(
        {
            "version": {"const": 1},
            "request_id": text(
                "Unique within the RA, for good: the idempotency key.", pattern="^[A-Za-z0-9._-]{1,64}$"
            ),
            "ra": text(),
            "kind": {"const": kind.value},
            "payload": ref(PAYLOADS[kind].__name__),
        }
    )


COMPONENTS: Final[dict[str, Any]] = {
    "SignedRequest": {
        "description": "The content that is signed by who enters and by who approves, UTF-8 JSON.",
        "oneOf": [_signed(kind) for kind in Kind],
    },
    "Unlocked": members(
        {"serial": hexadecimal(), "token": maybe(text("Good once; told in answers to signed messages alone."))},
        {"expires_at": time()},
    ),
    "Appointed": members(
        {"person": text("The person's id.")},
        {
            "roles": many(text()),
            "certificate": binary("The new one, DER."),
            "chain": many(binary()),
            "revoked": {"description": "What a dismissal revoked."},
        },
    ),
    "RequestAnswer": members(
        {
            "request_id": text(),
            "ra": text(),
            "kind": one_of(*(kind.value for kind in Kind), "appoint", "dismiss"),
            "state": _STATES,
        },
        {
            "entered_by": maybe(text("A person's id.")),
            "entered_at": maybe(time()),
            "expires_at": maybe(time()),
            "approved_by": many(text()),
            "decided_by": maybe(text()),
            "decided_at": maybe(time()),
            "reason": maybe(text("Why it was rejected or failed.")),
            "result": {
                "description": "Once it is done: what the act made.",
                "anyOf": [
                    ref("Issued"),
                    ref("Changed"),
                    ref("Unlocked"),
                    ref("Recovery"),
                    ref("Appointed"),
                    {"type": "null"},
                ],
            },
        },
    ),
    "Ra": members(
        {
            "id": text(),
            "name": text(),
            "state": one_of("active", "withdrawn"),
            "profiles": many(text()),
            "regions": many(text()),
            "customers": many(text()),
            "callers": many(text("Who may read its requests: token:NAME, cert:NAME.")),
            "unassigned": flag(),
            "created_at": time(),
            "changed_at": time(),
        },
        {"people": many(ref("Person"))},
    ),
    "Person": members(
        {
            "id": text(),
            "name": maybe(text("Masked.")),
            "roles": many(one_of(*(role.value for role in Role))),
            "state": one_of("active", "withdrawn"),
            "created_at": time(),
            "changed_at": time(),
            "certificates": many(
                members({"serial": hexadecimal(), "state": text(), "not_before": time(), "not_after": time()})
            ),
        },
        {"certificate": binary("The new one, DER."), "chain": many(binary())},
    ),
}

_CERTIFICATE_CODES: Final = (
    "certificate_expired",
    "certificate_not_yet_valid",
    "certificate_revoked",
    "certificate_suspended",
    "certificate_unknown",
    "certificate_chain",
    "certificate_status_unknown",
)
#: Why a signed message is not taken, whatever it asks for.
_SIGNED_CODES: Final[Mapping[int, tuple[str, ...]]] = {
    400: (
        "content_type",
        "request_json",
        "request_content",
        "request_attributes",
        "der",
        "cms_attributes",
        "cms_signature",
        "serial",
        "csr",
    ),
    401: ("ra_unknown", "signer_unknown", "signer_certificate", "request_signature"),
    403: (
        "ra_withdrawn",
        "person_withdrawn",
        "same_person",
        "role",
        "scope_profile",
        "scope_region",
        "scope_customer",
        "scope_certificate",
        *_CERTIFICATE_CODES,
    ),
    404: ("request_unknown", "certificate_unknown"),
    409: ("request_id_reused", "request_decided", "registration_changed", *openapi_issuance.RACES),
    413: ("request_size", "cms_set_size", "csr_size"),
    422: (
        "request_signers",
        "signing_time",
        "request_content",
        "request_expired",
        "cms_type",
        "cms_version",
        "cms_algorithm",
        "cms_content_type",
        "cms_digest",
        "signer_certificate",
        *openapi_issuance.LIFE_CYCLE_CODES,
    ),
    429: ("refused_too_often",),
    503: (
        "verify_queue",
        "issuance_queue",
        "register_unavailable",
        "register_busy",
        "clock_behind",
        "store_unavailable",
        "stopping",
    ),
}
_READ_CODES: Final = {400: ("ra", "request_id"), 404: ("request_unknown",)}
_PEOPLE_CODES: Final[Mapping[int, tuple[str, ...]]] = {
    400: ("certificate", *_SIGNED_CODES[400]),
    401: _SIGNED_CODES[401],
    403: _SIGNED_CODES[403],
    404: ("ra_unknown",),
    409: ("request_id_reused", "registration_changed", "certificate_registered"),
    413: ("ra_people", "request_size", "cms_set_size"),
    422: (
        "person_id",
        "roles_apart",
        "certificate_usage",
        "certificate_chain",
        "key_of_another",
        "request_signers",
        "signing_time",
        "cms_digest",
        "csr_signature",
        "csr_public_key",
    ),
    429: _SIGNED_CODES[429],
}


def _decision(verb: str, summary: str, description: str) -> Operation:
    return Operation(
        "post", f"/v1/requests/{{request}}/{verb}", REQUESTS, summary, description=description, body=_CMS,
        query=(_RA,),
        answers={200: ("Where it stands now.", {JSON: ref("RequestAnswer")}),
                 201: ("It is done, and made certificates.", {JSON: ref("RequestAnswer")}),
                 202: ("It waits for one more approval.", {JSON: ref("RequestAnswer")})},
        codes=_SIGNED_CODES,
    )  # fmt: skip


OPERATIONS: Final = (
    Operation(
        "post", "/v1/requests", REQUESTS, "Send a request, signed by one person or by two",
        description="The signatures are the authority: no token is asked for. One signature enters the request; two, "
        "by different people, do it. The same request again has the answer of the first time.",
        body=_CMS,
        answers={200: ("It is done.", {JSON: ref("RequestAnswer")}),
                 201: ("It is done, and made certificates.", {JSON: ref("RequestAnswer")}),
                 202: ("It is entered and waits for approval.", {JSON: ref("RequestAnswer")})},
        codes=_SIGNED_CODES,
    ),
    Operation(
        "get", "/v1/requests", REQUESTS, "The RA's requests", scope="requests:read",
        query=(_RA, Parameter("state", _STORED_STATES), Parameter("after", text("The `next` of the page before.")),
               Parameter("limit", number(minimum=1, maximum=200))),
        answers={200: ("A page.", {JSON: members({"requests": many(ref("RequestAnswer")), "next": maybe(text())})})},
        codes={400: ("ra", "state", "after", "limit")},
    ),
    Operation(
        "get", "/v1/requests/{request}", REQUESTS, "Where a request stands", scope="requests:read", query=(_RA,),
        answers={200: ("The request.", {JSON: ref("RequestAnswer")})}, codes=_READ_CODES,
    ),
    Operation(
        "get", "/v1/requests/{request}/content", REQUESTS, "The octets that were signed", scope="requests:read",
        query=(_RA,), answers={200: ("As they came.", {JSON: ref("SignedRequest")})},
        codes=_READ_CODES,
    ),
    Operation(
        "get", "/v1/requests/{request}/evidence", REQUESTS, "Every message that was signed for a request",
        scope="requests:read", query=(_RA,), codes={**_READ_CODES, 409: ("evidence_held",)},
        description="What was signed to unlock is shown once it is too old to be sent again (409 until then).",
        answers={200: ("In order.", {JSON: members({"evidence": many(members(
            {"step": text(), "people": text(), "message": binary("CMS, as it came.")}))})})},
    ),
    _decision("approve", "Approve what another person entered", "A message over the identical content octets."),
    _decision("reject", "Reject what another person entered", "A message over a RejectionBody."),
    Operation(
        "get", "/v1/ras", REGISTRATION, "Every RA", scope="registration:read",
        answers={200: ("RAs.", {JSON: members({"ras": many(ref("Ra"))})})},
    ),
    Operation(
        "post", "/v1/ras", REGISTRATION, "Register an RA", scope="registration:write", body={JSON: NewRaBody},
        answers={201: ("The RA.", {JSON: ref("Ra")})},
        codes={400: ("ra_id",), 409: ("ra_exists",), 413: ("ra_count",), 422: ("ra_name",)},
    ),
    Operation(
        "get", "/v1/ras/{ra}", REGISTRATION, "An RA with its people", scope="registration:read",
        answers={200: ("The RA.", {JSON: ref("Ra")})}, codes={404: ("ra_unknown",)},
    ),
    Operation(
        "post", "/v1/ras/{ra}", REGISTRATION, "Change an RA", scope="registration:write", body={JSON: RaBody},
        answers={200: ("The RA.", {JSON: ref("Ra")})},
        codes={404: ("ra_unknown",), 409: ("registration_changed",), 422: ("ra_name",), 403: ("ra_withdrawn",)},
    ),
    Operation(
        "post", "/v1/ras/{ra}/withdraw", REGISTRATION, "Withdraw an RA: its people's certificates and rights end",
        scope="registration:write", body={JSON: WithdrawBody}, optional=True,
        answers={200: ("The RA.", {JSON: ref("Ra")})}, codes={404: ("ra_unknown",), 403: ("ra_withdrawn",)},
    ),
    Operation(
        "get", "/v1/ras/{ra}/people", REGISTRATION, "The people of an RA, masked", scope="registration:read",
        answers={200: ("People.", {JSON: members({"people": many(ref("Person"))})})}, codes={404: ("ra_unknown",)},
    ),
    Operation(
        "post", "/v1/ras/{ra}/people", REGISTRATION, "Add a person, or a certificate of one",
        description="Or a message over an AppointmentBody, by an administrator of the RA: then a request's answer.",
        scope="registration:write", signed=True, body={JSON: PersonBody, **_CMS}, codes=_PEOPLE_CODES,
        answers={201: ("The person; with the certificate where one was made.",
                       {JSON: {"anyOf": [ref("Person"), ref("RequestAnswer")]}})},
    ),
    Operation(
        "post", "/v1/ras/{ra}/people/{person}/withdraw", REGISTRATION, "Withdraw a person",
        description="Or a message over a DismissalBody, by an administrator of the RA: then a request's answer.",
        scope="registration:write", signed=True, body={JSON: WithdrawBody, **_CMS}, optional=True,
        answers={200: ("The person.", {JSON: {"anyOf": [ref("Person"), ref("RequestAnswer")]}})},
        codes={**_PEOPLE_CODES, 404: ("ra_unknown", "person_unknown")},
    ),
)  # fmt: skip
