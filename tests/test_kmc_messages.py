"""CA-KM messages as bytes: what is written is what the standard has, and garbage ends in a named error or in sense."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from core.errors import Malformed, QianyanError, Refused, TooLarge
from signer.kmc import messages, sealed
from signer.kmc.messages import Apply, Failed, Restore, Returned, Revoke, Revoked
from signer.kmc.names import EntityName
from signer.kmc.sealed import SealedKey
from tests.kmc_world import (
    EC_KEY,
    SM2_ENCRYPT,
    SM3,
    SM3_SM2,
    SM4_ECB,
    Party,
    apply_request,
    integer,
    new_user,
    octets,
    restore_request,
    revoke_request,
    seq,
    spki,
    time_of,
    tlv,
)

#: Mutated messages; each is read three ways.
_ROUNDS = 4_000
AT_MS = 1_795_000_000_000


@pytest.fixture(scope="module")
def party() -> Party:
    return Party()


def test_a_question_is_written_as_the_standard_has_it(party: Party) -> None:
    _, public = new_user()
    name = EntityName.of_certificate(party.certificate)
    assert name.encode() == party.entity()
    requests: list[messages.Request] = [Apply(5, public, AT_MS, AT_MS + 1000), Restore(6, public), Revoke(7)]
    at, later = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (AT_MS, AT_MS + 1000))
    user = seq(integer(5), spki(public), time_of(at), time_of(later))
    expected = seq(
        integer(1),
        party.entity(),
        seq(
            tlv(0xA0, EC_KEY, integer(256), SM2_ENCRYPT, SM4_ECB, SM3, user),
            restore_request(6, public),
            revoke_request(7),
        ),
        time_of(at),
        integer(9),
    )
    body = messages.question_body(name, requests, AT_MS, 9)
    assert body == expected
    signature = party.sign(body)
    message = messages.join_signature(body, signature)
    assert message == seq(expected, SM3_SM2, octets(signature))
    read = messages.read_question(message)
    assert (list(read.requests), read.at_ms, read.task, read.signature) == (requests, AT_MS, 9, signature)
    assert read.name.is_of(party.certificate)
    assert not read.name.is_of(Party().certificate)


@pytest.mark.parametrize("explicit", [False, True])
def test_answers_are_read_as_they_were_written(party: Party, explicit: bool) -> None:
    key, public = new_user()
    unsigned = sealed.seal(key, public, party.public_key)
    envelope = sealed.encode(unsigned.sealed, party.certificate, 5, party.certificate, party.sign(b"x"))
    answers: list[messages.Answer] = [
        Returned(5, public, envelope),
        Returned(5, public, envelope, True),
        Revoked(6),
        Failed(9, "谁"),
        Failed(1),
    ]
    listed = messages.answer_list(answers, explicit=explicit)
    body = messages.reply_body(EntityName.of_certificate(party.certificate), listed, AT_MS, 3)
    reply = messages.read_reply(messages.join_signature(body, b"s"))
    assert (list(reply.answers), reply.task, reply.at_ms, reply.signed) == (answers, 3, AT_MS, body)
    assert sealed.read(envelope) == unsigned.sealed


@pytest.mark.parametrize(
    "package",
    [
        (integer(9), tlv(0xA0, octets(b"why"))),
        (integer(9), tlv(0x80, b"why")),
        (integer(9), seq(tlv(0x0C, b"why"))),
        (integer(9), octets(b"why")),
        (integer(9),),
        (tlv(0x0C, b"9"), tlv(0x0C, b"why")),
    ],
)
def test_errors_are_read_however_they_are_written(party: Party, package: tuple[bytes, ...]) -> None:
    body = seq(integer(1), party.entity(), seq(tlv(0xA3, *package)), time_of(datetime.now(UTC)), integer(3))
    (answer,) = messages.read_reply(seq(body, SM3_SM2, octets(b"s"))).answers
    assert isinstance(answer, Failed)
    assert (answer.number, answer.text) in {(9, "why"), (9, ""), (0, "why")}


def test_a_key_in_a_content_info_and_padded_is_passed_on(party: Party) -> None:
    key, public = new_user()
    unsigned = sealed.seal(key, public, party.public_key)
    padded = SealedKey(unsigned.sealed.encrypted_key, unsigned.sealed.content + bytes(16))
    inner = sealed.encode(padded, party.certificate, 5, party.certificate, b"s")
    outer = seq(bytes.fromhex("060A2A811CCF550601040204"), tlv(0xA0, inner))
    assert sealed.read(outer) == padded
    for bad in (
        seq(bytes.fromhex("060A2A811CCF550601040203"), tlv(0xA0, inner)),
        inner.replace(SM4_ECB, seq(bytes.fromhex("06082A811CCF55016802"))),
        inner.replace(unsigned.sealed.encrypted_key[-8:], bytes(8), 1)[:-1],
        b"",
    ):
        with pytest.raises((Malformed, Refused)):
            sealed.read(bad)


def test_garbage(party: Party) -> None:
    """Octets changed, cut, doubled and swapped: read with sense or refused by name, never anything else."""
    rng = random.Random(14)
    key, public = new_user()
    unsigned = sealed.seal(key, public, party.public_key)
    envelope = sealed.encode(unsigned.sealed, party.certificate, 5, party.certificate, party.sign(b"x"))
    listed = messages.answer_list([Returned(5, public, envelope), Failed(9, "why")])
    body = messages.reply_body(EntityName.of_certificate(party.certificate), listed, AT_MS, 3)
    seeds = [
        party.question(apply_request(5, public), restore_request(6, public), revoke_request(7), task=3),
        party.question(apply_request(5, public, explicit=True), task=3),
        messages.join_signature(body, b"s"),
        envelope,
    ]
    outcomes: set[str] = set()
    for _ in range(_ROUNDS):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(data))
            match rng.randrange(5):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    data[at] ^= 1 << rng.randrange(8)
                case 2:
                    del data[at : at + rng.randrange(1, 9)]
                case 3:
                    data[at:at] = data[at : at + rng.randrange(1, 33)]
                case _:
                    data[at:at] = rng.randbytes(rng.randrange(1, 5))
            if not data:
                break
        for read in (messages.read_question, messages.read_reply, sealed.read):
            try:
                read(bytes(data))
                outcomes.add("read")
            except (Malformed, Refused, TooLarge) as error:
                outcomes.add(error.code)
    assert {"read", "der", "kmc_algorithm", "kmc_choice"} <= outcomes


def test_a_name_that_is_none(party: Party) -> None:
    name = EntityName.of_certificate(party.certificate)
    assert not name.is_of(b"\x30\x03\x02\x01\x01")
    assert not EntityName(b"\x06\x01\x01", name.name, name.key_hash, name.serial).is_of(party.certificate)
    assert not EntityName(name.hash_oid, name.name, name.key_hash, name.serial + 1).is_of(party.certificate)
    assert not EntityName(name.hash_oid, tlv(0x82, b"x"), name.key_hash, name.serial).is_of(party.certificate)
    with pytest.raises(QianyanError):
        EntityName.of_certificate(b"\x30\x00")
