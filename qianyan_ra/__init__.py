"""The RA's side of qianyan: makes, signs and sends the signed requests by which a registration authority gets
certificates issued and looked after.

Stands alone, to be shipped with an RA's own system: the standard library and `cryptography` (SM3, SM4, key derivation).
Private keys are used by the compiled core where it is installed, by a token that the caller speaks for, or, where it is
asked for by name, by plain Python, which is not constant time. docs/ra-integration.md has the way in.

    maker = Maker("east-01")
    operator = Person.load("operator.pem", "operator-key.pem", b"passphrase")
    with Client("https://ca.example.cn:8443") as client:
        answer = client.submit(maker.issue("organisation", csr, Holder("organisation", number)), operator)
"""

from __future__ import annotations

from qianyan_ra._answers import Answer, Issued
from qianyan_ra._certificate import Certificate
from qianyan_ra._client import CMS_TYPE, Client, tls_context
from qianyan_ra._cms import Message, SignerView, add_signature, parse, sign
from qianyan_ra._csr import check_csr, csr_pem, make_csr
from qianyan_ra._envelope import open_enveloped_key
from qianyan_ra._errors import (
    BadAnswer,
    BadMessage,
    KeyTrouble,
    NoAnswer,
    NotVerified,
    Problem,
    RaError,
    StillWaiting,
    Unfit,
)
from qianyan_ra._keys import DigestSigner, Person, Signer, SoftwareKey, read_certificates
from qianyan_ra._numbers import HOLDER_KINDS, check_number
from qianyan_ra._people import ROLES, Appointment, appoint, dismiss
from qianyan_ra._requests import (
    GROUNDS,
    KINDS,
    REASONS,
    REISSUE_GROUNDS,
    Holder,
    Maker,
    Named,
    Request,
    name_of,
    rejection,
)

__all__ = [
    "CMS_TYPE",
    "GROUNDS",
    "HOLDER_KINDS",
    "KINDS",
    "REASONS",
    "REISSUE_GROUNDS",
    "ROLES",
    "Answer",
    "Appointment",
    "BadAnswer",
    "BadMessage",
    "Certificate",
    "Client",
    "DigestSigner",
    "Holder",
    "Issued",
    "KeyTrouble",
    "Maker",
    "Message",
    "Named",
    "NoAnswer",
    "NotVerified",
    "Person",
    "Problem",
    "RaError",
    "Request",
    "Signer",
    "SignerView",
    "SoftwareKey",
    "StillWaiting",
    "Unfit",
    "add_signature",
    "appoint",
    "check_csr",
    "check_number",
    "csr_pem",
    "dismiss",
    "make_csr",
    "name_of",
    "open_enveloped_key",
    "parse",
    "read_certificates",
    "rejection",
    "sign",
    "tls_context",
]
