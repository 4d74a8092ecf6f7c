"""The references give the standards' own numbers, so that what is held to them is held to the standards."""

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import vectors
from tests.judges import Refused, der, openssl, peers
from tests.reference import sm2
from tests.reference.sm3 import sm3
from tests.vectors import generate_edges

KNOWN = vectors.load("sm2")
EDGES = vectors.load("sm2_edges")


def number(text: str) -> int:
    return int(text, 16)


def curve_of(vector: dict[str, Any]) -> sm2.Curve:
    """The vector's own curve, or the recommended one."""
    if "curve" not in vector:
        return sm2.SM2
    return sm2.Curve(**{name: number(vector["curve"][name]) for name in ("p", "a", "b", "n", "gx", "gy")})


def named(rows: list[dict[str, Any]]) -> pytest.MarkDecorator:
    """Parametrize over vectors by name."""
    return pytest.mark.parametrize("vector", rows, ids=[row["name"] for row in rows])


def test_the_curve_is_the_published_one() -> None:
    for name in ("p", "a", "b", "n", "gx", "gy"):
        assert getattr(sm2.SM2, name) == number(KNOWN["curve"][name])
    assert sm2.SM2.contains(sm2.SM2.g)
    assert sm2.SM2.add(sm2.SM2.multiply(sm2.SM2.n - 1, sm2.SM2.g), sm2.SM2.g) is None


# ---- SM3


@named(KNOWN["sm3"])
def test_sm3_known_answers(vector: dict[str, Any]) -> None:
    assert sm3(bytes.fromhex(vector["msg_hex"])).hex() == vector["digest"]


@given(st.binary(max_size=300))
def test_sm3_agrees_with_openssl(data: bytes) -> None:
    assert sm3(data) == hashlib.new("sm3", data).digest()


# ---- signatures


@named(KNOWN["sm2_sign"])
def test_the_standards_signatures(vector: dict[str, Any]) -> None:
    curve = curve_of(vector)
    d, k = number(vector["d"]), number(vector["k"])
    public = sm2.public_key(d, curve)
    user_id, message = vector["id_ascii"].encode(), vector["msg_ascii"].encode()
    assert sm2.z_value(public, user_id, curve).hex() == vector["z"]
    e = sm2.digest(public, message, user_id, curve)
    assert e.hex() == vector["e"]
    r, s = sm2.sign_digest(d, e, k, curve)
    assert (r, s) == (number(vector["r"]), number(vector["s"]))
    assert sm2.verify_digest(public, e, r, s, curve)
    assert not sm2.verify_digest(public, sm2.digest(public, message, b"", curve), r, s, curve)


@named([v for v in KNOWN["sm2_verify_edge_digest_level"]["vectors"] if not v.get("der_only")])
def test_verification_edges(vector: dict[str, Any]) -> None:
    public = (number(vector["px"]), number(vector["py"]))
    found = sm2.verify_digest(public, bytes.fromhex(vector["e"]), number(vector["r"]), number(vector["s"]))
    assert found is bool(vector["valid"])


@named([v for v in KNOWN["sm2_verify_edge_digest_level"]["vectors"] if v.get("der_only")])
def test_signature_encoding_edges(vector: dict[str, Any]) -> None:
    with pytest.raises(sm2.Invalid):
        sm2.signature_from_der(bytes.fromhex(vector["sig_der"]))


@named(EDGES["verify_digest"])
def test_constructed_verification_edges(vector: dict[str, Any]) -> None:
    """The reference agrees with what each was built to be, and so does OpenSSL, which had no part in building it."""
    public = (number(vector["px"]), number(vector["py"]))
    r, s, e = number(vector["r"]), number(vector["s"]), bytes.fromhex(vector["e"])
    assert sm2.verify_digest(public, e, r, s) is vector["valid"]
    try:
        openssl.verify_digest(sm2.encode_point(public), e, sm2.signature_to_der(r, s))
        accepted = True
    except Refused:
        accepted = False
    assert accepted is vector["valid"]


def test_the_edges_are_what_their_names_say() -> None:
    """Each forgery fits the bare equation: only the check that it is named for stands in its way."""
    rows = {row["name"]: {k: number(row[k]) for k in ("px", "py", "e", "r", "s")} for row in EDGES["verify_digest"]}
    universal, curve = rows["t_zero_universal"], sm2.SM2
    bare = curve.multiply(universal["s"], curve.g)
    assert bare is not None
    assert (universal["r"] + universal["s"]) % curve.n == 0
    assert (universal["e"] + bare[0]) % curve.n == universal["r"]
    infinite = rows["q_infinity"]
    public = (infinite["px"], infinite["py"])
    t = infinite["r"] + infinite["s"]
    assert curve.add(curve.multiply(infinite["s"], curve.g), curve.multiply(t, public)) is None
    double = rows["sG_eq_tP"]
    public = (double["px"], double["py"])
    assert curve.multiply(double["s"], curve.g) == curve.multiply(double["r"] + double["s"], public)
    for name in ("x_just_past_n", "x_just_below_p"):
        row = rows[name]
        total = curve.add(
            curve.multiply(row["s"], curve.g), curve.multiply(row["r"] + row["s"], (row["px"], row["py"]))
        )
        assert total is not None
        assert curve.n <= total[0] < curve.p


@given(st.integers(1, sm2.SM2.n - 2), st.integers(1, sm2.SM2.n - 1), st.binary(max_size=80))
@settings(max_examples=15, deadline=None)
def test_signatures_satisfy_tongsuo(d: int, k: int, message: bytes) -> None:
    public = sm2.public_key(d)
    r, s = sm2.sign_digest(d, sm2.digest(public, message), k)
    peers.tongsuo_verify(sm2.encode_point(public), message, sm2.signature_to_der(r, s))


@pytest.mark.parametrize("d", [5, sm2.SM2.n - 2])
def test_a_nonce_that_gives_no_signature_is_refused(d: int) -> None:
    """A5: r=0 and r+k=n; A6: s=0. The digest is chosen so that the nonce meets each."""
    nonce = 12345
    point = sm2.SM2.multiply(nonce, sm2.SM2.g)
    assert point is not None
    n, x1 = sm2.SM2.n, point[0]
    for r in (0, n - nonce, nonce * pow(d, -1, n) % n):
        e = (r - x1) % n
        with pytest.raises(sm2.Invalid, match="no signature"):
            sm2.sign_digest(d, e.to_bytes(32, "big"), nonce)


def test_keys_out_of_range() -> None:
    for d in (0, sm2.SM2.n - 1, sm2.SM2.n, -1):
        with pytest.raises(sm2.Invalid):
            sm2.public_key(d)


def test_a_real_authority() -> None:
    """A certificate of the national root over a public authority verifies under the default ID only."""
    (vector,) = KNOWN["sm2_real_ca"]
    public = sm2.decode_point(b"\x04" + bytes.fromhex(vector["issuer_pub"]))
    parts = der.split(bytes.fromhex(vector["cert_der"]))
    r, s = sm2.signature_from_der(parts.signature)
    assert sm2.z_value(public).hex() == vector["z"]
    assert sm2.digest(public, parts.tbs).hex() == vector["e"]
    assert sm2.verify_digest(public, sm2.digest(public, parts.tbs), r, s)
    assert not sm2.verify_digest(public, sm2.digest(public, parts.tbs, b""), r, s)


# ---- points


@given(st.integers(1, sm2.SM2.n - 2))
@settings(max_examples=20, deadline=None)
def test_points_survive_encoding(d: int) -> None:
    point = sm2.public_key(d)
    assert sm2.decode_point(sm2.encode_point(point)) == point
    assert sm2.decode_point(bytes([2 + point[1] % 2]) + point[0].to_bytes(32, "big")) == point


def test_bad_points() -> None:
    good = sm2.encode_point(sm2.SM2.g)
    moved = good[:-1] + bytes([good[-1] ^ 1])
    past = b"\x04" + sm2.SM2.p.to_bytes(32, "big") + good[33:]
    for bad in (
        b"",
        b"\x00",
        moved,
        past,
        good[:-1],
        good + b"\x00",
        b"\x06" + good[1:],
        b"\x04" + bytes(64),
    ):
        with pytest.raises(sm2.Invalid):
            sm2.decode_point(bad)


# ---- encryption


def test_the_standards_ciphertext() -> None:
    (vector,) = KNOWN["sm2_encrypt"]
    d, k = number(vector["d"]), number(vector["k"])
    cipher = sm2.encrypt(sm2.public_key(d), vector["msg_ascii"].encode(), k)
    assert cipher.raw().hex() == vector["c1c3c2"]
    assert cipher.der().hex() == vector["der"]
    assert sm2.cipher_from_raw(cipher.raw()) == sm2.cipher_from_der(cipher.der()) == cipher


@named(KNOWN["sm2_decrypt_edge"] + EDGES["decrypt"])
def test_decryption_edges(vector: dict[str, Any]) -> None:
    d, der_bytes = number(vector["d"]), bytes.fromhex(vector["cipher_der"])
    if vector["valid"]:
        assert sm2.decrypt(d, sm2.cipher_from_der(der_bytes)).hex() == vector["plaintext"]
    else:
        with pytest.raises(sm2.Invalid):
            sm2.decrypt(d, sm2.cipher_from_der(der_bytes))


@named([v for v in EDGES["decrypt"] if v["valid"]])
def test_openssl_opens_the_constructed_ciphertexts(vector: dict[str, Any]) -> None:
    public = sm2.encode_point(sm2.public_key(number(vector["d"])))
    opened = openssl.decrypt(bytes.fromhex(vector["d"]), public, bytes.fromhex(vector["cipher_der"]))
    assert opened.hex() == vector["plaintext"]


# ---- key exchange


@named(KNOWN["sm2_key_exchange"])
def test_the_standards_key_exchange(vector: dict[str, Any]) -> None:
    curve = sm2.SM2 if "pa" in vector else curve_of(KNOWN["sm2_sign"][1])
    da, db, ra, rb = (number(vector[name]) for name in ("da", "db", "ra", "rb"))
    points = [curve.multiply(k, curve.g) for k in (da, ra, db, rb)]
    a = (vector["id_a_ascii"].encode(), points[0], points[1])
    b = (vector["id_b_ascii"].encode(), points[2], points[3])
    expected = tuple(vector[name] for name in ("k", "s1_sb_tag02", "s2_sa_tag03"))
    for initiator, responder in (
        (sm2.Party(*a, d=da, r=ra), sm2.Party(*b)),
        (sm2.Party(*a), sm2.Party(*b, d=db, r=rb)),
    ):
        found = sm2.exchange(initiator, responder, 16, curve)
        assert (found.key.hex(), found.s_b.hex(), found.s_a.hex()) == expected


# ---- encodings


@given(st.integers(0, 2**256 - 1), st.integers(0, 2**256 - 1))
def test_signatures_survive_der(r: int, s: int) -> None:
    assert sm2.signature_from_der(sm2.signature_to_der(r, s)) == (r, s)


@given(st.binary(max_size=90))
def test_garbage_is_invalid_or_canonical(data: bytes) -> None:
    try:
        r, s = sm2.signature_from_der(data)
    except sm2.Invalid:
        return
    assert sm2.signature_to_der(r, s) == data


def test_the_edge_vectors_are_the_generators() -> None:
    """The committed file is what its generator writes, byte for byte."""
    assert generate_edges.TARGET.read_text() == generate_edges.generate()
