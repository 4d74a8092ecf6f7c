"""Write sm2_edges.json: signatures and ciphertexts at the edges where SM2 implementations go wrong.

Constructed algebraically with tests/reference, with no randomness, so that a second run gives the same bytes
(a test runs it and compares). Run from the repository's root: python -m tests.vectors.generate_edges
"""

import json
from pathlib import Path
from typing import Any

from tests.reference import sm2
from tests.reference.sm2 import SM2, Point
from tests.reference.sm3 import sm3

TARGET = Path(__file__).with_name("sm2_edges.json")
D = 0x3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8
"""The private key of GB/T 32918.5 Annex A."""
N, P = SM2.n, SM2.p
R = int.from_bytes(sm3(b"qianyan edge vectors: r"), "big") % N


def _signature(name: str, public: Point, e: int, r: int, s: int, valid: bool, note: str) -> dict[str, Any]:
    x, y = public or (0, 0)
    numbers = {"px": x, "py": y, "e": e, "r": r, "s": s}
    return {"name": name, **{k: f"{v:064x}" for k, v in numbers.items()}, "valid": valid, "note": note}


def _fit(public: Point, r: int, s: int) -> int:
    """The e that makes (r, s) satisfy the verification equation under this key."""
    found = SM2.add(SM2.multiply(s, SM2.g), SM2.multiply(r + s, public))
    return (r - (found[0] if found else 0)) % N


def _key_reaching(target: Point, r: int, s: int) -> Point:
    """A public key (of nobody) under which sG + tP is the target point."""
    rest = SM2.add(target, SM2.negate(SM2.multiply(s, SM2.g)))
    return SM2.multiply(pow(r + s, -1, N), rest)


def _equation_edges() -> list[dict[str, Any]]:
    """t, and the sum sG + tP, at their special values."""
    public = sm2.public_key(D)
    s_cancel = -R * D * pow(1 + D, -1, N) % N
    s_double = R * D * pow(1 - D, -1, N) % N
    s_minus = N - R
    forged = (R - (SM2.multiply(s_minus, SM2.g) or (0, 0))[0]) % N
    return [
        _signature("t_zero_universal", public, forged, R, s_minus, False, "r+s=n: fits every key without B5"),
        _signature("t_zero_one", public, _fit(public, N - 1, 1), N - 1, 1, False, "r=n-1, s=1: t=0"),
        _signature("q_infinity", public, R, R, s_cancel, False, "sG+tP infinite; fits if its x reads 0"),
        _signature("sG_eq_tP", public, _fit(public, R, s_double), R, s_double, True, "the sum is a doubling"),
        _signature("t_one", public, _fit(public, N - 1, 2), N - 1, 2, True, "r=n-1, s=2: t=1"),
        _signature("t_minus_one", public, _fit(public, N - 2, 1), N - 2, 1, True, "t=n-1: tP=-P"),
        _signature("s_minus_one", public, _fit(public, R, N - 1), R, N - 1, True, "s=n-1: sG=-G"),
    ]


def _lift_near(x: int, step: int) -> Point:
    """The first point whose x is this one or lies past it in steps."""
    while True:
        try:
            return SM2.lift_x(x)
        except sm2.Invalid:
            x += step


def _coordinate_edges() -> list[dict[str, Any]]:
    """The x of the sum at the ends of the field: zero, and between n and p."""
    s = 0x123456789ABCDEF
    at_zero = _key_reaching(SM2.lift_x(0), R, s)
    low, high = _lift_near(N, 1), _lift_near(P - 1, -1)
    low_key, high_key = _key_reaching(low, R, s), _key_reaching(high, R, s)
    return [
        _signature("x_zero", at_zero, R, R, s, True, "sG+tP = (0, y): a finite point, e=r"),
        _signature("x_just_past_n", low_key, _fit(low_key, R, s), R, s, True, "x in [n, p): reduce it"),
        _signature("x_just_below_p", high_key, _fit(high_key, R, s), R, s, True, "x near p: reduce it"),
    ]


def _range_edges() -> list[dict[str, Any]]:
    """r, s and e past n while still 32 bytes."""
    public = sm2.public_key(D)
    fits = _fit(public, R, 5)
    r_small = _fit(public, 7, R)
    carry = (1 << 256) - N
    return [
        _signature("s_plus_n", public, fits, R, 5 + N, False, "s=5 valid, s+n the same mod n"),
        _signature("s_small", public, fits, R, 5, True, "the signature s_plus_n is made of"),
        _signature("r_plus_n_small", public, r_small, 7 + N, R, False, "r=7 valid, r+n the same mod n"),
        _signature("r_small", public, r_small, 7, R, True, "the signature r_plus_n_small is made of"),
        _signature("r_zero_fits", public, _fit(public, 0, 5), 0, 5, False, "r=0, and the equation holds"),
        _signature("s_zero_fits", public, _fit(public, R, 0), R, 0, False, "s=0, and the equation holds"),
        _signature("r_eq_n_fits", public, _fit(public, 0, 5), N, 5, False, "r=n, and the equation holds mod n"),
        _signature("s_eq_n_fits", public, _fit(public, R, 0), R, N, False, "s=n, and the equation holds mod n"),
        _signature("rs_all_ones", public, fits, 2**256 - 1, 2**256 - 1, False, "both 2^256-1"),
        _signature("e_eq_n", public, *_with_digest(N), True, "e=n is 0 mod n"),
        _signature("e_n_minus_1", public, *_with_digest(N - 1), True, "e=n-1"),
        _signature("e_n_plus_1", public, *_with_digest(N + 1), True, "e=n+1"),
        _signature("e_wraps", public, *_with_digest(N + carry - 1), True, "e=2^256-1: e+x overflows 256 bits"),
    ]


def _with_digest(e: int) -> tuple[int, int, int]:
    r, s = sm2.sign_digest(D, e.to_bytes(32, "big"), R)
    return e, r, s


def _key_edges() -> list[dict[str, Any]]:
    """Keys whose tables of multiples meet the base point's."""
    rows = []
    for name, d in (("2", 2), ("3", 3), ("n_minus_2", N - 2), ("n_minus_3", N - 3), ("half", (N + 1) // 2)):
        public = sm2.public_key(d)
        for s in (1, 2, 3):
            e = _fit(public, R, s)
            rows.append(_signature(f"d_{name}_s_{s}", public, e, R, s, True, f"private key {name}, s={s}"))
    return rows


def _first_k(wanted: str) -> tuple[int, Point, Point]:
    """The first k with a leading zero byte in the coordinate asked for, or in the key stream ("t")."""
    public = sm2.public_key(D)
    c1: Point = None
    shared: Point = None
    for k in range(1, 5000):
        c1, shared = SM2.add(c1, SM2.g), SM2.add(shared, public)
        assert c1 is not None
        assert shared is not None
        looks = {
            "y1": c1[1] >> 248 == 0,
            "x2": shared[0] >> 248 == 0,
            "y2": shared[1] >> 248 == 0,
            "t": sm2.kdf(shared[0].to_bytes(32, "big") + shared[1].to_bytes(32, "big"), 1) == b"\x00",
        }
        if looks[wanted]:
            return k, c1, shared
    raise AssertionError(wanted)


def _cipher(name: str, der: bytes, plaintext: bytes | None, note: str) -> dict[str, Any]:
    shown = None if plaintext is None else plaintext.hex()
    return {
        "name": name,
        "d": f"{D:064x}",
        "cipher_der": der.hex(),
        "plaintext": shown,
        "valid": plaintext is not None,
        "note": note,
    }


def _ciphers() -> list[dict[str, Any]]:
    text = b"edge"
    rows = []
    for wanted in ("y1", "x2", "y2"):
        k, c1, shared = _first_k(wanted)
        rows.append(_cipher(f"short_{wanted}", sm2.seal(shared, c1, text).der(), text, f"k={k}: {wanted} < 2^248"))
    k, c1, shared = _first_k("t")
    assert c1 is not None
    assert shared is not None
    x2, y2 = (v.to_bytes(32, "big") for v in shared)
    zero = sm2.Cipher(*c1, sm3(x2 + b"\x5a" + y2), b"\x5a")
    rows.append(_cipher("kdf_all_zero", zero.der(), None, f"k={k}: the one byte of key stream is zero (B4)"))
    longer = sm2.seal(shared, c1, b"ab")
    rows.append(_cipher("kdf_first_zero", longer.der(), b"ab", "the same k, two bytes: not all zero"))
    empty = sm2.Cipher(*c1, sm3(x2 + y2), b"")
    rows.append(_cipher("empty", empty.der(), None, "no text: the key stream of no bytes is all zero"))
    return rows + _broken_ciphers(text)


def _broken_ciphers(text: bytes) -> list[dict[str, Any]]:
    good = sm2.encrypt(sm2.public_key(D), text, 0x1234567)
    low = _lift_near(1, 1)
    assert low
    small = sm2.seal(SM2.multiply(D, low), low, text)
    foreign = (1, 2)  # on y^2 = x^3 + ax + b for another b, which the formulas never look at
    trap = sm2.seal(SM2.multiply(D, foreign), foreign, text)
    integers = (sm2.der_integer(good.x), sm2.der_integer(good.y))
    c3, c2 = sm2.der_octets(good.c3), sm2.der_octets(good.c2)
    padded = sm2.der_octets(good.c3)[2:]
    return [
        _cipher("small_x", small.der(), text, f"C1 has x={low[0]}"),
        _cipher("x_plus_p_32", sm2.Cipher(small.x + P, *_tail(small)).der(), None, "x+p still 32 bytes: not < p"),
        _cipher("x_plus_p_33", sm2.Cipher(good.x + P, *_tail(good)).der(), None, "x+p needs 33 bytes"),
        _cipher("y_plus_p", sm2.Cipher(good.x, good.y + P, good.c3, good.c2).der(), None, "y+p"),
        _cipher("y_negated", sm2.Cipher(good.x, P - good.y, good.c3, good.c2).der(), None, "-C1: C3 must differ"),
        _cipher("c1_other_curve", trap.der(), None, "C1 on another curve, C3 fitting: the invalid-curve attack"),
        _cipher("c1_zero", sm2.Cipher(0, 0, good.c3, good.c2).der(), None, "(0, 0) is not on the curve"),
        _cipher("c2_longer", sm2.Cipher(*_head(good), good.c2 + b"\x00").der(), None, "one byte more"),
        _cipher("c2_shorter", sm2.Cipher(*_head(good), good.c2[:-1]).der(), None, "one byte less"),
        _cipher("order_c1c2c3", sm2.der_sequence(*integers, c2, c3), None, "C2 before C3"),
        _cipher("hash_31", sm2.der_sequence(*integers, sm2.der_octets(good.c3[1:]), c2), None, "C3 of 31 bytes"),
        _cipher(
            "hash_33",
            sm2.der_sequence(*integers, sm2.der_octets(good.c3 + b"\0"), c2),
            None,
            "C3 of 33 bytes",
        ),
        _cipher("trailing", good.der() + b"\x00", None, "a byte after the SEQUENCE"),
        _cipher("inside", sm2.der_sequence(*integers, c3, c2, b"\x05\x00"), None, "a fifth part"),
        _cipher("missing_c2", sm2.der_sequence(*integers, c3), None, "three parts"),
        _cipher(
            "long_length",
            sm2.der_sequence(*integers, b"\x04\x81\x20" + padded, c2),
            None,
            "length 32 as 81 20",
        ),
        _cipher("indefinite", b"\x30\x80" + good.der()[2:] + b"\x00\x00", None, "indefinite length"),
    ]


def _head(cipher: sm2.Cipher) -> tuple[int, int, bytes]:
    return cipher.x, cipher.y, cipher.c3


def _tail(cipher: sm2.Cipher) -> tuple[int, bytes, bytes]:
    return cipher.y, cipher.c3, cipher.c2


def generate() -> str:
    """The file's text."""
    content = {
        "note": "made by generate_edges.py from tests/reference; hex, big endian",
        "verify_digest": _equation_edges() + _coordinate_edges() + _range_edges() + _key_edges(),
        "decrypt": _ciphers(),
    }
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(generate())
