"""The reader against a plain model, against every changed byte, and against its own failure rules."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography import x509
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.asn1 import der
from core.asn1.x509 import Extension, spki_of_certificate
from qianyan_status import RECORD_BYTES, DeltaMismatch, Status, StatusSet, StatusSetError, load
from qianyan_status import _codec as decoder
from qianyan_status import _file as file_reader
from qianyan_status._lookup import PythonIndex, Table
from qianyan_status._sm3 import sm3_in_python
from qianyan_status._speed import FastIndex
from signer.engine.verify import verify_signature
from status.set import codec
from status.set.format import (
    PURPOSE_SIGNER,
    Base,
    Heading,
    MonthState,
    SetState,
    delta_tbs,
    join,
    set_tbs,
    sm3,
    state_digest,
)
from status.set.hashing import HashSpace, choose, contents_octets, hash_key, stays_exact
from tests.crl_world import HOUR_MS, NOON_MS, KeySigner, make_certificate
from tests.set_world import leaf

NOW_S = NOON_MS // 1000
SIGNER = KeySigner()
AUTHORITY = make_certificate(SIGNER, not_after_ms=NOON_MS + 1000 * 24 * HOUR_MS)
KEY_ID = x509.load_der_x509_certificate(AUTHORITY).extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
INDEX_OID = "2.25.160735196"
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def heading(number: int = 1, position: int = 10, this_ms: int = NOON_MS, life_ms: int = HOUR_MS) -> Heading:
    return Heading(KEY_ID.value.digest, number, position, this_ms, this_ms + life_ms)


def make_set(state: SetState, head: Heading | None = None, signer: KeySigner = SIGNER) -> bytes:
    tbs = set_tbs(head or heading(), spki_of_certificate(AUTHORITY), INDEX_OID, state)
    return join(tbs, signer.sign_now(tbs))


def make_delta(base: bytes, before: SetState, after: SetState, head: Heading | None = None) -> bytes:
    tbs = delta_tbs(head or heading(2, 20), Base(1, 10, sm3(base), before), after)
    return join(tbs, SIGNER.sign_now(tbs))


def read(body: bytes, delta: bytes | None = None, *, now_s: int = NOW_S, **more: Any) -> StatusSet:
    return load(body, delta, issuer=AUTHORITY, verify=verify_signature, clock=lambda: now_s, **more)


@dataclass
class Model:
    """month → how many indexes; (month, index) → 'revoked' or 'held'."""

    sizes: dict[int, int] = field(default_factory=dict)
    marks: dict[tuple[int, int], str] = field(default_factory=dict)

    def state(self) -> SetState:
        months = []
        for month, size in sorted(self.sizes.items()):
            keys = {
                kind: sorted(i for (m, i), mark in self.marks.items() if m == month and mark == kind)
                for kind in ("revoked", "held")
            }
            months.append(MonthState(month, 0, size, keys["revoked"], keys["held"]))
        return SetState(tuple(months))

    def expected(self, month: int, index: int) -> Status:
        if not 0 <= index < self.sizes.get(month, 0):
            return Status.NOT_COVERED
        return {"revoked": Status.REVOKED, "held": Status.HELD}.get(self.marks.get((month, index), ""), Status.GOOD)


@st.composite
def models(draw: st.DrawFn) -> Model:
    sizes = draw(st.dictionaries(st.integers(24_300, 24_320), st.integers(1, 400), max_size=4))
    model = Model(sizes)
    for month, size in sizes.items():
        for index in draw(st.sets(st.integers(0, size - 1), max_size=size)):
            model.marks[month, index] = draw(st.sampled_from(["revoked", "revoked", "held"]))
    return model


def assert_agrees(loaded: StatusSet, model: Model) -> None:
    records, expected = bytearray(), bytearray()
    for month in [*model.sizes, 24_299, 24_321, 0]:
        for index in [*range(model.sizes.get(month, 0) + 2), (1 << 32) - 1]:
            records += struct.pack("<IIq", month, index, NOW_S - 5)
            expected.append(model.expected(month, index))
    assert loaded.query_many(records) == bytes(expected)


@given(models(), models())
@QUICK
def test_a_set_and_its_delta_agree_with_a_dictionary(before: Model, later: Model) -> None:
    body = make_set(before.state())
    assert_agrees(read(body), before)
    after = Model(
        {m: max(before.sizes.get(m, 0), later.sizes.get(m, 0)) for m in {*before.sizes, *later.sizes}}, later.marks
    )
    delta = make_delta(body, before.state(), after.state())
    assert_agrees(read(body, delta), after)


@st.composite
def key_sets(draw: st.DrawFn) -> tuple[int, list[int]]:
    size = draw(st.sampled_from([1, 7, 8, 9, 1000, 65_535, 65_536, 65_537, 140_000]))
    chosen = random.Random(draw(st.integers()))
    density = draw(st.sampled_from([0.0, 0.0001, 0.05, 0.3, 0.5, 0.7, 0.999, 1.0]))
    keys = {key for key in range(size) if chosen.random() < density}
    start = draw(st.integers(0, size - 1))
    keys |= set(range(start, min(size, start + draw(st.sampled_from([0, 1, 5000])))))
    return size, sorted(keys)


@given(key_sets())
@example((65_536, list(range(65_536))))
@example((65_537, [65_536]))
@settings(QUICK, max_examples=40)
def test_keys_come_back(case: tuple[int, list[int]]) -> None:
    size, keys = case
    assert decoder.decode(codec.encode(keys, size), size) == keys


@given(key_sets(), st.integers(0), st.binary(min_size=1, max_size=3))
@settings(QUICK, max_examples=40)
def test_there_is_one_encoding_only(case: tuple[int, list[int]], place: int, noise: bytes) -> None:
    """Whatever decodes is exactly what the encoder writes of it: other bytes are refused or mean something else."""
    size, keys = case
    payload = bytearray(codec.encode(keys, size))
    place %= len(payload) + 1
    payload[place : place + len(noise)] = noise
    try:
        decoded = decoder.decode(bytes(payload), size)
    except StatusSetError:
        return
    assert codec.encode(decoded, size) == bytes(payload)


@given(st.binary(max_size=60), st.sampled_from([1, 20, 300, 70_000]))
@settings(QUICK, max_examples=300)
def test_noise_is_refused_or_canonical(payload: bytes, size: int) -> None:
    try:
        decoded = decoder.decode(payload, size)
    except StatusSetError:
        return
    assert codec.encode(decoded, size) == payload


@given(st.sets(st.integers(0, (1 << 34) - 1), max_size=200))
@QUICK
def test_hash_keys_come_back(keys: set[int]) -> None:
    payload = codec.encode_whole(sorted(keys), 34)
    assert decoder.decode(payload, 1 << 34, whole=True) == sorted(keys)


@given(
    st.lists(st.tuples(st.integers(24_290, 24_330), st.integers(0, 900), st.integers(NOW_S - 9, NOW_S + 9))),
    models(),
    st.booleans(),
)
@QUICK
def test_compiled_and_python_answer_alike(asked: list[tuple[int, int, int]], model: Model, stale: bool) -> None:
    contents = read(make_set(model.state())).contents
    size = file_reader.line_length(contents.spaces)
    maps = [bytearray((size + 7) // 8), bytearray((size + 7) // 8)]
    for keys, bitmap in zip((contents.revoked, contents.held), maps, strict=True):
        for key in keys:
            bitmap[key >> 3] |= 1 << (key & 7)
    table = Table(contents.spaces, bytes(maps[0]), bytes(maps[1]), NOW_S)
    slow, fast = PythonIndex(table), FastIndex(table)
    records = b"".join(struct.pack("<IIq", *one) for one in asked)
    assert fast.find_many(records, stale) == slow.find_many(records, stale)
    assert [fast.find(*one, stale) for one in asked] == [slow.find(*one, stale) for one in asked]
    assert 0 not in fast.find_many(records, stale)


def test_bulk_questions_are_whole_records() -> None:
    loaded = read(make_set(SMALL))
    assert loaded.query_many(b"") == b""
    with pytest.raises(ValueError, match="16"):
        loaded.query_many(bytes(RECORD_BYTES + 1))
    with pytest.raises(ValueError, match="16"):
        PythonIndex(Table((), b"", b"", 0)).find_many(bytes(1), False)


@given(st.binary(max_size=300))
@QUICK
def test_sm3_without_hashlib(data: bytes) -> None:
    assert sm3_in_python(data) == sm3(data)


# ---- a certificate

MONTH = 24_331  # 2027-08
ENDS_MS = NOON_MS + 270 * 24 * HOUR_MS
SMALL = SetState((MonthState(MONTH, 0, 50, (3, 9), (4,)), MonthState(MONTH + 1, 0, 5, (), ())))


def holder(index: int | None, **changes: Any) -> bytes:
    values: dict[str, Any] = {
        "serial": 77,
        "not_before_ms": NOON_MS - HOUR_MS,
        "not_after_ms": ENDS_MS,
        "place": None if index is None else (MONTH, index),
    }
    return leaf(SIGNER, **{**values, **changes})


def test_a_certificate_is_found_by_its_extension() -> None:
    loaded = read(make_set(SMALL))
    assert loaded.query(holder(0)).status is Status.GOOD
    assert loaded.query(holder(3)).status is Status.REVOKED
    on_hold = loaded.query(holder(4))
    assert (on_hold.status, on_hold.on_hold) == (Status.REVOKED, True)
    assert loaded.query(holder(50)).status is Status.NOT_COVERED
    assert loaded.query_index(KEY_ID.value.digest, MONTH, 9, NOW_S).status is Status.REVOKED
    assert loaded.query_index(b"another", MONTH, 9, NOW_S).status is Status.NOT_COVERED


@pytest.mark.parametrize(
    "certificate",
    [
        holder(0, not_before_ms=NOON_MS + 2000),
        holder(0, place=(MONTH + 1, 0)),
        holder(0, place=(MONTH + 2, 0), not_after_ms=ENDS_MS + 62 * 24 * HOUR_MS),
        holder(None),
        holder(None, more=(Extension(INDEX_OID, False, b"\x30\x03\x02\x01\x00"),)),
        holder(None, more=(Extension(INDEX_OID, False, b"\x30\x07\x02\x02\x5f\x0b\x02\x01\x00\x00"),)),
        leaf(KeySigner(), serial=7, not_before_ms=NOON_MS, not_after_ms=ENDS_MS, place=(MONTH, 0)),
        b"",
        b"\x30\x03\x02\x01\x00",
        holder(0)[:-1],
    ],
    ids=["later", "month", "missing", "none", "short", "trailing", "issuer", "empty", "der", "cut"],
)
def test_what_the_set_does_not_speak_of_is_never_good(certificate: bytes) -> None:
    answer = read(make_set(SMALL)).query(certificate)
    assert answer.status is Status.NOT_COVERED
    assert answer.ask_ocsp


def test_past_its_end_only_revocations_stand() -> None:
    for now_s in (NOW_S + 3601, NOW_S - 121):
        clock = [NOW_S]
        loaded = load(make_set(SMALL), issuer=AUTHORITY, verify=verify_signature, clock=lambda c=clock: c[0])  # type: ignore[misc]
        clock[0] = now_s
        assert loaded.query(holder(3)).status is Status.REVOKED
        assert loaded.query(holder(0)).status is Status.UNKNOWN
        assert loaded.query(holder(4)).status is Status.UNKNOWN, "a hold may have ended"
        assert loaded.query(holder(99)).status is Status.NOT_COVERED
        records = b"".join(struct.pack("<IIq", MONTH, index, 0) for index in (0, 3, 4, 99))
        assert list(loaded.query_many(records)) == [Status.UNKNOWN, Status.REVOKED, Status.UNKNOWN, Status.NOT_COVERED]


# ---- the file


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(StatusSetError) as refused:
        call()
    return refused.value.code


def test_every_changed_byte_is_refused() -> None:
    body = make_set(SMALL)
    delta = make_delta(body, SMALL, SetState((replace(SMALL.months[0], revoked=(3,), held=()), SMALL.months[1])))
    for file, reader in ((body, lambda changed: read(changed)), (delta, lambda changed: read(body, changed))):
        for place in range(len(file)):
            for flip in (0x01, 0x80, 0xFF):
                changed = bytearray(file)
                changed[place] ^= flip
                with pytest.raises(StatusSetError):
                    reader(bytes(changed))
        for cut in range(len(file)):
            with pytest.raises(StatusSetError):
                reader(file[:cut])
        with pytest.raises(StatusSetError):
            reader(file + b"\x00")


def test_every_changed_byte_is_refused_even_where_everything_verifies() -> None:
    """A signature that means nothing: form and digest alone hold all that says what is revoked."""
    body = make_set(SMALL)
    tbs = file_reader.split(body).tbs
    revoked = read(body).contents.revoked

    def taken(changed: bytes) -> StatusSet | None:
        try:
            return load(changed, issuer=AUTHORITY, verify=lambda *_: None, clock=lambda: NOW_S)
        except StatusSetError:
            return None

    for place in range(len(tbs)):
        for flip in (0x01, 0x10, 0xFF):
            changed = bytearray(tbs)
            changed[place] ^= flip
            loaded = taken(join(bytes(changed), b"any"))
            assert loaded is None or loaded.contents.revoked == revoked


@given(st.integers(0), st.integers(0), st.binary(max_size=4))
@settings(QUICK, max_examples=300)
def test_pieces_cut_out_and_put_in(start: int, length: int, noise: bytes) -> None:
    body = make_set(SMALL)
    tbs = file_reader.split(body).tbs
    at = start % len(tbs)
    changed = tbs[:at] + noise + tbs[at + length % 8 :]
    if changed == tbs:
        return
    try:
        loaded = load(join(changed, b"any"), issuer=AUTHORITY, verify=lambda *_: None, clock=lambda: NOW_S)
    except StatusSetError:
        return
    assert loaded.contents.revoked == read(body).contents.revoked


@pytest.mark.parametrize("verdict", [False, 0, 1, "no"])
def test_a_verifier_that_answers_instead_of_raising(verdict: object) -> None:
    body = make_set(SMALL)
    call = lambda: load(body, issuer=AUTHORITY, verify=lambda *_: verdict, clock=lambda: NOW_S)  # noqa: E731
    assert code_of(call) == "signature"
    load(body, issuer=AUTHORITY, verify=lambda *_: True, clock=lambda: NOW_S)


def test_what_is_refused_and_why() -> None:
    body = make_set(SMALL)
    stranger = make_set(SMALL, signer=KeySigner())
    assert code_of(lambda: read(stranger)) == "signature"
    other = make_certificate(KeySigner(), not_after_ms=NOON_MS + HOUR_MS)
    wrong_issuer = lambda: load(body, issuer=other, verify=lambda *_: None, clock=lambda: NOW_S)  # noqa: E731
    assert code_of(wrong_issuer) == "issuer"
    assert code_of(lambda: read(body, now_s=NOW_S - 200)) == "future"
    assert read(body, last_position=10).position == 10
    assert code_of(lambda: read(body, last_position=11)) == "rollback"
    tbs = file_reader.split(body).tbs
    newer = tbs.replace(b"\x02\x01\x01", b"\x02\x01\x02", 1)
    assert code_of(lambda: read(join(newer, SIGNER.sign_now(newer)))) == "version"
    assert code_of(lambda: read(make_delta(body, SMALL, SMALL))) == "format"


def test_a_delta_of_another_set_or_to_another_state() -> None:
    body = make_set(SMALL)
    after = SetState((replace(SMALL.months[0], revoked=(3, 9, 10)), SMALL.months[1]))
    delta = make_delta(body, SMALL, after)
    assert read(body, delta).query(holder(10)).status is Status.REVOKED
    again = make_set(SMALL)  # the same contents, another signature: another file
    with pytest.raises(DeltaMismatch):
        read(again, delta)
    tbs = delta_tbs(heading(2, 20), Base(1, 10, sm3(body), SMALL), after)
    lying = tbs.replace(state_digest(after), state_digest(SMALL))
    with pytest.raises(DeltaMismatch, match="does not lead"):
        read(body, join(lying, SIGNER.sign_now(lying)))
    for head in (heading(1, 20), heading(2, 9), heading(2, 20, NOON_MS - 5000)):
        with pytest.raises(DeltaMismatch):
            read(body, make_delta(body, SMALL, after, head))


def resigned(tbs: bytes, before: bytes, after: bytes) -> bytes:
    """The set again with other octets in it, signed by the authority all the same; both are whole elements."""
    assert tbs.count(before) == 1
    body = der.Reader(tbs).enter(der.SEQUENCE)
    parts = []
    while body:
        parts.append(body.take_tlv())
    changed = der.sequence(*(after if part == before else part for part in parts))
    assert changed != tbs
    return join(changed, SIGNER.sign_now(changed))


NEVER = (1 << 56) - 1


@pytest.mark.parametrize(
    ("spaces", "code"),
    [
        ([(MONTH, 0, file_reader.MAX_POSITIONS + 1)], "size"),
        ([(MONTH, 0, file_reader.MAX_POSITIONS), (1, 0, 1)], "size"),
        ([(MONTH, NEVER, NEVER)], "size"),
        ([(MONTH, file_reader.MAX_INDEX, 1)], "size"),
        ([(MONTH, 0, 50), (file_reader.MAX_MONTHS, 0, 5)], "format"),
        ([(MONTH, 0, 50), (0, 0, 5)], "format"),
        ([(MONTH, 0, 0)], "format"),
        ([(MONTH, 0, 40), (1, 0, 5)], "digest"),
        ([(MONTH + 1, 0, 50), (1, 0, 5)], "digest"),
        ([], "canonical"),
    ],
)
def test_spaces_past_any_bound(spaces: list[tuple[int, int, int]], code: str) -> None:
    """Signed by the authority, and refused before memory is taken for them."""
    body = make_set(SMALL)
    octets = lambda rows: der.octet_string(b"".join(codec.varint(value) for row in rows for value in row))  # noqa: E731
    usual = octets([(MONTH, 0, 50), (1, 0, 5)])
    tracemalloc.start()
    try:
        assert code_of(lambda: read(resigned(file_reader.split(body).tbs, usual, octets(spaces)))) == code
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "payload",
    [
        b"\x80" + codec.varint(NEVER) + b"\xff",  # a count past the space
        b"\x80" + b"\xff" * 9,  # a count without an end
        b"\xbf\x01\x80",  # a parameter past its bound
        b"\x02",  # a bitmap that is not there
        b"\x01\x01",  # more blocks than positions
        b"\x80\x03\xe0" + bytes(70_000),  # codes and a desert
    ],
)
def test_keys_past_any_bound(payload: bytes) -> None:
    body = make_set(SMALL)
    usual = der.octet_string(codec.encode([3, 9], 55))
    assert code_of(lambda: read(resigned(file_reader.split(body).tbs, usual, der.octet_string(payload)))) == "canonical"


def test_a_file_that_is_too_long() -> None:
    assert code_of(lambda: read(bytes(file_reader.MAX_FILE_BYTES + 1))) == "size"
    assert code_of(lambda: read(make_set(SMALL), bytes(file_reader.MAX_FILE_BYTES + 1))) == "size"


def test_imports_past_any_bound() -> None:
    """More revoked than there are, keys too long or too short, a salt too short."""
    space = imports()
    changes: list[dict[str, Any]] = [{"count": 199}, {"bits": 57}, {"bits": 16}, {"salt": b"\x01" * 7}]
    for change in changes:
        small = {"revoked": [1], "held": []} if "bits" in change else {}
        wrong = replace(space, **{**small, **change})
        assert code_of(lambda wrong=wrong: read(make_set(SetState(SMALL.months, wrong)))) == "format"  # type: ignore[misc]


def test_files_that_were_replayed() -> None:
    """An older set, an older delta, a newer set with the delta of the older one, and a delta that others signed."""
    first = make_set(SMALL)
    after = SetState((replace(SMALL.months[0], revoked=(3, 9, 10)), SMALL.months[1]))
    delta = make_delta(first, SMALL, after)
    second = make_set(after, heading(3, 30))
    taken = read(second).position
    assert code_of(lambda: read(first, last_position=taken)) == "rollback"
    assert code_of(lambda: read(first, delta, last_position=taken)) == "rollback"
    assert code_of(lambda: read(first, last_position=read(first, delta).position)) == "rollback"
    with pytest.raises(DeltaMismatch):
        read(second, delta, last_position=taken)
    tbs = file_reader.split(delta).tbs
    assert code_of(lambda: read(first, join(tbs, KeySigner().sign_now(tbs)))) == "signature"
    assert code_of(lambda: read(first, first)) == "format"
    assert code_of(lambda: read(delta)) == "format"


def test_the_set_of_another_authority() -> None:
    """By another key, of another name under the same key identifier, and with a key identifier that is not its own."""
    body = make_set(SMALL)
    other = KeySigner()
    theirs = make_certificate(other, not_after_ms=NOON_MS + HOUR_MS)
    call = lambda issuer, file: load(file, issuer=issuer, verify=verify_signature, clock=lambda: NOW_S)  # noqa: E731
    assert code_of(lambda: call(theirs, body)) == "signature"
    ours_named_by_them = make_set(SMALL, signer=other)
    assert code_of(lambda: call(theirs, ours_named_by_them)) == "issuer"
    misnamed = make_set(SMALL, replace(heading(), authority_key_id=b"\x01" * 20))
    assert code_of(lambda: read(misnamed)) == "issuer"


def test_a_set_that_ended_is_never_good_however_it_comes() -> None:
    """Loaded after its end, and with a delta that has ended; a delta in force revives its set."""
    late = NOW_S + 2 * 3600
    body = make_set(SMALL)
    after = SetState((replace(SMALL.months[0], revoked=(3, 9, 10)), SMALL.months[1]))
    ended, fresh = make_delta(body, SMALL, after), make_delta(body, SMALL, after, heading(2, 20, life_ms=9 * HOUR_MS))
    for loaded in (read(body, now_s=late), read(body, ended, now_s=late)):
        assert loaded.stale
        found = loaded.query_many(b"".join(struct.pack("<IIq", MONTH, index, 0) for index in range(60)))
        assert Status.GOOD not in found
        assert loaded.query(holder(0)).status is Status.UNKNOWN
        assert loaded.query(holder(3)).status is Status.REVOKED
    assert read(body, fresh, now_s=late).query(holder(0)).status is Status.GOOD


def test_a_key_is_revoked_or_on_hold() -> None:
    both = SetState((MonthState(MONTH, 0, 9, (1,), (1,)),))
    assert code_of(lambda: read(make_set(both))) == "format"


def test_a_delegated_signer_needs_its_purpose() -> None:
    delegate = KeySigner("delegate")
    usage = lambda dotted: Extension.of(x509.ExtendedKeyUsage([x509.ObjectIdentifier(dotted)]))  # noqa: E731
    purpose, other = usage(PURPOSE_SIGNER), usage("1.3.6.1.5.5.7.3.9")

    def signed(certificate: bytes) -> bytes:
        tbs = set_tbs(heading(), spki_of_certificate(AUTHORITY), INDEX_OID, SMALL)
        return join(tbs, delegate.sign_now(tbs), certificate)

    key = delegate.public_key
    assert read(signed(holder(0, more=(purpose,), key=key))).query(holder(3)).status is Status.REVOKED
    assert code_of(lambda: read(signed(holder(0, more=(other,), key=key)))) == "signer"
    assert code_of(lambda: read(signed(holder(0, key=key)))) == "signer"
    assert code_of(lambda: read(signed(holder(3, more=(purpose,), key=key)))) == "signer", "revoked"
    expired = holder(0, more=(purpose,), key=key, not_before_ms=NOON_MS - 9 * HOUR_MS, not_after_ms=NOON_MS - HOUR_MS)
    assert code_of(lambda: read(signed(expired))) == "signer"
    assert code_of(lambda: read(signed(holder(0, more=(purpose,))))) == "signature"
    self_made = leaf(
        delegate, serial=5, not_before_ms=NOON_MS, not_after_ms=ENDS_MS, place=None, more=(purpose,), key=key
    )
    assert code_of(lambda: read(signed(self_made))) == "signature"


# ---- imports

_random = random.Random(5)
SERIALS = [_random.getrandbits(127) | 1 << 100 for _ in range(3000)]


def imports() -> HashSpace:
    return choose(
        lambda: SERIALS[200:],
        SERIALS[:150],
        SERIALS[150:200],
        count=2800,
        cutoff_s=NOW_S,
        random=random.Random(1).randbytes,
    )


def test_no_standing_import_meets_a_revoked_one() -> None:
    space = imports()
    gone = {hash_key(space.salt, serial, space.bits) for serial in SERIALS[:150]}
    assert gone == set(space.revoked)
    assert not gone & {hash_key(space.salt, serial, space.bits) for serial in SERIALS[150:]}
    assert space.count == 3000
    assert space.bits <= 24
    assert stays_exact(space, SERIALS[201:], [*SERIALS[:150], SERIALS[200]], SERIALS[150:200])


def test_every_import_is_answered_exactly() -> None:
    body = make_set(SetState(SMALL.months, imports()))
    loaded = read(body)
    for serial in [*SERIALS[:5], *SERIALS[150:153], *SERIALS[200:230]]:
        answer = loaded.query(holder(None, serial=serial))
        place = SERIALS.index(serial)
        assert answer.status is (Status.REVOKED if place < 200 else Status.GOOD)
        assert answer.on_hold is (150 <= place < 200)
    later = holder(None, serial=SERIALS[0], not_before_ms=NOON_MS)
    assert loaded.query(later).status is Status.NOT_COVERED, "after the cutoff"
    indexed = holder(0, serial=SERIALS[0])
    assert loaded.query(indexed).status is Status.GOOD, "the index goes before the hash"
    clock_later = read(body, now_s=NOW_S + 4000)
    assert clock_later.query(holder(None, serial=SERIALS[0])).status is Status.REVOKED
    assert clock_later.query(holder(None, serial=SERIALS[150])).status is Status.UNKNOWN
    assert clock_later.query(holder(None, serial=SERIALS[220])).status is Status.UNKNOWN


def test_imports_change_by_delta() -> None:
    space = imports()
    before = SetState(SMALL.months, space)
    body = make_set(before)
    key = hash_key(space.salt, SERIALS[220], space.bits)
    after = SetState(SMALL.months, replace(space, revoked=sorted([*space.revoked, key]), held=space.held[1:]))
    loaded = read(body, make_delta(body, before, after))
    assert loaded.query(holder(None, serial=SERIALS[220])).status is Status.REVOKED
    assert len(loaded.contents.imports.held) == 49  # type: ignore[union-attr]


def test_serials_are_hashed_as_they_stand_in_the_certificate() -> None:
    assert contents_octets(0x80) == b"\x00\x80"
    assert der.integer(0x80)[2:] == contents_octets(0x80)


# ---- sizes


def test_two_million_certificates_and_three_hundred_changes() -> None:
    """5 % revoked, 24 months: at most 76 KB the whole signed file, 1 KB the delta (entropy: 71.6 KB)."""
    total, months = 2_000_000, 24
    chosen = random.Random(7)
    keys = sorted(chosen.sample(range(total), total // 20))
    changed = sorted(set(keys) ^ set(chosen.sample(range(total), 300)))
    states = []
    for line, grown in ((keys, 0), (changed, 40)):
        per = total // months
        parts, at = [], 0
        for month in range(months):
            start, end = month * per, total if month == months - 1 else (month + 1) * per
            inside = []
            while at < len(line) and line[at] < end:
                inside.append(line[at] - start)
                at += 1
            parts.append(MonthState(24_330 + month, 0, end - start + grown, inside, ()))
        states.append(SetState(tuple(parts)))
    body = make_set(states[0])
    delta = make_delta(body, states[0], states[1])
    assert len(body) <= 76_000
    assert len(delta) <= 1_000
    loaded = read(body, delta)
    assert len(loaded.contents.revoked) == len(changed)
