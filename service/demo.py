"""The main job, once, against a running service: what a holder, an application and a relying party would do.

Speaks HTTP and judges every answer itself: signatures are checked here, OCSP answers and CRLs are parsed by
`cryptography`, not by the code that made them. A step that does not hold raises DemoFailed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from core.asn1 import names
from core.asn1.x509 import load_certificate, public_key_of_certificate, split_signed
from core.errors import QianyanError
from service.holder import build_request, open_enveloped_key
from signer._native import sm2
from signer.engine.verify import verify_signature

T = TypeVar("T")

_CRL_DEADLINE_S: Final = 60.0


class DemoFailed(QianyanError):
    """A step of the walk did not hold: `detail` says which and what came back."""

    kind = "internal"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the walk: what was done, what came back, how long it took."""

    name: str
    result: str
    milliseconds: float


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _expect(holds: bool, why: str) -> None:
    if not holds:
        raise DemoFailed(why, code="demo")


class Walk:
    """Drives the walk; `report` gets each step as it ends."""

    def __init__(
        self,
        public_url: str,
        private_url: str,
        token: str,
        tls: ssl.SSLContext | None,
        report: Callable[[Step], None],
    ) -> None:
        self._public = public_url
        self._private = private_url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._tls: ssl.SSLContext | bool = tls if tls is not None else True
        self._report = report
        self._holder = sm2.PrivateKey.generate()
        self._session: aiohttp.ClientSession
        self._issued: dict[str, Any] = {}
        self._certificate = b""
        self._issuer = b""

    async def run(self) -> None:
        """The whole walk. Raises DemoFailed at the first step that does not hold."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            self._session = session
            for name, step in (
                ("request certificates", self._request),
                ("open the encryption key", self._open_encryption_key),
                ("sign with key 'demo'", self._sign),
                ("verify a holder's signature", self._verify),
                ("ask OCSP", self._ocsp_good),
                ("revoke", self._revoke),
                ("ask OCSP again", self._ocsp_revoked),
                ("verify again", self._verify_revoked),
                ("download the CRL", self._crl),
            ):
                await self._timed(name, step)

    async def _timed(self, name: str, step: Callable[[], Awaitable[str]]) -> None:
        began = time.perf_counter()
        result = await step()
        self._report(Step(name, result, (time.perf_counter() - began) * 1000))

    async def _post(self, url: str, body: dict[str, Any], *, private: bool) -> Any:
        headers = self._headers if private else {}
        async with self._session.post(url, json=body, headers=headers, ssl=self._tls) as response:
            value = await response.json(content_type=None)
            _expect(response.status < 300, f"POST {url} answered {response.status}: {value}")
            return value

    async def _request(self) -> str:
        subject = names.build_name({"C": "CN", "O": "示范单位", "OU": "演示", "CN": f"示范单位 {secrets.token_hex(4)}"})
        body = {"csr": _b64(build_request(self._holder, subject.public_bytes())), "profile": "organisation"}
        self._issued = await self._post(f"{self._private}/v1/certificates", body, private=True)
        by_usage = {item["usage"]: item for item in self._issued["certificates"]}
        _expect(set(by_usage) == {"sign", "encrypt"}, "the profile gives a signing and an encryption certificate")
        self._certificate = base64.b64decode(by_usage["sign"]["certificate"])
        self._issuer = base64.b64decode(self._issued["chain"][0])
        signed = split_signed(self._certificate)
        verify_signature(public_key_of_certificate(self._issuer), signed.tbs, signed.signature)
        return f"signing {by_usage['sign']['serial']}, encryption {by_usage['encrypt']['serial']}"

    async def _open_encryption_key(self) -> str:
        certificate = next(c for c in self._issued["certificates"] if c["usage"] == "encrypt")
        key = open_enveloped_key(base64.b64decode(self._issued["enveloped_key"]), self._holder)
        expected = public_key_of_certificate(base64.b64decode(certificate["certificate"]))
        _expect(key.public_key.to_bytes() == expected, "the enveloped key is not that of the encryption certificate")
        return "SM2EnvelopedKey opened with the holder's signing key"

    async def _sign(self) -> str:
        data = b"qianyan demonstration"
        answer = await self._post(f"{self._private}/v1/sign", {"key": "demo", "data": _b64(data)}, private=True)
        signature = base64.b64decode(answer["signature"])
        return f"{len(signature)}-byte DER signature, {answer['algorithm']}"

    async def _verify_item(self) -> dict[str, Any]:
        data = b"a document of the holder's"
        signature = sm2.signature_to_der(self._holder.sign(data))
        item = {"certificate": _b64(self._certificate), "data": _b64(data), "signature": _b64(signature)}
        answer = await self._post(f"{self._public}/v1/verify", {"items": [item]}, private=False)
        result: dict[str, Any] = answer["results"][0]
        return result

    async def _verify(self) -> str:
        result = await self._verify_item()
        _expect(result["valid"] is True, f"a good signature was not accepted: {result}")
        return "valid"

    async def _verify_revoked(self) -> str:
        result = await self._verify_item()
        _expect(result["valid"] is False and result["reason"] == "revoked", f"not refused as revoked: {result}")
        return "invalid: revoked"

    async def _ocsp(self) -> ocsp.OCSPResponse:
        issuer = load_certificate(self._issuer)
        serial = load_certificate(self._certificate).serial_number
        request = (
            ocsp.OCSPRequestBuilder()
            .add_certificate_by_hash(
                hashlib.sha256(issuer.subject.public_bytes()).digest(),
                hashlib.sha256(public_key_of_certificate(self._issuer)).digest(),
                serial,
                hashes.SHA256(),
            )
            .build()
        )
        async with self._session.post(
            f"{self._public}/ocsp",
            data=request.public_bytes(Encoding.DER),
            headers={"Content-Type": "application/ocsp-request"},
        ) as answer:
            response = ocsp.load_der_ocsp_response(await answer.read())
        _expect(response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL, f"{response.response_status}")
        responder = response.certificates[0].public_bytes(Encoding.DER)
        delegation = split_signed(responder)
        verify_signature(public_key_of_certificate(self._issuer), delegation.tbs, delegation.signature)
        verify_signature(public_key_of_certificate(responder), response.tbs_response_bytes, response.signature)
        return response

    async def _ocsp_good(self) -> str:
        response = await self._ocsp()
        _expect(response.certificate_status is ocsp.OCSPCertStatus.GOOD, f"{response.certificate_status}")
        return "good"

    async def _ocsp_revoked(self) -> str:
        response = await self._ocsp()
        _expect(response.certificate_status is ocsp.OCSPCertStatus.REVOKED, f"{response.certificate_status}")
        reason = response.revocation_reason
        return f"revoked ({reason.value if reason else 'no reason'})"

    async def _revoke(self) -> str:
        serial = next(c["serial"] for c in self._issued["certificates"] if c["usage"] == "sign")
        url = f"{self._private}/v1/certificates/{serial}/revoke"
        answer = await self._post(url, {"reason": "key_compromise"}, private=True)
        return f"{len(answer['certificates'])} certificates of the pair revoked"

    async def _crl(self) -> str:
        certificate = load_certificate(self._certificate)
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        full_name = points[0].full_name
        _expect(full_name is not None, "the certificate names no CRL")
        assert full_name is not None
        path = full_name[0].value.split("/crl/", 1)[1]
        deadline = time.monotonic() + _CRL_DEADLINE_S
        while True:
            async with self._session.get(f"{self._public}/crl/{path}") as response:
                _expect(response.status == 200, f"the CRL was answered {response.status}")
                encoded = await response.read()
            crl = x509.load_der_x509_crl(encoded)
            if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                break
            _expect(time.monotonic() < deadline, "the CRL does not list the certificate in time")
            await asyncio.sleep(0.1)  # the CRL is built a moment after the revocation; asked again until it lists it
        signed = split_signed(encoded)
        verify_signature(public_key_of_certificate(self._issuer), signed.tbs, signed.signature)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        return f"number {number}, {len(encoded)} bytes, lists the certificate"
