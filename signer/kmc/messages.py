"""CA-KM messages of GM/T 0014-2012 §5.2: what an authority asks a key-management centre, and what that answers.

    CARequest ::= SEQUENCE { ksRequest KSRequest, signatureAlgorithm AlgorithmIdentifier, signatureValue OCTET STRING }
    KSRequest ::= SEQUENCE { version INTEGER {v2(1)}, caName EntName, requestList SEQUENCE OF Request,
                             requestTime GeneralizedTime, taskNO INTEGER }
    Request   ::= CHOICE { applyKeyReq [0], restoreKeyReq [1], revokeKeyReq [2] }
    KMRespond, KSRespond: the same, with kmName, respondList and respondTime
    Respond   ::= CHOICE { applyKeyRespond [0], restoreKeyRespond [1], revokeKeyRespond [2], errorPkgRespond [3] }

Signatures are over the DER of KSRequest and KSRespond. The choices' tags are IMPLICIT; implementations that write them
EXPLICIT are understood, and answered as they ask. Reading is strict DER with bounds on everything; whatever the bytes
are, it ends in a message or in Malformed or TooLarge. Knows bytes; not keys, stores or who is registered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from core import oids
from core.asn1 import der
from core.asn1.x509 import subject_public_key_info
from core.clock import to_datetime
from core.errors import Malformed, TooLarge
from signer.kmc.fields import algorithm, integer, key_algorithm, public_key, time_ms
from signer.kmc.names import EntityName

#: The longest message that is read, and the most requests in one.
MAX_BYTES: Final = 256 * 1024
MAX_ITEMS: Final = 64
_MAX_TEXT: Final = 1024
#: v2, as implementations write it; 0 and 2 are the versions around it, with the same shape.
_VERSION: Final = 1
_VERSIONS: Final = (0, 1, 2)

APPLY: Final = 0
RESTORE: Final = 1
REVOKE: Final = 2
ERROR: Final = 3

_SIGNATURE_OIDS: Final = frozenset({der.oid(oids.SM3_WITH_SM2), der.oid(oids.SM2_SIGN)})
_SIGNATURE: Final = der.sequence(der.oid(oids.SM3_WITH_SM2))
_KEY: Final = der.sequence(der.oid(oids.EC_PUBLIC_KEY), der.oid(oids.SM2_CURVE))
_ASYMMETRIC: Final = der.sequence(der.oid(oids.SM2_ENCRYPT))
_SYMMETRIC: Final = der.sequence(der.oid(oids.SM4_ECB))
_HASH: Final = der.sequence(der.oid(oids.SM3))
#: What keys may be returned under: 104 is what is met beside 104.1 for SM4 in ECB.
_ASYMMETRIC_OIDS: Final = frozenset({der.oid(oids.SM2_ENCRYPT), der.oid(oids.SM2_EXCHANGE), der.oid(oids.SM2_CURVE)})
_SYMMETRIC_OIDS: Final = frozenset({der.oid(oids.SM4_ECB), der.oid(oids.SM4)})
_HASH_OIDS: Final = frozenset({der.oid(oids.SM3), der.oid(oids.SM3_KEYLESS)})


class ErrorNumber(IntEnum):
    """errNo. The standard's text fixes the field and no numbers; these are ours, and in docs/kmc.md."""

    MALFORMED = 1
    SENDER = 2
    SIGNATURE = 3
    TIME = 4
    TASK = 5
    ALGORITHM = 6
    RECIPIENT = 7
    VALIDITY = 8
    NUMBER_USED = 9
    NUMBER_UNKNOWN = 10
    TOO_LARGE = 11
    TRY_AGAIN = 12


@dataclass(frozen=True, slots=True)
class Apply:
    """ApplyKeyReq: a new key for a certificate. Names and codes of its user are read past and not kept.

    number: the certificate's. recipient: the user's signing key, None where it is no SM2 key. suitable: whether the
    algorithms are SM2 with 256 bits, SM4 in ECB and SM3.
    """

    number: int
    recipient: bytes | None
    not_before_ms: int
    not_after_ms: int
    suitable: bool = True

    def encode(self) -> bytes:
        """The contents, without the choice's tag."""
        times = [der.generalized_time(to_datetime(at_ms)) for at_ms in (self.not_before_ms, self.not_after_ms)]
        user = der.sequence(der.integer(self.number), _spki(self.recipient), *times)
        return _KEY + der.integer(256) + _ASYMMETRIC + _SYMMETRIC + _HASH + user


@dataclass(frozen=True, slots=True)
class Restore:
    """RestoreKeyReq: a certificate's key once more, for `recipient`."""

    number: int
    recipient: bytes | None
    suitable: bool = True

    def encode(self) -> bytes:
        """The contents, without the choice's tag."""
        return _ASYMMETRIC + _SYMMETRIC + _HASH + der.integer(self.number) + _spki(self.recipient)


@dataclass(frozen=True, slots=True)
class Revoke:
    """RevokeKeyReq: the key's certificate has ended."""

    number: int

    def encode(self) -> bytes:
        """The contents, without the choice's tag."""
        return der.integer(self.number)


Request = Apply | Restore | Revoke


@dataclass(frozen=True, slots=True)
class Returned:
    """RetKeyRespond. `sealed`: SignedAndEnvelopedData (signer.kmc.sealed); `restored`: it answers a RestoreKeyReq."""

    number: int
    public_key: bytes
    sealed: bytes
    restored: bool = False

    def encode(self) -> bytes:
        """The contents, without the choice's tag."""
        return der.integer(self.number) + subject_public_key_info(self.public_key) + self.sealed


@dataclass(frozen=True, slots=True)
class Revoked:
    """RevokeKeyRespond."""

    number: int

    def encode(self) -> bytes:
        """The contents, without the choice's tag."""
        return der.integer(self.number)


@dataclass(frozen=True, slots=True)
class Failed:
    """ErrorPkgRespond: a number and a text, `[0]` around a UTF8String."""

    number: int
    text: str = ""

    def encode(self) -> bytes:
        """The contents, without the choice's tag."""
        described = der.tlv(der.context(0), der.tlv(0x0C, self.text.encode())) if self.text else b""
        return der.integer(self.number) + described


Answer = Returned | Revoked | Failed


@dataclass(frozen=True, slots=True)
class Question:
    """A CARequest. `signed`: the DER of its KSRequest; `listed`: of its requestList; `explicit`: how it tags."""

    name: EntityName
    requests: tuple[Request, ...]
    at_ms: int
    task: int
    signed: bytes
    listed: bytes
    signature: bytes
    explicit: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """A KMRespond. `signed`: the DER of its KSRespond."""

    name: EntityName
    answers: tuple[Answer, ...]
    at_ms: int
    task: int
    signed: bytes
    signature: bytes


def question_body(name: EntityName, requests: Sequence[Request], at_ms: int, task: int) -> bytes:
    """KSRequest, to be signed."""
    tags = {Apply: APPLY, Restore: RESTORE, Revoke: REVOKE}
    listed = der.sequence(*(der.tlv(der.context(tags[type(one)]), one.encode()) for one in requests))
    return _body(name, listed, at_ms, task)


def answer_list(answers: Sequence[Answer], *, explicit: bool = False) -> bytes:
    """respondList."""
    out = []
    for one in answers:
        contents = der.sequence(one.encode()) if explicit else one.encode()
        out.append(der.tlv(der.context(_tag(one)), contents))
    return der.sequence(*out)


def reply_body(name: EntityName, listed: bytes, at_ms: int, task: int) -> bytes:
    """KSRespond around an encoded respondList, to be signed."""
    return _body(name, listed, at_ms, task)


def join_signature(body: bytes, signature: bytes) -> bytes:
    """CARequest or KMRespond."""
    return der.sequence(body, _SIGNATURE, der.octet_string(signature))


def read_question(encoded: bytes) -> Question:
    """A CARequest. Raises Malformed or TooLarge, whatever the bytes are."""
    signed, signature = _split(encoded)
    name, listed, at_ms, task = _read_body(signed)
    items = der.Reader(listed).enter(der.SEQUENCE)
    requests: list[Request] = []
    styles: set[bool] = set()
    while items:
        _bound(len(requests))
        tag, contents, explicit = _choice(items)
        styles.add(explicit)
        requests.append(_request(tag, contents))
    if not requests:
        raise Malformed("the message asks for nothing", code="kmc_empty")
    return Question(name, tuple(requests), at_ms, task, signed, listed, signature, styles == {True})


def read_reply(encoded: bytes) -> Reply:
    """A KMRespond. Raises Malformed or TooLarge, whatever the bytes are."""
    signed, signature = _split(encoded)
    name, listed, at_ms, task = _read_body(signed)
    items = der.Reader(listed).enter(der.SEQUENCE)
    answers: list[Answer] = []
    while items:
        _bound(len(answers))
        tag, contents, _ = _choice(items)
        answers.append(_answer(tag, contents))
    return Reply(name, tuple(answers), at_ms, task, signed, signature)


def _tag(answer: Answer) -> int:
    if isinstance(answer, Returned):
        return RESTORE if answer.restored else APPLY
    return REVOKE if isinstance(answer, Revoked) else ERROR


def _spki(key: bytes | None) -> bytes:
    if key is None:
        raise ValueError("a request needs the recipient's key")
    return subject_public_key_info(key)


def _body(name: EntityName, listed: bytes, at_ms: int, task: int) -> bytes:
    at = der.generalized_time(to_datetime(at_ms))
    return der.sequence(der.integer(_VERSION), name.encode(), listed, at, der.integer(task))


def _split(encoded: bytes) -> tuple[bytes, bytes]:
    """The signed body and the signature."""
    if len(encoded) > MAX_BYTES:
        raise TooLarge(f"a CA-KM message has at most {MAX_BYTES} octets", code="kmc_size")
    whole = der.Reader(encoded)
    outer = whole.enter(der.SEQUENCE)
    whole.finish()
    signed = outer.take_tlv(der.SEQUENCE)
    if algorithm(outer) not in _SIGNATURE_OIDS:
        raise Malformed("the message is not signed by SM2 with SM3", code="kmc_algorithm")
    signature = outer.take(der.OCTET_STRING)
    outer.finish()
    return signed, signature


def _read_body(signed: bytes) -> tuple[EntityName, bytes, int, int]:
    body = der.Reader(signed).enter(der.SEQUENCE)
    if integer(body) not in _VERSIONS:
        raise Malformed("the message is of a version that is not read here", code="kmc_version")
    name = EntityName.read(body)
    listed = body.take_tlv(der.SEQUENCE)
    at_ms, task = time_ms(body), integer(body)
    body.finish()
    return name, listed, at_ms, task


def _bound(count: int) -> None:
    if count == MAX_ITEMS:
        raise TooLarge(f"a CA-KM message has at most {MAX_ITEMS} requests", code="kmc_items")


def _choice(items: der.Reader) -> tuple[int, der.Reader, bool]:
    """The alternative's number and contents, and whether it is tagged explicitly: then it holds one SEQUENCE alone."""
    tag = items.peek()
    if tag not in (0xA0, 0xA1, 0xA2, 0xA3):
        raise Malformed("the message has a request or answer of an unknown kind", code="kmc_choice")
    contents = items.take(tag)
    inner = der.Reader(contents)
    if inner.peek() == der.SEQUENCE:
        alone = inner.enter(der.SEQUENCE)
        if not inner:
            return tag - 0xA0, alone, True
    return tag - 0xA0, der.Reader(contents), False


def _request(tag: int, body: der.Reader) -> Request:
    made: Request
    if tag == APPLY:
        made = _apply(body)
    elif tag == RESTORE:
        suitable = _return_algorithms(body)
        made = Restore(integer(body), public_key(body), suitable)
    elif tag == REVOKE:
        made = Revoke(integer(body))
    else:
        raise Malformed("the message has a request of an unknown kind", code="kmc_choice")
    body.finish()
    return made


def _apply(body: der.Reader) -> Apply:
    suitable = key_algorithm(body)
    suitable = integer(body) == 256 and suitable
    suitable = _return_algorithms(body) and suitable
    user = body.enter(der.SEQUENCE)
    number, recipient = integer(user), public_key(user)
    not_before_ms, not_after_ms = time_ms(user), time_ms(user)
    for tag in (0xA0, 0xA1, 0xA2):  # userName, dsCode, extendInfo: personal data, of no use here
        if user.peek() == tag and len(user.take(tag)) > _MAX_TEXT:
            raise TooLarge("a user's data in the message is too long", code="kmc_text")
    user.finish()
    return Apply(number, recipient, not_before_ms, not_after_ms, suitable)


def _return_algorithms(body: der.Reader) -> bool:
    found = [algorithm(body) for _ in range(3)]
    return found[0] in _ASYMMETRIC_OIDS and found[1] in _SYMMETRIC_OIDS and found[2] in _HASH_OIDS


def _answer(tag: int, body: der.Reader) -> Answer:
    made: Answer
    if tag in (APPLY, RESTORE):
        number, key = integer(body), public_key(body)
        if key is None:
            raise Malformed("the key that was returned is no SM2 key", code="kmc_key")
        made = Returned(number, key, body.take_tlv(der.SEQUENCE), restored=tag == RESTORE)
    elif tag == REVOKE:
        made = Revoked(integer(body))
    else:
        return _failed(body)
    body.finish()
    return made


def _failed(body: der.Reader) -> Failed:
    """Numbers and texts of errors are written in several ways; what can be read of them is kept."""
    number = 0
    if body.peek() == der.INTEGER:
        number = integer(body)
    elif body:
        body.take_tlv()
    text = _text(body) if body else b""
    return Failed(number, "".join(c for c in text[:_MAX_TEXT].decode("utf-8", "replace") if c.isprintable()))


def _text(body: der.Reader) -> bytes:
    """The innermost contents: a string as it is, or within `[0]`, or a SEQUENCE."""
    for _ in range(3):
        if body.peek() & 0x20:
            body = body.enter(body.peek())
    return body.take(body.peek()) if body else b""
