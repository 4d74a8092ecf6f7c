"""OCSP by POST and GET: cached, with a nonce, about serials that were never issued, about several at once."""

from __future__ import annotations

import base64
import random
from functools import lru_cache
from typing import ClassVar, Final
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from loadtest import der, sm2
from loadtest.call import Answer, Call, Wrong
from loadtest.scenarios.base import Scenario, Single, World, expect, need
from loadtest.target import State
from loadtest.x509 import Issuer, public_key_of, verify_issued
from loadtest.zipf import Zipf

NONCE_OCTETS: Final = 32
SEVERAL: Final = 8
_NONCE_OID: Final = (1, 3, 6, 1, 5, 5, 7, 48, 1, 2)
_MEDIA_TYPE: Final = {"Content-Type": "application/ocsp-request"}
#: Past what clocks on two machines may differ by.
_SKEW_S: Final = 1.0
#: No successful answer is smaller: a name, times, a signature.
_SMALLEST: Final = 200


def request(issuer: Issuer, serials: list[int], *, nonce: bool = False) -> tuple[bytes, int]:
    """(OCSPRequest in DER (RFC 6960 §4.1.1), where its nonce's octets begin or 0); the nonce is zeros."""
    wanted = der.sequence(*(der.sequence(issuer.cert_id(serial)) for serial in serials))
    if not nonce:
        return der.sequence(der.sequence(wanted)), 0
    value = der.octets(der.octets(bytes(NONCE_OCTETS)))
    extensions = der.tlv(0xA2, der.sequence(der.sequence(der.oid(_NONCE_OID), value)))
    whole = der.sequence(der.sequence(wanted, extensions))
    return whole, len(whole) - NONCE_OCTETS


class Judge:
    """Judges answers of one issuer's responders: signature, delegation, serials, freshness, nonce."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self._delegate = lru_cache(16)(self._delegate_key)

    def _delegate_key(self, certificate: bytes) -> bytes:
        verify_issued(certificate, self.issuer.public_key)
        usage = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        expect(ExtendedKeyUsageOID.OCSP_SIGNING in usage.value, "the responder may not sign OCSP answers")
        return public_key_of(certificate)

    def read(self, answer: Answer) -> dict[int, State]:
        """The status of each serial in a successful answer. Raises Wrong."""
        try:
            response = ocsp.load_der_ocsp_response(answer.body)
            expect(response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL, f"{response.response_status.name}")
            key = self._delegate(response.certificates[0].public_bytes(Encoding.DER))
            sm2.verify(key, response.tbs_response_bytes, response.signature)
            self._nonce(response, answer.sent)
            found = {one.serial_number: self._single(one, answer) for one in response.responses}
            expect(response.produced_at_utc.timestamp() <= answer.received_at + _SKEW_S, "made in the future")
            fresh = not answer.sent or response.produced_at_utc.timestamp() >= int(answer.sent_at) - _SKEW_S
            expect(fresh, "an answer with a nonce is older than its question")
        except (ValueError, IndexError, sm2.InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
            raise Wrong(f"not a good OCSP answer: {error!r}") from error
        return found

    @staticmethod
    def _nonce(response: ocsp.OCSPResponse, sent: bytes) -> None:
        if sent:
            nonce = response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
            expect(nonce == sent, "the nonce is not the one that was sent")

    @staticmethod
    def _single(one: ocsp.OCSPSingleResponse, answer: Answer) -> State:
        expect(one.this_update_utc.timestamp() <= answer.received_at + _SKEW_S, "thisUpdate is in the future")
        ends = one.next_update_utc
        expect(ends is not None and ends.timestamp() >= answer.sent_at, "past its nextUpdate")
        if one.certificate_status is ocsp.OCSPCertStatus.GOOD:
            return "good"
        if one.certificate_status is ocsp.OCSPCertStatus.UNKNOWN:
            return "unknown"
        return "held" if one.revocation_reason is x509.ReasonFlags.certificate_hold else "revoked"


class _Ocsp(Single):
    """What the scenarios share: serials as relying parties ask for them, and the truth about each."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        known = world.target.known
        need(known, "population")
        self._serials = Zipf(list(known), seed=1)
        self._judge = Judge(world.target.issuer)

    def _ask(self, serials: list[int], *, nonce: bool = False, get: bool = False) -> Call:
        body, at = request(self.world.target.issuer, serials, nonce=nonce)
        truth: dict[int, State] = {serial: self.world.target.known.get(serial, "unknown") for serial in serials}

        def check(answer: Answer) -> None:
            told = self._judge.read(answer)
            expect(told == truth, f"told {_text(told)}, but it is {_text(truth)}")

        size = (_SMALLEST * len(serials) // 4 + _SMALLEST, 1 << 16)
        if get:
            path = "/ocsp/" + quote(base64.b64encode(body).decode(), safe="")
            return Call(self.name, "public", "GET", path, size=size, check=check)
        patch = (at, NONCE_OCTETS) if nonce else (0, 0)
        return Call(self.name, "public", "POST", "/ocsp", _MEDIA_TYPE, body, size=size, patch=patch, check=check)


def _text(states: dict[int, State]) -> str:
    return ", ".join(f"{serial:x} {state}" for serial, state in sorted(states.items()))


class OcspPost(_Ocsp):
    """Cached answers by POST."""

    name: ClassVar[str] = "ocsp-post"
    help: ClassVar[str] = "OCSP by POST, answers that may be cached"

    def call(self) -> Call:
        return self._ask([self._serials.pick(self.world.rng)])


class OcspGet(_Ocsp):
    """Cached answers by GET."""

    name: ClassVar[str] = "ocsp-get"
    help: ClassVar[str] = "OCSP by GET, answers that may be cached"

    def call(self) -> Call:
        return self._ask([self._serials.pick(self.world.rng)], get=True)


class OcspNonce(_Ocsp):
    """A signature for every question."""

    name: ClassVar[str] = "ocsp-nonce"
    help: ClassVar[str] = "OCSP by POST with a nonce, signed for each request"

    def call(self) -> Call:
        return self._ask([self._serials.pick(self.world.rng)], nonce=True)


class OcspUnknown(_Ocsp):
    """Serials that nobody issued: each answer has to be made."""

    name: ClassVar[str] = "ocsp-unknown"
    help: ClassVar[str] = "OCSP about serials that were never issued"

    def call(self) -> Call:
        serial = unissued(self.world.rng)
        return self._ask([serial])


class OcspSeveral(_Ocsp):
    """Several certificates in one request."""

    name: ClassVar[str] = "ocsp-several"
    help: ClassVar[str] = f"OCSP about {SEVERAL} certificates in one request"

    def call(self) -> Call:
        serials = {self._serials.pick(self.world.rng) for _ in range(SEVERAL)}
        return self._ask(sorted(serials))


def unissued(rng: random.Random) -> int:
    """A serial of 15 octets under a first octet that the service does not use for its own."""
    return 0x7F << 120 | rng.getrandbits(120)


ALL: Final[tuple[type[Scenario], ...]] = (OcspPost, OcspGet, OcspNonce, OcspUnknown, OcspSeveral)
