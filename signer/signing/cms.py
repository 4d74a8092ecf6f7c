"""SignedData of GM/T 0010-2012 (GB/T 35275-2017): the structure, read strictly and written.

Knows DER and bounds; not keys, the meaning of certificates or the store. The shape is that of PKCS #7 1.5: version 1,
an inner ContentInfo, SM3 as the digest, SM2 signatures in DER. Content types are read under the GM arc and under that
of PKCS #7, which some write around SM2 signatures; the GM arc is written.

What is signed (`to_be_signed`): without authenticated attributes the content octets, with them the DER of the SET OF
attributes; SM2 hashes either behind Z of the signer's key. SET OF is taken in any order where the order is not signed,
and in DER's where it is: attributes out of order are refused, because two readers might sign them differently.

A signature does not say which of the two it is over: attributes without their message can be presented as content, and
content of their shape as attributes over other content. So content of that shape is neither signed nor verified.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from core import oids
from core.asn1 import der
from core.asn1.x509 import split_signed
from core.errors import Malformed, QianyanError, Refused, TooLarge
from signer._native import sm2, sm3

#: Bounds on the sets in a message: no honest one comes near.
MAX_CERTIFICATES: Final = 64
MAX_CRLS: Final = 16
MAX_SIGNERS: Final = 32
_MAX_DIGESTS: Final = 16
_MAX_ATTRIBUTES: Final = 32

_VERSION: Final = der.integer(1)
#: 3 is written by those who take RFC 5652 for the content types of GM/T 0010; the rest is the same.
_VERSIONS: Final = (1, 3)
#: With NULL, as the messages of large CAs and the state's invoices have it; readers that want none are not known.
_DIGEST: Final = der.sequence(der.oid(oids.SM3), der.null())
_SIGNATURE: Final = der.sequence(der.oid(oids.SM2_SIGN), der.null())
_DATA: Final = der.oid(oids.GM_DATA)

_SIGNED_DATA_OIDS: Final = frozenset({der.oid(oids.GM_SIGNED_DATA), der.oid(oids.PKCS7_SIGNED_DATA)})
_DIGEST_OIDS: Final = frozenset({der.oid(oids.SM3), der.oid(oids.SM3_KEYLESS)})
#: 301.1 is the standard's; 501 and 301 are met in the field.
_SIGNATURE_OIDS: Final = frozenset({der.oid(oids.SM2_SIGN), der.oid(oids.SM3_WITH_SM2), der.oid(oids.SM2_CURVE)})
#: Both are called the type of plain data, and mixed within one message by some.
_DATA_OIDS: Final = frozenset({_DATA, der.oid(oids.PKCS7_DATA)})
_CONTENT_TYPE: Final = der.oid(oids.CONTENT_TYPE)
_MESSAGE_DIGEST: Final = der.oid(oids.MESSAGE_DIGEST)
_SET: Final = bytes((der.SET,))


@dataclass(frozen=True, slots=True)
class IssuerAndSerial:
    """Which certificate: its issuer's Name (DER) and its serial."""

    issuer: bytes
    serial: int

    @classmethod
    def of_certificate(cls, certificate: bytes) -> IssuerAndSerial:
        """By the certificate's own fields. Raises Malformed."""
        tbs = der.Reader(split_signed(certificate).tbs).enter(der.SEQUENCE)
        if tbs.peek() == der.context(0):
            tbs.take_tlv()
        serial = tbs.integer()
        tbs.take_tlv(der.SEQUENCE)
        return cls(tbs.take_tlv(der.SEQUENCE), serial)

    @classmethod
    def read(cls, reader: der.Reader) -> IssuerAndSerial:
        """IssuerAndSerialNumber. Raises Malformed; Refused (code "cms_identifier") for a key identifier."""
        if reader.peek() & 0x80:
            raise Refused("certificates are named by issuer and serial here, not by key", code="cms_identifier")
        body = reader.enter(der.SEQUENCE)
        found = cls(body.take_tlv(der.SEQUENCE), body.integer())
        body.finish()
        return found

    def encode(self) -> bytes:
        """The DER."""
        return der.sequence(self.issuer, der.integer(self.serial))


@dataclass(frozen=True, slots=True)
class SignerInfo:
    """One signer. `attributes`: the contents of the authenticated attributes; `message_digest`: the one in them.

    `signature`: the DER SM2Signature, as it stands there.
    """

    identifier: IssuerAndSerial
    signature: bytes
    attributes: bytes | None = None
    message_digest: bytes | None = None

    def to_be_signed(self, content: bytes) -> bytes:
        """What the signature is over. Raises Refused (code "cms_digest") where the attributes are of other content,
        "cms_ambiguous" where the content may be somebody's attributes."""
        if self.attributes is None:
            require_content(content)
            return content
        if sm3.sm3(content) != self.message_digest:
            raise Refused("the signed message digest is not that of the content", code="cms_digest")
        return der.tlv(der.SET, self.attributes)

    def encode(self) -> bytes:
        """The DER, with the standard's algorithm identifiers."""
        attributes = b"" if self.attributes is None else der.tlv(der.context(0), self.attributes)
        signature = der.octet_string(self.signature)
        return der.sequence(_VERSION, self.identifier.encode(), _DIGEST, attributes, _SIGNATURE, signature)


@dataclass(frozen=True, slots=True)
class SignedData:
    """A message. `content` None: it is elsewhere (detached). Certificates and CRLs are DER, in the message's order."""

    content: bytes | None
    signers: tuple[SignerInfo, ...]
    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    content_type: bytes = _DATA

    def encode(self) -> bytes:
        """The ContentInfo around it, DER."""
        inner = b"" if self.content is None else der.tlv(der.context(0), der.octet_string(self.content))
        return content_info(
            oids.GM_SIGNED_DATA,
            der.sequence(
                _VERSION,
                der.tlv(der.SET, _DIGEST),
                der.sequence(self.content_type, inner),
                set_of(der.context(0), self.certificates) if self.certificates else b"",
                set_of(der.context(1), self.crls) if self.crls else b"",
                set_of(der.SET, [signer.encode() for signer in self.signers]),
            ),
        )


def is_attributes(content: bytes) -> bool:
    """Whether octets would do as the authenticated attributes of a signer."""
    whole = der.Reader(content)
    try:
        attributes = whole.take(der.SET)
        whole.finish()
        found = _values(der.Reader(attributes), ordered=True)
    except QianyanError:
        return False
    return _CONTENT_TYPE in found and _MESSAGE_DIGEST in found


def require_content(content: bytes) -> None:
    """Raises Refused (code "cms_ambiguous") for content that would do as attributes: a signature over it is over other
    content as well."""
    if content[:1] == _SET and is_attributes(content):
        raise Refused("the content has the shape of a signer's attributes", code="cms_ambiguous", field="data")


def parse_signed_data(encoded: bytes) -> SignedData:
    """A SignedData message from DER. Raises Malformed, Refused or TooLarge, whatever the bytes are."""
    body = open_content_info(encoded, _SIGNED_DATA_OIDS, "SignedData")
    read_version(body, _VERSIONS)
    read_digests(body)
    inner = body.enter(der.SEQUENCE)
    content_type = inner.take_tlv(der.OBJECT_IDENTIFIER)
    content = None
    if inner:
        wrapper = inner.enter(der.context(0))
        inner.finish()
        content = wrapper.take(der.OCTET_STRING)
        wrapper.finish()
    certificates, crls, signers = read_signers(body, content_type)
    body.finish()
    return SignedData(content, signers, certificates, crls, content_type)


def read_signers(
    body: der.Reader, content_type: bytes
) -> tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[SignerInfo, ...]]:
    """What ends SignedData and SignedAndEnvelopedData: certificates, CRLs and signers."""
    certificates = _optional_set(body, 0, MAX_CERTIFICATES, "certificates")
    crls = _optional_set(body, 1, MAX_CRLS, "CRLs")
    signers: list[SignerInfo] = []
    infos = body.enter(der.SET)
    while infos:
        if len(signers) == MAX_SIGNERS:
            raise TooLarge(f"the message has more than {MAX_SIGNERS} signers", code="cms_signers")
        signers.append(_signer(infos.enter(der.SEQUENCE), content_type))
    return certificates, crls, tuple(signers)


def _signer(body: der.Reader, content_type: bytes) -> SignerInfo:
    read_version(body)
    identifier = IssuerAndSerial.read(body)
    read_algorithm(body, _DIGEST_OIDS, "digest")
    attributes = message_digest = None
    if body.peek() == der.context(0):
        attributes = body.take(der.context(0))
        message_digest = _message_digest(attributes, content_type)
    read_algorithm(body, _SIGNATURE_OIDS, "signature")
    signature = body.take(der.OCTET_STRING)
    if body.peek() == der.context(1):
        _values(der.Reader(body.take(der.context(1))), ordered=False)  # not signed: looked over, and not relied on
    body.finish()
    try:
        sm2.signature_from_der(signature)
    except sm2.InvalidEncoding as error:
        raise Malformed("a signature is not a DER SM2Signature", code="cms_signature") from error
    return SignerInfo(identifier, signature, attributes, message_digest)


def _message_digest(attributes: bytes, content_type: bytes) -> bytes:
    """The digest in authenticated attributes, which must be in DER and name the content's type."""
    found = _values(der.Reader(attributes), ordered=True)
    types, digests = found.get(_CONTENT_TYPE), found.get(_MESSAGE_DIGEST)
    if types is None or digests is None:
        raise Malformed("authenticated attributes need a content type and a message digest", code="cms_attributes")
    named = types.take_tlv(der.OBJECT_IDENTIFIER)
    if named != content_type and not {named, content_type} <= _DATA_OIDS:
        raise Refused("the authenticated content type is another than the content's", code="cms_content_type")
    digest = digests.take(der.OCTET_STRING)
    types.finish()
    digests.finish()
    return digest


def _values(attributes: der.Reader, *, ordered: bool) -> dict[bytes, der.Reader]:
    """A Reader over the values of each attribute, by its type. Every type comes once."""
    found: dict[bytes, der.Reader] = {}
    previous = b""
    while attributes:
        encoded = attributes.take_tlv(der.SEQUENCE)
        if ordered and encoded <= previous:
            raise Malformed("authenticated attributes are not in the order of DER", code="cms_attributes")
        previous = encoded
        body = der.Reader(encoded).enter(der.SEQUENCE)
        kind = body.take_tlv(der.OBJECT_IDENTIFIER)
        values = body.enter(der.SET)
        body.finish()
        if kind in found or not values:
            raise Malformed("an attribute comes twice, or has no value", code="cms_attributes")
        found[kind] = values
        if len(found) > _MAX_ATTRIBUTES:
            raise TooLarge(f"a signer has more than {_MAX_ATTRIBUTES} attributes", code="cms_attributes")
    if not found:
        raise Malformed("a set of attributes is empty", code="cms_attributes")
    return found


def open_content_info(encoded: bytes, types: frozenset[bytes], name: str) -> der.Reader:
    """A Reader within the content of a ContentInfo of one of `types`. Raises Refused (code "cms_type") for another."""
    whole = der.Reader(encoded)
    outer = whole.enter(der.SEQUENCE)
    whole.finish()
    if outer.take_tlv(der.OBJECT_IDENTIFIER) not in types:
        raise Refused(f"the message is not {name}", code="cms_type")
    wrapper = outer.enter(der.context(0))
    outer.finish()
    body = wrapper.enter(der.SEQUENCE)
    wrapper.finish()
    return body


def content_info(content_type: str, content: bytes) -> bytes:
    """ContentInfo around already encoded `content`."""
    return der.sequence(der.oid(content_type), der.tlv(der.context(0), content))


def read_version(body: der.Reader, known: Collection[int] = (1,)) -> int:
    """The version, one of those. Raises Refused (code "cms_version") for another."""
    version = body.integer()
    if version not in known:
        raise Refused(f"version {version} is not one that is read here", code="cms_version")
    return version


def read_digests(body: der.Reader) -> None:
    """digestAlgorithms: SM3 alone."""
    digests = body.enter(der.SET)
    for _ in range(_MAX_DIGESTS):
        if not digests:
            return
        read_algorithm(digests, _DIGEST_OIDS, "digest")
    raise TooLarge("the message names too many digest algorithms", code="cms_digests")


def read_algorithm(body: der.Reader, known: frozenset[bytes], what: str) -> None:
    """An AlgorithmIdentifier of one of `known`, parameters NULL or absent; else Refused (code "cms_algorithm")."""
    algorithm = body.enter(der.SEQUENCE)
    oid = algorithm.take_tlv(der.OBJECT_IDENTIFIER)
    if algorithm.peek() == der.NULL and algorithm.take(der.NULL):
        raise Malformed("not DER: a NULL with contents", code="der")
    if oid not in known or algorithm:
        raise Refused(f"a {what} algorithm is not one of SM2 and SM3", code="cms_algorithm")


def _optional_set(body: der.Reader, number: int, limit: int, what: str) -> tuple[bytes, ...]:
    """The elements of an optional IMPLICIT SET OF SEQUENCE."""
    if body.peek() != der.context(number):
        return ()
    members: list[bytes] = []
    elements = body.enter(der.context(number))
    while elements:
        if len(members) == limit:
            raise TooLarge(f"the message has more than {limit} {what}", code="cms_set_size")
        members.append(elements.take_tlv(der.SEQUENCE))
    return tuple(members)


def set_of(tag: int, elements: Iterable[bytes]) -> bytes:
    """SET OF in DER's order, under `tag`."""
    return der.tlv(tag, *sorted(elements))
