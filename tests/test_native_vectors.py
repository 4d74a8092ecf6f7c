"""The native SM2 against the known answers: the standards' examples and every edge vector, alone and in batches."""

from typing import Any

import pytest

from signer._native import sm2
from tests import vectors
from tests.judges import der
from tests.reference.sm3 import sm3

KNOWN = vectors.load("sm2")
EDGES = vectors.load("sm2_edges")
DIGEST_LEVEL = [v for v in KNOWN["sm2_verify_edge_digest_level"]["vectors"] if not v.get("der_only")]
DER_ONLY = [v for v in KNOWN["sm2_verify_edge_digest_level"]["vectors"] if v.get("der_only")]
BAD_KEYS = {"pub_neg_G", "pub_off_curve", "pub_zero"}
VERIFY = [v for v in DIGEST_LEVEL if v["name"] not in BAD_KEYS] + EDGES["verify_digest"]
DECRYPT = KNOWN["sm2_decrypt_edge"] + EDGES["decrypt"]
STANDARD = KNOWN["sm2_sign"][0]


def named(rows: list[dict[str, Any]]) -> pytest.MarkDecorator:
    """Parametrize over vectors by name."""
    return pytest.mark.parametrize("vector", rows, ids=[row["name"] for row in rows])


def point(vector: dict[str, Any]) -> bytes:
    return b"\x04" + bytes.fromhex(vector["px"] + vector["py"])


def signature(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["r"] + vector["s"])


def test_the_standards_signature_verifies() -> None:
    """GB/T 32918.5 Annex A, from message to verdict, with Z and e on the way."""
    private = sm2.PrivateKey.from_bytes(bytes.fromhex(STANDARD["d"]))
    public = private.public_key
    assert public.to_bytes() == point(STANDARD)
    message = STANDARD["msg_ascii"].encode()
    assert public.digest(message).hex() == STANDARD["e"]
    assert sm2.DEFAULT_ID == b"1234567812345678"
    public.verify(message, signature(STANDARD))
    assert sm2.signature_to_der(signature(STANDARD)).hex() == STANDARD["sig_der"]
    assert sm2.signature_from_der(bytes.fromhex(STANDARD["sig_der"])) == signature(STANDARD)
    for user_id in (b"1234567812345679", b""):
        with pytest.raises(sm2.InvalidSignature):
            public.verify(message, signature(STANDARD), user_id=user_id)


@named(VERIFY)
def test_verification_edges(vector: dict[str, Any]) -> None:
    public = sm2.PublicKey.from_bytes(point(vector))
    e = bytes.fromhex(vector["e"])
    assert sm2.verify_many(public, e, signature(vector)) == bytes([vector["valid"]])
    if vector["valid"]:
        public.verify_digest(e, signature(vector))
    else:
        with pytest.raises(sm2.InvalidSignature):
            public.verify_digest(e, signature(vector))


@pytest.mark.parametrize("shift", range(4))
def test_verification_edges_in_one_batch(shift: int) -> None:
    """Every edge beside every other one, each in a different lane each time: no lane may move its neighbour."""
    rows = (VERIFY * 2)[shift : shift + len(VERIFY)]
    found = sm2.verify_many(
        [sm2.PublicKey.from_bytes(point(row)) for row in rows],
        b"".join(bytes.fromhex(row["e"]) for row in rows),
        b"".join(map(signature, rows)),
    )
    wrong = [row["name"] for row, verdict in zip(rows, found, strict=True) if bool(verdict) is not row["valid"]]
    assert wrong == []
    assert len(found) == len(rows)


@named([v for v in DIGEST_LEVEL if v["name"] in BAD_KEYS])
def test_keys_that_must_not_come_in(vector: dict[str, Any]) -> None:
    with pytest.raises(sm2.InvalidKey):
        sm2.PublicKey.from_bytes(point(vector))


@named(DER_ONLY)
def test_signature_encodings_that_are_not_der(vector: dict[str, Any]) -> None:
    with pytest.raises(sm2.InvalidEncoding):
        sm2.signature_from_der(bytes.fromhex(vector["sig_der"]))


@named([v for v in DIGEST_LEVEL if v["name"] not in BAD_KEYS])
def test_signature_encodings(vector: dict[str, Any]) -> None:
    """DER reads back as r and s; where a number is out of range, refusing to read it is right too."""
    encoded = bytes.fromhex(vector["sig_der"])
    n = int(KNOWN["curve"]["n"], 16)
    in_range = all(1 <= int(vector[name], 16) < n for name in ("r", "s"))
    try:
        found = sm2.signature_from_der(encoded)
    except sm2.InvalidEncoding:
        assert not in_range
        return
    assert found == signature(vector)
    if in_range:
        assert sm2.signature_to_der(found) == encoded


@named(DECRYPT)
def test_decryption_edges(vector: dict[str, Any]) -> None:
    private = sm2.PrivateKey.from_bytes(bytes.fromhex(vector["d"]))
    sealed = bytes.fromhex(vector["cipher_der"])
    if vector["valid"]:
        assert private.decrypt(sealed, encoding="der").hex() == vector["plaintext"]
    else:
        with pytest.raises((sm2.DecryptionError, sm2.InvalidEncoding)):
            private.decrypt(sealed, encoding="der")


def test_the_standards_ciphertext() -> None:
    (vector,) = KNOWN["sm2_encrypt"]
    private = sm2.PrivateKey.from_bytes(bytes.fromhex(vector["d"]))
    for name in ("der", "c1c3c2"):
        assert private.decrypt(bytes.fromhex(vector[name]), encoding=name) == vector["msg_ascii"].encode()


def test_identities_of_the_key_exchange() -> None:
    """GB/T 32918.5 Annex B prints both sides' Z; the digest of no message is SM3 over it."""
    vector = KNOWN["sm2_key_exchange"][0]
    for side in "ab":
        private = sm2.PrivateKey.from_bytes(bytes.fromhex(vector[f"d{side}"]))
        assert private.public_key.to_bytes()[1:].hex() == vector[f"p{side}"]
        found = private.public_key.digest(b"", user_id=vector[f"id_{side}_ascii"].encode())
        assert found == sm3(bytes.fromhex(vector[f"z{side}"]))


def test_a_real_authority() -> None:
    """The national root's signature over a public authority's certificate, under the default ID and no other."""
    (vector,) = KNOWN["sm2_real_ca"]
    issuer = sm2.PublicKey.from_bytes(b"\x04" + bytes.fromhex(vector["issuer_pub"]))
    parts = der.split(bytes.fromhex(vector["cert_der"]))
    raw = sm2.signature_from_der(parts.signature)
    assert raw == signature(vector)
    assert issuer.digest(parts.tbs).hex() == vector["e"]
    issuer.verify(parts.tbs, raw)
    with pytest.raises(sm2.InvalidSignature):
        issuer.verify(parts.tbs, raw, user_id=b"")
    with pytest.raises(sm2.InvalidSignature):
        issuer.verify(parts.tbs[:-1] + bytes([parts.tbs[-1] ^ 1]), raw)
