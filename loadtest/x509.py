"""Certificates and signed lists as a relying party reads them; SM2 is judged by the native core."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives import hashes

from loadtest import der, sm2


def signed_parts(document: bytes) -> tuple[bytes, bytes]:
    """(to-be-signed octets, DER signature) of a certificate or CRL."""
    tbs, _, signature = der.children(document)
    return tbs, der.content(signature)[1:]


def public_key_of(certificate: bytes) -> bytes:
    """The 65-octet point of an SM2 certificate, which `cryptography` does not give."""
    fields = der.children(der.children(certificate)[0])
    spki = fields[6] if fields[0][0] == 0xA0 else fields[5]
    return der.content(der.children(spki)[1])[1:]


def verify_issued(document: bytes, issuer_key: bytes) -> None:
    """Raises InvalidSignature or ValueError unless the holder of `issuer_key` signed the certificate or CRL."""
    tbs, signature = signed_parts(document)
    sm2.verify(issuer_key, tbs, signature)


def build_request(key: sm2.PrivateKey, common_name: str, organization: str) -> bytes:
    """A PKCS#10 CertificationRequest (RFC 2986 §4.2) in DER, without attributes."""

    def attribute(last: int, text: str, tag: int = 0x0C) -> bytes:
        return der.tlv(der.SET, der.sequence(der.oid((2, 5, 4, last)), der.tlv(tag, text.encode())))

    subject = der.sequence(attribute(6, "CN", 0x13), attribute(10, organization), attribute(3, common_name))
    algorithm = der.sequence(der.oid(der.EC_PUBLIC_KEY_OID), der.oid(der.SM2_CURVE_OID))
    spki = der.sequence(algorithm, der.bits(key.public_key.to_bytes()))
    info = der.sequence(der.integer(0), subject, spki, der.tlv(0xA0))
    return der.sequence(info, der.sequence(der.oid(der.SM2_SM3_OID)), der.bits(sm2.sign(key, info)))


@dataclass(frozen=True)
class Issuer:
    """The authority that certificates are asked about; `certificate`: its DER."""

    certificate: bytes

    @cached_property
    def public_key(self) -> bytes:
        """Its 65-octet point."""
        return public_key_of(self.certificate)

    @cached_property
    def cert_id_head(self) -> bytes:
        """The fields of CertID (RFC 6960 §4.1.1) before the serial, under SM3."""
        fields = der.children(der.children(self.certificate)[0])
        subject = fields[5]  # version, serial, algorithm, issuer, validity, subject
        algorithm = der.sequence(der.oid(der.SM3_OID))
        return algorithm + der.octets(_sm3(subject)) + der.octets(_sm3(self.public_key))

    def cert_id(self, serial: int) -> bytes:
        """CertID of one of its certificates."""
        return der.sequence(self.cert_id_head, der.integer(serial))


def _sm3(data: bytes) -> bytes:
    state = hashes.Hash(hashes.SM3())
    state.update(data)
    return state.finalize()
