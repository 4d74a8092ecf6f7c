"""The DER of a CRL, against `cryptography`, which reads and writes CRLs of its own."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st

from core.asn1.names import build_name
from core.asn1.x509 import join_signed
from core.model import RevocationReason
from crl._entries import Draft, Entries, Row
from crl._reader import Listing
from crl.builder import CrlContents, make_draft
from tests.crl_world import NOON_MS
from tests.judges import der as walk

ISSUER = build_name({"C": "CN", "CN": "签发机构"}).public_bytes()
NOON = datetime.fromtimestamp(NOON_MS // 1000, UTC)

_FLAGS = {
    RevocationReason.UNSPECIFIED: None,
    RevocationReason.KEY_COMPROMISE: x509.ReasonFlags.key_compromise,
    RevocationReason.CA_COMPROMISE: x509.ReasonFlags.ca_compromise,
    RevocationReason.AFFILIATION_CHANGED: x509.ReasonFlags.affiliation_changed,
    RevocationReason.SUPERSEDED: x509.ReasonFlags.superseded,
    RevocationReason.CESSATION_OF_OPERATION: x509.ReasonFlags.cessation_of_operation,
    RevocationReason.CERTIFICATE_HOLD: x509.ReasonFlags.certificate_hold,
    RevocationReason.PRIVILEGE_WITHDRAWN: x509.ReasonFlags.privilege_withdrawn,
    RevocationReason.AA_COMPROMISE: x509.ReasonFlags.aa_compromise,
}


LATE_S = 1 << 31


def contents(*, this_ms: int = NOON_MS, number: int = 9) -> CrlContents:
    return CrlContents(ISSUER, bytes(range(20)), number, "http://a.cn/crl/i/0.crl", this_ms, this_ms + 60_000)


def octets(serial: int) -> bytes:
    return serial.to_bytes((serial.bit_length() + 7) // 8 or 1, "big")


def row(serial: int, revoked_s: int = 0, reason: int = 0, invalidity_s: int | None = None, ends_s: int = LATE_S) -> Row:
    return octets(serial), revoked_s * 16 + reason, ends_s, invalidity_s


def draft(changes: list[Row], entries: Entries | None = None, *, kept_from_s: int = 0, **values: int) -> Draft:
    return make_draft(entries or Entries(), contents(**values), changes, kept_from_s)


def tbs_of(made: Draft) -> bytes:
    start, end = made.tbs
    return bytes(made)[start:end]


def parse(changes: list[Row], **values: int) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(draft(changes, **values).seal(b"signature"))


times_s = st.integers(0, 4_102_444_800)  # to 2100: both forms of time
serials = st.integers(1, (1 << 159) - 1) | st.integers(1, 300)
entry = st.tuples(serials, times_s, st.sampled_from(RevocationReason), st.none() | times_s)


@settings(max_examples=150, deadline=None)
@given(st.lists(entry, max_size=20, unique_by=lambda made: made[0]))
def test_the_entries_are_those_that_cryptography_writes(
    entries: list[tuple[int, int, RevocationReason, int | None]],
) -> None:
    builder = x509.CertificateRevocationListBuilder(x509.Name([]), NOON, NOON + timedelta(1))
    for serial, revoked_s, reason, invalidity_s in sorted(entries):
        written = (
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(datetime.fromtimestamp(revoked_s, UTC))
        )
        flag = _FLAGS[reason]
        if flag is not None:
            written = written.add_extension(x509.CRLReason(flag), critical=False)
        if invalidity_s is not None:
            at = datetime.fromtimestamp(invalidity_s, UTC)
            written = written.add_extension(x509.InvalidityDate(at), critical=False)
        builder = builder.add_revoked_certificate(written.build())
    theirs = builder.sign(_P256, SHA256())
    rows = [row(serial, revoked_s, int(reason), invalidity_s) for serial, revoked_s, reason, invalidity_s in entries]
    made = draft(rows)
    if entries:
        start, end = _revoked(theirs.tbs_certlist_bytes)
        assert theirs.tbs_certlist_bytes[start:end] in tbs_of(made)
    assert made.count == len(entries)
    said = [(s, at, int(reason), invalid) for s, at, reason, invalid in sorted(entries)]
    assert Listing(made).rows() == said, "the judge reads what the builder meant"


def _revoked(tbs: bytes) -> tuple[int, int]:
    """Where revokedCertificates is."""
    encoded = walk.whole(tbs).children()[5].encoded
    at = tbs.index(encoded)
    return at, at + len(encoded)


change = st.tuples(st.integers(1, 60), st.booleans(), st.integers(0, 100))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(change, max_size=12), max_size=6), st.integers(0, 60), st.lists(st.integers(1, 99999)))
def test_step_by_step_is_the_same_as_at_once(
    rounds: list[list[tuple[int, bool, int]]], kept_from_s: int, loaded: list[int]
) -> None:
    """Whatever comes, goes and lapses, the entries are those that a dictionary would have."""
    known = {serial: row(serial, 5, 1) for serial in loaded}
    entries = Entries()
    entries.load_rows([known[serial] for serial in sorted(known, key=octets)])
    for changes in rounds:
        rows: list[Row] = []
        for serial, there, ends_s in changes:
            rows.append(row(serial, ends_s, 4, None, ends_s) if there else (octets(serial), None, 0, None))
            known.pop(serial, None)
            if there:
                known[serial] = rows[-1]
        known = {serial: made for serial, made in known.items() if made[2] >= kept_from_s}
        made = draft(rows, entries, kept_from_s=kept_from_s)
        signed = made.seal(b"signature")
        entries.settle(made)
        expected = [(serial, (known[serial][1] or 0) >> 4) for serial in sorted(known)]
        assert [found[:2] for found in Listing(signed).rows()] == expected
        assert len(entries) == len(known)
        assert list(parse([])) == []
        assert [e.serial_number for e in x509.load_der_x509_crl(signed)] == sorted(known)


@pytest.mark.parametrize("size", [1, 8, 40, 60, 70, 71, 72])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 1330, 1331, 1332, 1333, 1334, 1335, 1336])
def test_every_length_of_signature_and_list(size: int, count: int) -> None:
    """Around 127 and 65,535 octets, where lengths take one octet more."""
    made = draft([row(i + (1 << 126), 1000) for i in range(count)] + [row(7, 1, 4)] * bool(count))
    tbs = tbs_of(made)
    signed = made.seal(bytes(range(size)))
    assert signed == join_signed(tbs, bytes(range(size)))
    assert x509.load_der_x509_crl(signed).tbs_certlist_bytes == tbs


def test_a_draft_is_sealed_once_and_not_while_somebody_looks() -> None:
    made = draft([])
    with memoryview(made), pytest.raises(BufferError):
        made.seal(b"s")
    with pytest.raises(ValueError, match="72"):
        made.seal(bytes(73))
    made.seal(b"s")
    with pytest.raises(ValueError, match="sealed already"):
        made.seal(b"s")
    with pytest.raises(BufferError):
        memoryview(made)
    entries = Entries()
    entries.settle(made)
    with pytest.raises(ValueError, match="once"):
        entries.settle(made)


def test_rows_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        Entries().load_rows([row(9), row(8)])
    with pytest.raises(ValueError, match="ascending"):
        Entries().load_rows([row(9), row(9)])


_P256 = ec.generate_private_key(ec.SECP256R1())


def test_an_empty_list_is_left_out() -> None:
    fields = walk.whole(tbs_of(draft([]))).children()
    assert [field.tag for field in fields] == [0x02, 0x30, 0x30, 0x17, 0x17, 0xA0]
    assert fields[0].content == b"\x01"


def test_algorithm_has_no_parameters_inside_and_outside() -> None:
    made = draft([])
    algorithm = bytes.fromhex("300a06082a811ccf55018375")
    assert walk.whole(tbs_of(made)).children()[1].encoded == algorithm
    assert walk.split(made.seal(b"s")).algorithm == algorithm


def test_times_turn_to_generalized_time_in_2050() -> None:
    last_second_of_2049_ms = 2_524_607_999_000
    fields = walk.whole(tbs_of(draft([], this_ms=last_second_of_2049_ms))).children()
    assert [(f.tag, f.content) for f in fields[3:5]] == [(0x17, b"491231235959Z"), (0x18, b"20500101000059Z")]


def test_large_numbers() -> None:
    number = parse([], number=(1 << 63) - 1).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number == (1 << 63) - 1


@pytest.mark.parametrize("serial", [b"\0", b"\x80" + bytes(19), b"\1" + bytes(20)])
def test_a_serial_out_of_bounds_is_not_written(serial: bytes) -> None:
    with pytest.raises(ValueError, match="serial"):
        draft([(serial, 0, LATE_S, None)])
    with pytest.raises(ValueError, match="serial"):
        Entries().load_rows([(serial, 0, LATE_S, None)])


def test_a_time_that_cannot_be_told_is_not_written() -> None:
    for revoked_s, invalidity_s in ((-631_152_001, None), (253_402_300_800, None), (0, -62_135_596_801)):
        with pytest.raises(ValueError, match="time"):
            draft([row(1, revoked_s, 0, invalidity_s)])
    assert Listing(draft([row(1, -631_152_000, 0, -62_135_596_800)])).rows() == [(1, -631_152_000, 0, -62_135_596_800)]


def test_a_hundred_thousand_entries() -> None:
    step = (1 << 127) // 100_000
    numbers = [step * i + i % 7 for i in range(1, 100_001)]
    entries = Entries()
    entries.load_rows(sorted(row(serial, NOON_MS // 1000 - i, 1) for i, serial in enumerate(numbers)))
    made = draft([], entries)
    assert len(made) <= 49 * len(numbers) + 1000
    crl = x509.load_der_x509_crl(made.seal(b"s"))
    assert [revoked.serial_number for revoked in crl] == numbers
    assert crl.get_revoked_certificate_by_serial_number(numbers[-1]) is not None
    assert crl.get_revoked_certificate_by_serial_number(numbers[-1] + 1) is None
