"""What a holder's device does: make a request, open the encryption key that comes back.

For the demonstration and for tests; the service itself never sees a holder's signing key.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core import oids
from core.asn1 import der
from core.asn1.x509 import join_signed, subject_public_key_info
from core.errors import Malformed
from signer._native import sm2
from signer.engine.pbes2 import as_bytes

_SM4_FORMS = (der.oid(oids.SM4_ECB), der.oid(oids.SM4))


def build_request(key: sm2.PrivateKey, subject: bytes) -> bytes:
    """A PKCS#10 CertificationRequest (RFC 2986 §4.2) for `subject`, a DER Name, without attributes; DER."""
    info = request_info(key.public_key.to_bytes(), subject)
    return join_signed(info, sm2.signature_to_der(key.sign(info)))


def request_info(public_key: bytes, subject: bytes) -> bytes:
    """CertificationRequestInfo without attributes: what a PKCS#10 request signs; DER."""
    return der.sequence(der.integer(0), subject, subject_public_key_info(public_key), der.tlv(der.context(0)))


def open_enveloped_key(envelope: bytes, key: sm2.PrivateKey) -> sm2.PrivateKey:
    """The private key in an SM2EnvelopedKey (GM/T 0009 §7.4) for the holder's signing key.

    Raises Malformed where the structure, or the key against its public point, is not right.
    """
    outer = der.Reader(envelope)
    body = outer.enter(der.SEQUENCE)
    outer.finish()
    algorithm = body.enter(der.SEQUENCE)
    if algorithm.take_tlv(der.OBJECT_IDENTIFIER) not in _SM4_FORMS:
        raise Malformed("the envelope's symmetric algorithm is not SM4", code="envelope")
    sealed_key = body.take_tlv(der.SEQUENCE)
    point = body.bit_string()
    sealed_scalar = body.bit_string()
    body.finish()
    symmetric = bytearray(16)
    scalar = bytearray(len(sealed_scalar) + 15)
    try:
        if key.decrypt_into(sealed_key, symmetric, encoding="der") != len(symmetric):
            raise Malformed("the envelope's symmetric key is not an SM4 key", code="envelope")
        cipher = Cipher(algorithms.SM4(as_bytes(symmetric)), modes.ECB()).decryptor()  # noqa: S305 - the standard's mode
        length = cipher.update_into(sealed_scalar, scalar)
        cipher.finalize()
        opened = sm2.PrivateKey.from_bytes(memoryview(scalar)[:length])
    finally:
        symmetric[:] = bytes(len(symmetric))
        scalar[:] = bytes(len(scalar))
    if opened.public_key.to_bytes() != point:
        raise Malformed("the enveloped key does not belong to its public point", code="envelope")
    return opened
