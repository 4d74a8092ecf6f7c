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
from core.store.certificates import RevokedEntry
from crl.builder import CrlContents, build_tbs
from crl.entries import encode_entries
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


def contents(entries: list[RevokedEntry], *, this_ms: int = NOON_MS, number: int = 9) -> CrlContents:
    return CrlContents(ISSUER, bytes(range(20)), number, "http://a.cn/crl/i/0.crl", this_ms, this_ms + 60_000, entries)


def parse(entries: list[RevokedEntry], **changes: int) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(join_signed(build_tbs(contents(entries, **changes)), b"signature"))


times_ms = st.integers(0, 4_102_444_800_000)  # to 2100: both forms of time
revoked = st.builds(
    RevokedEntry,
    serial=st.integers(1, (1 << 159) - 1),
    revoked_at_ms=times_ms,
    reason=st.sampled_from(RevocationReason),
    invalidity_at_ms=st.none() | times_ms,
    not_after_ms=times_ms,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(revoked, max_size=20, unique_by=lambda entry: entry.serial))
def test_the_entries_are_those_that_cryptography_writes(entries: list[RevokedEntry]) -> None:
    entries.sort(key=lambda entry: entry.serial)
    builder = x509.CertificateRevocationListBuilder(x509.Name([]), NOON, NOON + timedelta(1))
    for entry in entries:
        written = (
            x509.RevokedCertificateBuilder()
            .serial_number(entry.serial)
            .revocation_date(datetime.fromtimestamp(entry.revoked_at_ms // 1000, UTC))
        )
        flag = _FLAGS[entry.reason]
        if flag is not None:
            written = written.add_extension(x509.CRLReason(flag), critical=False)
        if entry.invalidity_at_ms is not None:
            at = datetime.fromtimestamp(entry.invalidity_at_ms // 1000, UTC)
            written = written.add_extension(x509.InvalidityDate(at), critical=False)
        builder = builder.add_revoked_certificate(written.build())
    theirs = builder.sign(_P256, SHA256())
    ours = encode_entries(entries)
    assert ours in theirs.tbs_certlist_bytes
    assert len(list(theirs)) == len(list(parse(entries)))


_P256 = ec.generate_private_key(ec.SECP256R1())


def test_an_empty_list_is_left_out() -> None:
    fields = walk.whole(build_tbs(contents([]))).children()
    assert [field.tag for field in fields] == [0x02, 0x30, 0x30, 0x17, 0x17, 0xA0]
    assert fields[0].content == b"\x01"


def test_algorithm_has_no_parameters_inside_and_outside() -> None:
    tbs = build_tbs(contents([]))
    algorithm = bytes.fromhex("300a06082a811ccf55018375")
    assert walk.whole(tbs).children()[1].encoded == algorithm
    assert walk.split(join_signed(tbs, b"s")).algorithm == algorithm


def test_times_turn_to_generalized_time_in_2050() -> None:
    last_second_of_2049_ms = 2_524_607_999_000
    fields = walk.whole(build_tbs(contents([], this_ms=last_second_of_2049_ms))).children()
    assert [(f.tag, f.content) for f in fields[3:5]] == [(0x17, b"491231235959Z"), (0x18, b"20500101000059Z")]


def test_large_numbers() -> None:
    number = parse([], number=(1 << 63) - 1).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number == (1 << 63) - 1


@pytest.mark.parametrize("serial", [0, -1, 1 << 159])
def test_a_serial_out_of_bounds_is_not_written(serial: int) -> None:
    with pytest.raises(ValueError, match="serial"):
        encode_entries([RevokedEntry(serial, 0, RevocationReason.UNSPECIFIED, None, 0)])


def test_a_hundred_thousand_entries() -> None:
    step = (1 << 127) // 100_000
    entries = [
        RevokedEntry(step * i + i % 7, NOON_MS - i * 1000, RevocationReason.KEY_COMPROMISE, None, NOON_MS)
        for i in range(1, 100_001)
    ]
    crl = parse(entries)
    assert [entry.serial_number for entry in crl] == [entry.serial for entry in entries]
    assert crl.get_revoked_certificate_by_serial_number(entries[-1].serial) is not None
    assert crl.get_revoked_certificate_by_serial_number(entries[-1].serial + 1) is None
    assert len(encode_entries(entries)) <= 49 * len(entries)
