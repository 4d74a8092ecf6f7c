"""Key files: what OpenSSL makes of them, what is refused and how that is said, escrow."""

from __future__ import annotations

import base64
import itertools
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import oids
from core.asn1 import der
from core.errors import Conflict, Malformed, QianyanError, Refused, SettingsError
from signer._native import sm2
from signer.engine import keyinfo, pbes2
from signer.engine.keystore import KeyStore
from signer.engine.settings import KeyStoreSettings
from tests.engine_world import FAST, PASSPHRASE, key_store


def openssl(*arguments: str | Path) -> bytes:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def flip(path: Path, at: int) -> None:
    """Changes one octet of the DER inside the PEM file."""
    text = path.read_text().splitlines()
    octets = bytearray(base64.b64decode("".join(text[1:-1])))
    octets[at] ^= 1
    path.write_text("\n".join([text[0], base64.b64encode(octets).decode(), text[-1], ""]))


def test_what_is_created_is_loaded_again(tmp_path: Path) -> None:
    made = key_store(tmp_path).create("application-1")
    path = tmp_path / "keys" / "application-1.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / "keys") == ["application-1.pem"]
    loaded = key_store(tmp_path).load("application-1")
    assert loaded.public_key == made.public_key
    made.public_key.verify(b"message", loaded.sign(b"message"))


def test_openssl_opens_a_file_of_the_default_settings(tmp_path: Path) -> None:
    made = key_store(tmp_path, settings=KeyStoreSettings()).create("k")
    path = tmp_path / "keys" / "k.pem"
    public = openssl("pkey", "-in", path, "-passin", "pass:" + PASSPHRASE.decode(), "-pubout", "-outform", "DER")
    assert public[-65:] == made.public_key.to_bytes()
    # What openssl signs with the file verifies here: the private key is the same, too.
    message = tmp_path / "message"
    message.write_bytes(b"signed by openssl")
    signature = openssl(
        "pkeyutl", "-sign", "-rawin", "-digest", "sm3", "-inkey", path, "-passin", "pass:" + PASSPHRASE.decode(),
        "-in", message, "-pkeyopt", "distid:1234567812345678",
    )  # fmt: skip
    made.public_key.verify(b"signed by openssl", sm2.signature_from_der(signature))


def test_the_parts_of_a_file_are_the_standard_ones(tmp_path: Path) -> None:
    key_store(tmp_path, settings=KeyStoreSettings()).create("k")
    text = openssl("asn1parse", "-in", tmp_path / "keys" / "k.pem").decode()
    for part in ("PBES2", "scrypt", "sm4-cbc", "INTEGER           :4000", "INTEGER           :05"):
        assert part in text


@pytest.mark.parametrize("with_parameters", [True, False])
def test_a_key_that_openssl_made_and_encrypted_is_loaded(tmp_path: Path, with_parameters: bool) -> None:
    plain, path = tmp_path / "plain.pem", tmp_path / "keys" / "foreign.pem"
    store = key_store(tmp_path)
    openssl("genpkey", "-algorithm", "SM2", "-out", plain)
    if with_parameters:
        inner = openssl("ec", "-in", plain, "-outform", "DER")
        info = der.sequence(
            der.integer(0),
            der.sequence(der.oid(oids.EC_PUBLIC_KEY), der.oid(oids.SM2_CURVE)),
            der.octet_string(inner),
        )
        plain.write_bytes(info)
        form = ("-inform", "DER")
    else:
        form = ("-inform", "PEM")
    openssl(
        "pkcs8", "-topk8", *form, "-in", plain, "-scrypt", "-v2", "sm4-cbc",
        "-passout", "pass:" + PASSPHRASE.decode(), "-out", path,
    )  # fmt: skip
    path.chmod(0o600)
    public = openssl("pkey", *form, "-in", plain, "-pubout", "-outform", "DER")[-65:]
    assert store.load("foreign").public_key.to_bytes() == public


def test_pbkdf2_with_hmac_sm3(tmp_path: Path) -> None:
    settings = KeyStoreSettings(kdf="pbkdf2-hmac-sm3", pbkdf2_iterations=10_000)
    made = key_store(tmp_path, settings=settings).create("k")
    octets = base64.b64decode("".join((tmp_path / "keys" / "k.pem").read_text().splitlines()[1:-1]))
    assert der.oid(oids.HMAC_SM3) in octets
    # Files say how they are read: the settings of the reader do not matter.
    assert key_store(tmp_path).load("k").public_key == made.public_key
    # The standard library's PBKDF2 (OpenSSL's HMAC with SM3) comes to the same key.
    import hashlib

    encrypted = pbes2.Encrypted.decode(octets)
    expected = hashlib.pbkdf2_hmac("sm3", PASSPHRASE, encrypted.kdf.salt, 10_000, 16)
    assert bytes(encrypted.kdf.derive(bytearray(PASSPHRASE))) == expected


def test_files_of_one_store_share_their_salt_and_nothing_else(tmp_path: Path) -> None:
    store = key_store(tmp_path)
    store.create_master()
    store.create("a")
    key_store(tmp_path).create("b")
    parts = [
        pbes2.Encrypted.decode(base64.b64decode("".join((tmp_path / "keys" / name).read_text().splitlines()[1:-1])))
        for name in ("kmc-master.pem", "a.pem", "b.pem")
    ]
    assert len({part.kdf.salt for part in parts}) == 1
    assert len({part.iv for part in parts}) == 3


def test_a_wrong_passphrase_is_told_apart_from_damage(tmp_path: Path) -> None:
    key_store(tmp_path).create("k")
    text = (tmp_path / "keys" / "k.pem").read_text().splitlines()
    encrypted = pbes2.Encrypted.decode(base64.b64decode("".join(text[1:-1])))
    wrong = (f"wrong {attempt}".encode() for attempt in itertools.count())
    # A plaintext that is random ends in sound padding once in 256: that passphrase is the hard case.
    hard = next(word for word in wrong if pbes2.decrypt(encrypted, pbes2.Passphrase(bytearray(word)))[1])
    for word in (b"wrong", b"", hard):
        with pytest.raises(SettingsError, match="passphrase does not open key 'k'") as caught:
            key_store(tmp_path, word).load("k")
        assert caught.value.code == "passphrase_wrong"


@pytest.mark.parametrize("from_end", [1, 20, 40, 75, 100, 140])
def test_damage_of_the_ciphertext_is_not_called_a_wrong_passphrase(tmp_path: Path, from_end: int) -> None:
    key_store(tmp_path).create("k")
    flip(tmp_path / "keys" / "k.pem", -from_end)
    with pytest.raises(SettingsError, match="is damaged") as caught:
        key_store(tmp_path).load("k")
    assert caught.value.code == "key_unreadable"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=400), in_pem=st.booleans())
def test_garbage_raises_one_kind_of_error(tmp_path: Path, content: bytes, in_pem: bool) -> None:
    store = key_store(tmp_path)
    path = tmp_path / "keys" / "k.pem"
    label = "ENCRYPTED PRIVATE KEY"
    if in_pem:
        content = f"-----BEGIN {label}-----\n{base64.b64encode(content).decode()}\n-----END {label}-----\n".encode()
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError) as caught:
        store.load("k")
    assert caught.value.code == "key_unreadable"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_changed_octet_is_noticed_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "keys" / "k.pem"
    if not path.exists():
        key_store(tmp_path).create("k")
        path.with_suffix(".kept").write_bytes(path.read_bytes())
    path.write_bytes(path.with_suffix(".kept").read_bytes())
    octets = base64.b64decode("".join(path.read_text().splitlines()[1:-1]))
    flip(path, data.draw(st.integers(0, len(octets) - 1)))
    with pytest.raises(SettingsError):
        key_store(tmp_path).load("k")


def test_costs_that_a_file_asks_for_are_bounded() -> None:
    for costs in ((1 << 30, 8, 1), (3, 8, 1), (1 << 14, 1 << 20, 1), (1 << 14, 8, 1 << 20), (0, 8, 1)):
        with pytest.raises(Malformed):
            pbes2.Kdf.decode(pbes2.Kdf("scrypt", bytes(16), costs).encode())
    for iterations in (0, 1 << 40):
        with pytest.raises(Malformed):
            pbes2.Kdf.decode(pbes2.Kdf("pbkdf2-hmac-sm3", bytes(16), (iterations,)).encode())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    key_store(tmp_path).create("k")
    path = tmp_path / "keys" / "k.pem"
    path.chmod(mode)
    with pytest.raises(SettingsError, match=f"chmod 600 {path}") as caught:
        key_store(tmp_path).load("k")
    assert caught.value.code == "key_mode"


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no key file") as caught:
        key_store(tmp_path).load("k")
    assert caught.value.code == "key_missing"


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    store = key_store(tmp_path)
    store.create("k")
    before = (tmp_path / "keys" / "k.pem").read_bytes()
    with pytest.raises(Conflict) as caught:
        store.create("k")
    assert caught.value.code == "key_exists"
    assert (tmp_path / "keys" / "k.pem").read_bytes() == before


@pytest.mark.parametrize("key_id", ["", "../k", "a/b", ".k", "k" * 65, "kmc-master", "k\n", "键"])
def test_an_id_cannot_leave_the_directory(tmp_path: Path, key_id: str) -> None:
    with pytest.raises(Refused) as caught:
        key_store(tmp_path).create(key_id)
    assert caught.value.code == "key_id"


def test_a_private_key_beside_another_public_key_is_damage(tmp_path: Path) -> None:
    plain = keyinfo.encode(sm2.PrivateKey.generate())
    plain[-65:] = sm2.PrivateKey.generate().public_key.to_bytes()
    with pytest.raises(Malformed, match="does not belong"):
        keyinfo.decode(plain)


def test_escrow_returns_the_same_key_and_notices_every_change(tmp_path: Path) -> None:
    store = key_store(tmp_path)
    store.create_master()
    key = sm2.PrivateKey.generate()
    wrapped = store.wrap(key)
    scalar = bytearray(32)
    key.export_into(scalar)
    assert bytes(scalar) not in wrapped
    again = key_store(tmp_path).unwrap(wrapped)
    assert again.public_key == key.public_key
    assert again.decrypt(key.public_key.encrypt(b"content")) == b"content"
    assert store.wrap(key) != wrapped  # a nonce is used once
    for at in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[at] ^= 1
        with pytest.raises(Malformed) as caught:
            store.unwrap(bytes(changed))
        assert caught.value.code == "wrapped_key"
    for cut in (b"", wrapped[:-1], wrapped + b"\0"):
        with pytest.raises(Malformed):
            store.unwrap(cut)


def test_escrow_needs_the_master_key(tmp_path: Path) -> None:
    store = key_store(tmp_path)
    with pytest.raises(SettingsError) as caught:
        store.wrap(sm2.PrivateKey.generate())
    assert caught.value.code == "key_missing"
    store.create_master()
    with pytest.raises(Conflict):
        store.create_master()
    with pytest.raises(SettingsError) as caught:
        key_store(tmp_path, b"wrong").wrap(sm2.PrivateKey.generate())
    assert caught.value.code == "passphrase_wrong"


def test_closing_wipes_the_passphrase(tmp_path: Path) -> None:
    passphrase = bytearray(PASSPHRASE)
    (tmp_path / "keys").mkdir()
    store = KeyStore(tmp_path / "keys", passphrase, FAST)
    store.create("k")
    derived = list(store._passphrase._derived.values())
    assert derived
    assert all(any(key) for key in derived)
    store.close()
    assert passphrase == bytes(len(PASSPHRASE))
    assert not any(any(key) for key in derived)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "nowhere", bytearray(PASSPHRASE), FAST)
    with pytest.raises(QianyanError, match="nowhere"):
        store.create("k")
