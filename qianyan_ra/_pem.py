"""Private keys in files: PKCS#8 (RFC 5208) with an SM2 key (SEC 1), plain or under a passphrase (PBES2, RFC 8018).

Read: SM4-CBC or AES-CBC under a key from scrypt or PBKDF2 (HMAC with SM3, SHA-256 or SHA-1), as OpenSSL, GmSSL and
qianyan write them, and plain SEC 1 ("EC PRIVATE KEY"). Written: SM4-CBC under scrypt. The bounds keep a file from
costing more than a person's patience. What is secret is in bytearrays that are wiped here.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Final, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from qianyan_ra import _der as der
from qianyan_ra import _oids as oids
from qianyan_ra._errors import BadMessage, KeyTrouble

_BLOCK: Final = 16
#: As much memory as `openssl pkey` grants a file (32 MiB).
_SCRYPT_N: Final = 1 << 14
_SCRYPT_WORK_MAX: Final = 1 << 26
_SCRYPT_MEMORY_MAX: Final = 1 << 28
_ITERATIONS_MAX: Final = 10_000_000
_MAX_PEM: Final = 1 << 16
_BLOCKS: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_HASHES: Final[Mapping[bytes, Callable[[], hashes.HashAlgorithm]]] = {
    oids.HMAC_SM3: hashes.SM3,
    oids.HMAC_SHA256: hashes.SHA256,
    oids.HMAC_SHA1: hashes.SHA1,
}


def wipe(secret: bytearray) -> None:
    """Overwrites with zeros, in place."""
    secret[:] = bytes(len(secret))


def _as_bytes(buffer: bytearray) -> bytes:
    """The same object, for signatures that say `bytes` and take any buffer."""
    return cast(bytes, buffer)


def blocks(text: bytes) -> list[tuple[str, bytes]]:
    """The PEM blocks of a text as (label, contents). Raises BadMessage (code "pem")."""
    if len(text) > _MAX_PEM:
        raise BadMessage(f"a PEM text has at most {_MAX_PEM} bytes", code="pem")
    try:
        return [
            (found[1].decode(), base64.b64decode(b"".join(found[2].split()), validate=True))
            for found in _BLOCKS.finditer(text)
        ]
    except binascii.Error as error:
        raise BadMessage("a PEM block is not base64", code="pem") from error


def write(label: str, contents: bytes) -> bytes:
    """One PEM block."""
    encoded = base64.b64encode(contents)
    lines = [encoded[i : i + 64] for i in range(0, len(encoded), 64)]
    return b"\n".join((f"-----BEGIN {label}-----".encode(), *lines, f"-----END {label}-----".encode(), b""))


def read_scalar(text: bytes, passphrase: bytes | None) -> bytearray:
    """The 32 octets of the SM2 key in a PEM text; the caller wipes them. Raises KeyTrouble or BadMessage."""
    found = dict(blocks(text))
    if "ENCRYPTED PRIVATE KEY" in found:
        if not passphrase:
            raise KeyTrouble("the key file is under a passphrase", code="passphrase_missing")
        plain = _decrypt(found["ENCRYPTED PRIVATE KEY"], passphrase)
        try:
            return _pkcs8(bytes(plain))
        except BadMessage as error:
            raise KeyTrouble("the passphrase is wrong, or the key file is damaged", code="passphrase") from error
        finally:
            wipe(plain)
    if "PRIVATE KEY" in found:
        return _pkcs8(found["PRIVATE KEY"])
    if "EC PRIVATE KEY" in found:
        return _sec1(found["EC PRIVATE KEY"], named=True)
    raise BadMessage("there is no private key in it (PKCS#8 or SEC 1, PEM)", code="key_file")


def _pkcs8(encoded: bytes) -> bytearray:
    """PrivateKeyInfo (RFC 5208 §5)."""
    whole = der.Reader(encoded)
    body = whole.enter(der.SEQUENCE)
    whole.finish()
    if body.integer() > 1:
        raise BadMessage("the version of the key file is not known", code="key_file")
    if body.take_tlv(der.SEQUENCE) != oids.SPKI_ALGORITHM:
        raise KeyTrouble("the key is not an SM2 key (curve 1.2.156.10197.1.301)", code="key_kind")
    return _sec1(body.take(der.OCTET_STRING), named=False)


def _sec1(encoded: bytes, *, named: bool) -> bytearray:
    """ECPrivateKey (RFC 5915 §3); `named`: the curve must be named in it."""
    whole = der.Reader(encoded)
    body = whole.enter(der.SEQUENCE)
    whole.finish()
    if body.integer() != 1:
        raise BadMessage("the version of the private key is not 1", code="key_file")
    scalar = bytearray(body.take(der.OCTET_STRING))
    curve = body.enter(der.CONTEXT_0).take_tlv(der.OBJECT_IDENTIFIER) if body.peek() == der.CONTEXT_0 else None
    if len(scalar) != 32 or (curve != oids.SM2_CURVE and (named or curve is not None)):
        wipe(scalar)
        raise KeyTrouble("the key is not an SM2 key (curve 1.2.156.10197.1.301)", code="key_kind")
    return scalar


def write_key(scalar: bytearray, public_key: bytes, passphrase: bytes | None) -> bytes:
    """The key as PKCS#8 PEM, under `passphrase` where there is one."""
    key = der.sequence(
        der.integer(1), der.octet_string(bytes(scalar)), der.tlv(der.CONTEXT_1, der.bit_string(public_key))
    )
    plain = bytearray(der.sequence(der.integer(0), oids.SPKI_ALGORITHM, der.octet_string(key)))
    try:
        if passphrase is None:
            return write("PRIVATE KEY", bytes(plain))
        return write("ENCRYPTED PRIVATE KEY", _encrypt(plain, passphrase))
    finally:
        wipe(plain)


def _encrypt(plain: bytearray, passphrase: bytes) -> bytes:
    salt, iv = secrets.token_bytes(16), secrets.token_bytes(_BLOCK)
    key = bytearray(_BLOCK)
    fill = _BLOCK - len(plain) % _BLOCK
    padded = plain + bytes((fill,)) * fill
    try:
        Scrypt(salt=salt, length=_BLOCK, n=_SCRYPT_N, r=8, p=1).derive_into(passphrase, key)
        cipher = Cipher(algorithms.SM4(_as_bytes(key)), modes.CBC(iv)).encryptor()
        sealed = cipher.update(_as_bytes(padded)) + cipher.finalize()
    finally:
        wipe(key)
        wipe(padded)
    costs = der.sequence(der.octet_string(salt), der.integer(_SCRYPT_N), der.integer(8), der.integer(1))
    scheme = der.sequence(oids.SM4_CBC, der.octet_string(iv))
    parameters = der.sequence(der.sequence(oids.SCRYPT, costs), scheme)
    return der.sequence(der.sequence(oids.PBES2, parameters), der.octet_string(sealed))


def _decrypt(encoded: bytes, passphrase: bytes) -> bytearray:
    """EncryptedPrivateKeyInfo (RFC 5208 §6) opened; the caller wipes what comes out. Raises KeyTrouble, BadMessage."""
    whole = der.Reader(encoded)
    body = whole.enter(der.SEQUENCE)
    whole.finish()
    algorithm = body.enter(der.SEQUENCE)
    sealed = body.take(der.OCTET_STRING)
    if algorithm.take_tlv(der.OBJECT_IDENTIFIER) != oids.PBES2:
        raise BadMessage("the key file's encryption is not PBES2: write it anew by `openssl pkcs8`", code="pbes2")
    parameters = algorithm.enter(der.SEQUENCE)
    derivation, scheme = parameters.enter(der.SEQUENCE), parameters.enter(der.SEQUENCE)
    cipher = scheme.take_tlv(der.OBJECT_IDENTIFIER)
    iv = scheme.take(der.OCTET_STRING)
    size = _BLOCK if cipher == oids.SM4_CBC else oids.AES_CBC.get(cipher)
    if size is None or len(iv) != _BLOCK or not sealed or len(sealed) % _BLOCK:
        raise BadMessage("the key file's cipher is neither SM4-CBC nor AES-CBC", code="pbes2")
    key = _derive(derivation, passphrase, size)
    out = bytearray(len(sealed) + _BLOCK - 1)
    try:
        block = algorithms.SM4(_as_bytes(key)) if cipher == oids.SM4_CBC else algorithms.AES(_as_bytes(key))
        length = Cipher(block, modes.CBC(iv)).decryptor().update_into(sealed, out)
    finally:
        wipe(key)
    fill = out[length - 1]
    if not 1 <= fill <= _BLOCK or out[length - fill : length] != bytes((fill,)) * fill:
        wipe(out)
        raise KeyTrouble("the passphrase is wrong, or the key file is damaged", code="passphrase")
    plain = out[: length - fill]
    wipe(out)
    return plain


def _derive(derivation: der.Reader, passphrase: bytes, size: int) -> bytearray:
    kind = derivation.take_tlv(der.OBJECT_IDENTIFIER)
    body = derivation.enter(der.SEQUENCE)
    salt = body.take(der.OCTET_STRING)
    key = bytearray(size)
    if kind == oids.SCRYPT:
        n, r, p = body.integer(), body.integer(), body.integer()
        if body and body.integer() != size:
            raise BadMessage("the key file's derived key has another length than its cipher", code="pbes2")
        if n < 2 or n & (n - 1) or not r or not p or 128 * n * r > _SCRYPT_MEMORY_MAX or n * r * p > _SCRYPT_WORK_MAX:
            raise BadMessage("the key file's scrypt costs are out of bounds", code="pbes2")
        Scrypt(salt=salt, length=size, n=n, r=r, p=p).derive_into(passphrase, key)
        return key
    if kind != oids.PBKDF2:
        raise BadMessage("the key file's derivation is neither scrypt nor PBKDF2", code="pbes2")
    iterations = body.integer()
    if body.peek() == der.INTEGER and body.integer() != size:
        raise BadMessage("the key file's derived key has another length than its cipher", code="pbes2")
    function = body.enter(der.SEQUENCE).take_tlv(der.OBJECT_IDENTIFIER) if body else oids.HMAC_SHA1
    chosen = _HASHES.get(function)
    if chosen is None or not 1 <= iterations <= _ITERATIONS_MAX:
        raise BadMessage("the key file's PBKDF2 is out of bounds", code="pbes2")
    PBKDF2HMAC(chosen(), size, salt, iterations).derive_into(passphrase, key)
    return key
