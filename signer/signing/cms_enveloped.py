"""EnvelopedData and SignedAndEnvelopedData of GM/T 0010-2012: SM2 for the key, SM4-CBC for the content.

Knows DER, SM4 and native SM2 keys; not stores or HTTP. The content key and the plaintext are bytearrays that are wiped
here (what leaves `open_*` is the caller's to wipe); the private key stays native. Every way in which opening fails says
the same, so that nothing is learned from trying. CBC has no authentication of its own: who opens messages for strangers
must not tell them whether it worked.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core import oids
from core.asn1 import der
from core.asn1.x509 import load_certificate, public_key_of_certificate
from core.errors import Malformed, Refused, TooLarge
from signer._native import sm2
from signer.engine.backend import Encoding
from signer.engine.pbes2 import as_bytes, wipe
from signer.signing import cms
from signer.signing.cms import IssuerAndSerial, SignedData

MAX_RECIPIENTS: Final = 256
_KEY_BYTES: Final = 16
_BLOCK: Final = 16
#: A content key under SM2 as 04 ‖ C1 ‖ C3 ‖ C2.
_RAW_BYTES: Final = 65 + 32 + _KEY_BYTES
#: The most bytes of a recipient's encrypted key: SM2Cipher of 16 octets has some 125.
_MAX_ENCRYPTED_KEY: Final = 512

#: 1 is the standard's; 0 and 2 are written by those who take RFC 5652 for it. A recipient of version 2 is named by its
#: subject key identifier.
_VERSIONS: Final = (0, 1, 2)
_BY_KEY: Final = 2

_ENVELOPED_OIDS: Final = frozenset({der.oid(oids.GM_ENVELOPED_DATA), der.oid(oids.PKCS7_ENVELOPED_DATA)})
_BOTH_OIDS: Final = frozenset(
    {der.oid(oids.GM_SIGNED_AND_ENVELOPED_DATA), der.oid(oids.PKCS7_SIGNED_AND_ENVELOPED_DATA)}
)
#: 301.3 is the standard's; 301.2 and 301 are met in the field.
_ENCRYPTION_OIDS: Final = frozenset({der.oid(oids.SM2_ENCRYPT), der.oid(oids.SM2_EXCHANGE), der.oid(oids.SM2_CURVE)})
#: SM4-CBC; some write the cipher's bare OID with an initial vector and mean the same.
_CIPHER_OIDS: Final = frozenset({der.oid(oids.SM4_CBC), der.oid(oids.SM4)})


@dataclass(frozen=True, slots=True)
class Recipient:
    """For whom: the certificate, or its subject key identifier; and the content key under its SM2 key."""

    identifier: IssuerAndSerial | bytes
    encrypted_key: bytes

    def is_for(self, certificate: bytes) -> bool:
        """Whether it names that certificate. Raises Malformed."""
        if isinstance(self.identifier, IssuerAndSerial):
            return self.identifier == IssuerAndSerial.of_certificate(certificate)
        try:
            found = load_certificate(certificate).extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            return False
        return found.value.digest == self.identifier

    def unseal(self, private_key: sm2.PrivateKey, key: bytearray) -> None:
        """Writes the content key into `key`. Raises Refused (code "cms_decrypt")."""
        for encoding, ciphertext in self.readings():
            try:
                if private_key.decrypt_into(ciphertext, key, encoding=encoding) == _KEY_BYTES:
                    return
            except (sm2.DecryptionError, sm2.InvalidEncoding, ValueError):
                continue  # the hash in the ciphertext tells which reading is right
        raise cannot_open()

    def readings(self) -> Iterator[tuple[Encoding, bytes]]:
        """The ways in which the encrypted key may be read.

        SM2Cipher, as the standard has it; or C1C3C2 or the older C1C2C3, with or without the octet 04 before it."""
        yield "der", self.encrypted_key
        raw = self.encrypted_key if len(self.encrypted_key) == _RAW_BYTES else b"\x04" + self.encrypted_key
        if len(raw) == _RAW_BYTES:
            yield "c1c3c2", raw
            yield "c1c3c2", raw[:65] + raw[65 + _KEY_BYTES :] + raw[65 : 65 + _KEY_BYTES]


@dataclass(frozen=True, slots=True)
class EnvelopedData:
    """A message: its recipients, and the content under SM4-CBC."""

    recipients: tuple[Recipient, ...]
    content_type: bytes
    iv: bytes
    ciphertext: bytes

    def open(self, certificate: bytes, private_key: sm2.PrivateKey) -> bytearray:
        """The content, for the holder of `certificate`. The caller wipes it.

        Raises Refused (code "cms_recipient") where it is not for that certificate, and Refused
        (code "cms_decrypt") where it cannot be opened, whatever the cause.
        """
        recipient = self.recipient(certificate)
        key = bytearray(_KEY_BYTES)
        try:
            recipient.unseal(private_key, key)
            return self.decrypt(key)
        finally:
            wipe(key)

    def recipient(self, certificate: bytes) -> Recipient:
        """The holder of `certificate` among the recipients. Raises Refused (code "cms_recipient") where it is none."""
        for recipient in self.recipients:
            if recipient.is_for(certificate):
                return recipient
        raise Refused("the message is not for that certificate", code="cms_recipient")

    def decrypt(self, key: bytearray) -> bytearray:
        """The content under the content key. The caller wipes both. Raises Refused (code "cms_decrypt")."""
        if len(key) != _KEY_BYTES:
            raise cannot_open()
        out = bytearray(len(self.ciphertext) + _BLOCK - 1)
        cipher = Cipher(algorithms.SM4(as_bytes(key)), modes.CBC(self.iv)).decryptor()
        length = cipher.update_into(self.ciphertext, out)
        cipher.finalize()
        fill = out[length - 1]
        if not 1 <= fill <= _BLOCK or out[length - fill : length] != bytes((fill,)) * fill:
            wipe(out)
            raise cannot_open()
        content = out[: length - fill]
        wipe(out)
        return content


@dataclass(frozen=True, slots=True)
class SignedAndEnvelopedData:
    """A message both ways: what is signed is the content before it is encrypted. `signed.content` is None."""

    enveloped: EnvelopedData
    signed: SignedData


def parse_enveloped_data(encoded: bytes) -> EnvelopedData:
    """An EnvelopedData message from DER. Raises Malformed, Refused or TooLarge, whatever the bytes are."""
    body = cms.open_content_info(encoded, _ENVELOPED_OIDS, "EnvelopedData")
    cms.read_version(body, _VERSIONS)
    recipients = _recipients(body)
    found = _encrypted_content(body, recipients)
    body.finish()
    return found


def parse_signed_and_enveloped_data(encoded: bytes) -> SignedAndEnvelopedData:
    """A SignedAndEnvelopedData message from DER. Raises as `parse_enveloped_data`."""
    body = cms.open_content_info(encoded, _BOTH_OIDS, "SignedAndEnvelopedData")
    cms.read_version(body, _VERSIONS)
    recipients = _recipients(body)
    cms.read_digests(body)
    enveloped = _encrypted_content(body, recipients)
    certificates, crls, signers = cms.read_signers(body, enveloped.content_type)
    body.finish()
    return SignedAndEnvelopedData(enveloped, SignedData(None, signers, certificates, crls, enveloped.content_type))


def envelope(certificates: Sequence[bytes], content: bytes) -> bytes:
    """EnvelopedData of `content` for the SM2 keys of `certificates` (DER). Raises Malformed, Refused or TooLarge."""
    if not 1 <= len(certificates) <= MAX_RECIPIENTS:
        raise TooLarge(f"a message has 1 to {MAX_RECIPIENTS} recipients", code="cms_recipients")
    key, iv = bytearray(_KEY_BYTES), secrets.token_bytes(_BLOCK)
    try:
        key[:] = secrets.token_bytes(_KEY_BYTES)  # that one short-lived bytes object cannot be wiped
        infos = [_recipient_info(certificate, key) for certificate in certificates]
        ciphertext = _encrypt(key, iv, content)
    finally:
        wipe(key)
    cipher = der.sequence(der.oid(oids.SM4_CBC), der.octet_string(iv))
    sealed = der.tlv(der.context(0, constructed=False), ciphertext)
    return cms.content_info(
        oids.GM_ENVELOPED_DATA,
        der.sequence(der.integer(1), cms.set_of(der.SET, infos), der.sequence(der.oid(oids.GM_DATA), cipher, sealed)),
    )


def _recipient_info(certificate: bytes, key: bytearray) -> bytes:
    try:
        public = sm2.PublicKey.from_bytes(public_key_of_certificate(certificate))
    except sm2.InvalidKey as error:
        raise Malformed("the certificate's public key is not an SM2 point", code="public_key") from error
    return der.sequence(
        der.integer(1),
        IssuerAndSerial.of_certificate(certificate).encode(),
        der.sequence(der.oid(oids.SM2_ENCRYPT), der.null()),
        der.octet_string(public.encrypt(as_bytes(key), encoding="der")),
    )


def _encrypt(key: bytearray, iv: bytes, content: bytes) -> bytes:
    fill = _BLOCK - len(content) % _BLOCK
    padded = bytearray(content) + bytes((fill,)) * fill
    out = bytearray(len(padded) + _BLOCK - 1)
    try:
        cipher = Cipher(algorithms.SM4(as_bytes(key)), modes.CBC(iv)).encryptor()
        length = cipher.update_into(as_bytes(padded), out)
        cipher.finalize()
        return bytes(out[:length])
    finally:
        wipe(padded)


def _recipients(body: der.Reader) -> tuple[Recipient, ...]:
    found: list[Recipient] = []
    infos = body.enter(der.SET)
    while infos:
        if len(found) == MAX_RECIPIENTS:
            raise TooLarge(f"the message has more than {MAX_RECIPIENTS} recipients", code="cms_recipients")
        info = infos.enter(der.SEQUENCE)
        identifier: IssuerAndSerial | bytes
        if cms.read_version(info, _VERSIONS) == _BY_KEY:
            identifier = info.take(der.context(0, constructed=False))
        else:
            identifier = IssuerAndSerial.read(info)
        cms.read_algorithm(info, _ENCRYPTION_OIDS, "key encryption")
        encrypted_key = info.take(der.OCTET_STRING)
        info.finish()
        if len(encrypted_key) > _MAX_ENCRYPTED_KEY:
            raise Malformed("a recipient's encrypted key is too long", code="cms_recipient")
        found.append(Recipient(identifier, encrypted_key))
    if not found:
        raise Malformed("the message has no recipient", code="cms_recipients")
    return tuple(found)


def _encrypted_content(body: der.Reader, recipients: tuple[Recipient, ...]) -> EnvelopedData:
    inner = body.enter(der.SEQUENCE)
    content_type = inner.take_tlv(der.OBJECT_IDENTIFIER)
    algorithm = inner.enter(der.SEQUENCE)
    if algorithm.take_tlv(der.OBJECT_IDENTIFIER) not in _CIPHER_OIDS or algorithm.peek() != der.OCTET_STRING:
        raise Refused("the content is not encrypted by SM4-CBC", code="cms_algorithm")
    iv = algorithm.take(der.OCTET_STRING)
    algorithm.finish()
    if not inner:
        raise Refused("the message does not carry its content", code="cms_no_content")
    ciphertext = inner.take(der.context(0, constructed=False))
    if inner:
        raise Refused("the message relies on shared information", code="cms_shared_info")
    if len(iv) != _BLOCK or not ciphertext or len(ciphertext) % _BLOCK:
        raise Malformed("the initial vector or the content has a wrong length", code="cms_content")
    return EnvelopedData(recipients, content_type, iv, ciphertext)


def cannot_open() -> Refused:
    """What is said of every message that is for the key and cannot be opened with it."""
    return Refused("the message cannot be opened", code="cms_decrypt")
