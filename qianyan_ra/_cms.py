"""Requests as they travel: SignedData of GM/T 0010-2012 (GB/T 35275-2017) around the request's JSON.

The shape is PKCS #7 1.5's: version 1, an inner ContentInfo, SM3, SM2 signatures in DER. Each signer signs the DER of
its attributes: content type, signing time, SM3 of the content. A second person's signature goes over the same content
octets beside the first one, which stays as it was. Knows DER and bytes; not what a request says.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from qianyan_ra import _der as der
from qianyan_ra import _oids as oids
from qianyan_ra import _pure as pure
from qianyan_ra._arithmetic import verify_digest
from qianyan_ra._certificate import Certificate
from qianyan_ra._errors import BadMessage, NotVerified, Unfit
from qianyan_ra._keys import Person, signature_octets

#: The most signers of a request: one who enters, one who approves.
MAX_SIGNERS: Final = 2
_MAX_BYTES: Final = 4 << 20
_MAX_CERTIFICATES: Final = 16
_VERSION: Final = der.integer(1)
_DIGEST: Final = der.sequence(oids.SM3, der.null())
_SIGNATURE: Final = der.sequence(oids.SM2_SIGN, der.null())
_SM3_FORMS: Final = frozenset({oids.SM3, oids.SM3_KEYLESS})
_SIGNATURE_FORMS: Final = frozenset({oids.SM2_SIGN, oids.SM3_WITH_SM2, oids.SM2_CURVE})


@dataclass(frozen=True, slots=True)
class SignerView:
    """One signer of a message that was read. `certificate` None: the message does not carry it."""

    certificate: Certificate | None
    issuer: bytes
    serial: int
    signed_at: datetime | None
    attributes: bytes
    signature: bytes
    encoded: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A signed message. `certificates`: DER, as they came."""

    content: bytes
    signers: tuple[SignerView, ...]
    certificates: tuple[bytes, ...]

    def encode(self) -> bytes:
        """The ContentInfo, DER; attributes and signatures as they came."""
        inner = der.sequence(oids.GM_DATA, der.tlv(der.CONTEXT_0, der.octet_string(self.content)))
        body = der.sequence(
            _VERSION,
            der.tlv(der.SET, _DIGEST),
            inner,
            der.set_of(der.CONTEXT_0, list(dict.fromkeys(self.certificates))),
            der.set_of(der.SET, [signer.encoded for signer in self.signers]),
        )
        return der.sequence(oids.GM_SIGNED_DATA, der.tlv(der.CONTEXT_0, body))

    def verify(self) -> None:
        """Every signature over this content by the key of its certificate. Raises NotVerified.

        Whether the certificates are valid, unrevoked and in role is for the service to say.
        """
        if not self.signers:
            raise NotVerified("nobody has signed it", code="cms_no_signer")
        for signer in self.signers:
            if signer.certificate is None:
                raise NotVerified("a signer's certificate is not in the message", code="cms_certificate")
            if _message_digest(signer.attributes) != pure.sm3(self.content):
                raise NotVerified("a signature is for other content", code="cms_digest")
            key = signer.certificate.public_key
            signed = der.tlv(der.SET, signer.attributes)
            if not verify_digest(key, pure.digest(key, signed), signature_octets(signer.signature)):
                raise NotVerified("a signature does not verify", code="cms_signature")


def sign(content: bytes, person: Person, at: datetime) -> bytes:
    """`content` signed by `person` at `at`."""
    return Message(content, (_signer_info(content, person, at),), (person.certificate.encoded, *person.chain)).encode()


def add_signature(message: bytes, person: Person, at: datetime) -> bytes:
    """The message with `person`'s signature beside the first one, which is verified before.

    Raises BadMessage, NotVerified, or Unfit (codes "same_person", "cms_signers").
    """
    read = parse(message)
    read.verify()
    if len(read.signers) >= MAX_SIGNERS:
        raise Unfit("the request has its two signatures already", code="cms_signers")
    first = read.signers[0].certificate
    if first is not None and first.public_key == person.certificate.public_key:
        raise Unfit("entry and approval are two people: this one has signed already", code="same_person")
    signers = (*read.signers, _signer_info(read.content, person, at))
    certificates = (*read.certificates, person.certificate.encoded, *person.chain)
    return Message(read.content, signers, certificates).encode()


def _attribute(kind: bytes, value: bytes) -> bytes:
    return der.sequence(kind, der.tlv(der.SET, value))


def _signer_info(content: bytes, person: Person, at: datetime) -> SignerView:
    parts = [
        _attribute(oids.CONTENT_TYPE, oids.GM_DATA),
        _attribute(oids.SIGNING_TIME, der.time(at)),
        _attribute(oids.MESSAGE_DIGEST, der.octet_string(pure.sm3(content))),
    ]
    attributes = b"".join(sorted(parts))
    signature = person.sign(der.tlv(der.SET, attributes))
    encoded = der.sequence(
        _VERSION,
        person.certificate.identifier,
        _DIGEST,
        der.tlv(der.CONTEXT_0, attributes),
        _SIGNATURE,
        der.octet_string(signature),
    )
    certificate = person.certificate
    return SignerView(certificate, certificate.issuer, certificate.serial, at, attributes, signature, encoded)


def parse(message: bytes) -> Message:
    """A signed request from DER, strictly. Raises BadMessage. No signature is checked: see `Message.verify`."""
    if len(message) > _MAX_BYTES:
        raise BadMessage(f"a request has at most {_MAX_BYTES} bytes", code="cms_size")
    whole = der.Reader(message)
    outer = whole.enter(der.SEQUENCE)
    whole.finish()
    if outer.take_tlv(der.OBJECT_IDENTIFIER) != oids.GM_SIGNED_DATA:
        raise BadMessage("not SignedData of GM/T 0010", code="cms_type")
    wrapper = outer.enter(der.CONTEXT_0)
    body = wrapper.enter(der.SEQUENCE)
    wrapper.finish()
    _version(body)
    body.take_tlv(der.SET)  # digest algorithms: each signer names its own
    inner = body.enter(der.SEQUENCE)
    if inner.take_tlv(der.OBJECT_IDENTIFIER) != oids.GM_DATA:
        raise BadMessage("the content is not plain data", code="cms_content_type")
    if not inner:
        raise BadMessage("the message is detached; a request carries its content", code="cms_no_content")
    content = inner.enter(der.CONTEXT_0).take(der.OCTET_STRING)
    certificates: list[bytes] = []
    if body.peek() == der.CONTEXT_0:
        elements = body.enter(der.CONTEXT_0)
        while elements and len(certificates) < _MAX_CERTIFICATES:
            certificates.append(elements.take_tlv(der.SEQUENCE))
        elements.finish()
    if body.peek() == der.CONTEXT_1:
        body.take_tlv()  # CRLs: the service knows better
    holders = {(one.issuer, one.serial): one for one in map(Certificate.parse, certificates)}
    infos = body.enter(der.SET)
    body.finish()
    signers: list[SignerView] = []
    while infos and len(signers) < MAX_SIGNERS:
        signers.append(_read_signer(infos.take_tlv(der.SEQUENCE), holders))
    infos.finish()
    return Message(content, tuple(signers), tuple(certificates))


def _version(body: der.Reader) -> None:
    if body.integer() != 1:
        raise BadMessage("a version is not 1", code="cms_version")


def _read_signer(encoded: bytes, holders: dict[tuple[bytes, int], Certificate]) -> SignerView:
    body = der.Reader(encoded).enter(der.SEQUENCE)
    _version(body)
    name = body.enter(der.SEQUENCE)
    issuer, serial = name.take_tlv(der.SEQUENCE), name.integer()
    if body.enter(der.SEQUENCE).take_tlv(der.OBJECT_IDENTIFIER) not in _SM3_FORMS:
        raise BadMessage("a digest is not SM3", code="cms_algorithm")
    if body.peek() != der.CONTEXT_0:
        raise BadMessage("a signer has no signed attributes", code="cms_attributes")
    attributes = body.take(der.CONTEXT_0)
    if body.enter(der.SEQUENCE).take_tlv(der.OBJECT_IDENTIFIER) not in _SIGNATURE_FORMS:
        raise BadMessage("a signature is not SM2", code="cms_algorithm")
    signature = body.take(der.OCTET_STRING)
    signed_at = _values(attributes).get(oids.SIGNING_TIME)
    return SignerView(
        holders.get((issuer, serial)),
        issuer,
        serial,
        None if signed_at is None else der.read_time(signed_at),
        attributes,
        signature,
        encoded,
    )


def _values(attributes: bytes) -> dict[bytes, der.Reader]:
    found: dict[bytes, der.Reader] = {}
    reader = der.Reader(attributes)
    while reader:
        one = reader.enter(der.SEQUENCE)
        kind = one.take_tlv(der.OBJECT_IDENTIFIER)
        if kind in found:
            raise BadMessage("an attribute comes twice", code="cms_attributes")
        found[kind] = one.enter(der.SET)
    return found


def _message_digest(attributes: bytes) -> bytes | None:
    found = _values(attributes).get(oids.MESSAGE_DIGEST)
    return None if found is None else found.take(der.OCTET_STRING)
