"""What the tests of the native SM2 share: the range of inputs worth trying, and the reference's verdict."""

from hypothesis import strategies as st

from signer._native import sm2
from tests.reference import sm2 as reference

N, P = reference.SM2.n, reference.SM2.p
D = 0x3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8
MESSAGE = b"message digest"
BATCHES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100]

scalars = st.one_of(
    st.integers(1, N - 2),
    st.integers(1, 64),
    st.integers(N - 66, N - 2),
    st.integers(0, 254).map(lambda bit: 1 << bit),
    st.integers(1, 255).map(lambda bit: (1 << bit) - 1),
    st.integers(1, 255).map(lambda bit: (N - (1 << bit)) % (N - 1) or 1),
)
"""Private keys and nonces: anywhere, at both ends, and with long runs of zeros and ones."""

digests = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.integers(-3, 3).map(lambda i: (N + i).to_bytes(32, "big")),
    st.sampled_from([bytes(32), b"\xff" * 32]),
)


def private_key(d: int) -> sm2.PrivateKey:
    return sm2.PrivateKey.from_bytes(d.to_bytes(32, "big"))


def flip(data: bytes, bit: int) -> bytes:
    """One bit turned over."""
    bit %= 8 * len(data)
    at = bit // 8
    return data[:at] + bytes([data[at] ^ (1 << bit % 8)]) + data[at + 1 :]


def reference_says(public: bytes, e: bytes, signature: bytes) -> bool:
    """The reference's verdict on 64 bytes r, s."""
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    return reference.verify_digest(reference.decode_point(public), e, r, s)
