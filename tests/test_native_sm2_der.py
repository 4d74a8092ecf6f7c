"""SM2Signature in the native core: strict DER, and nothing but InvalidEncoding for the rest."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from signer._native import sm2
from tests.native_sm2 import N
from tests.reference import sm2 as reference


@given(st.integers(1, N - 1), st.integers(1, N - 1))
@example(1, 1)
@example(127, 128)
@example(N - 1, 255)
def test_signature_der(r: int, s: int) -> None:
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    encoded = reference.signature_to_der(r, s)
    assert sm2.signature_to_der(raw) == encoded
    assert sm2.signature_from_der(encoded) == raw


def check_signature_parser(data: bytes) -> None:
    """The parser gives back what encodes to these very bytes, or says InvalidEncoding; it does nothing else."""
    try:
        raw = sm2.signature_from_der(data)
    except sm2.InvalidEncoding:
        return
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    assert reference.signature_to_der(r, s) == data


@given(st.binary(max_size=100))
@example(b"")
@example(b"\x30")
@example(b"\x30\x80\x00\x00")
@example(b"\x30\x84\xff\xff\xff\xff")
@example(b"\x30\x06\x02\x01\x01\x02\x01\x01\x00")
def test_garbage_signatures(data: bytes) -> None:
    check_signature_parser(data)


@given(st.data())
@settings(max_examples=300)
def test_signatures_with_a_byte_changed(data: st.DataObject) -> None:
    good = bytearray(reference.signature_to_der(data.draw(st.integers(1, N - 1)), data.draw(st.integers(1, N - 1))))
    kind = data.draw(st.sampled_from(["set", "insert", "delete", "cut"]))
    at = data.draw(st.integers(0, len(good) - 1))
    if kind == "set":
        good[at] = data.draw(st.integers(0, 255))
    elif kind == "insert":
        good.insert(at, data.draw(st.integers(0, 255)))
    elif kind == "delete":
        del good[at]
    else:
        del good[at:]
    check_signature_parser(bytes(good))


@pytest.mark.parametrize(
    "text",
    [
        "30080202000102020001",  # 00 01: not minimal
        "300702020001020101",
        "3006020181020101",  # negative
        "3006020101020101ff",  # trailing
        "308106020101020101",  # long length
        "3009020101020101020101",  # a third
        "3003020101",
        "30050200020101",  # an INTEGER of nothing
        "3106020101020101",
        "3006030101020101",
        "3080020101020101" + "0000",
        "3026022201" + "00" * 33 + "020101",  # more than 256 bits
    ],
)
def test_encodings_of_a_signature_that_are_not_der(text: str) -> None:
    with pytest.raises(sm2.InvalidEncoding):
        sm2.signature_from_der(bytes.fromhex(text))


@pytest.mark.parametrize("length", [0, 63, 65, 128])
def test_only_64_bytes_become_der(length: int) -> None:
    with pytest.raises((ValueError, sm2.InvalidEncoding)):
        sm2.signature_to_der(b"\x01" * length)
