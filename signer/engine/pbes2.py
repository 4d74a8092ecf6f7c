"""PKCS#8 encryption by PBES2 (RFC 8018 §6.2): SM4-CBC under a key from scrypt or PBKDF2-HMAC-SM3.

Owns the keys derived from one passphrase (`Passphrase`), so that files that share a salt cost one derivation. Knows
bytes; not files, and not what the plaintext means. Derived keys and plaintexts live in bytearrays; who receives one
wipes it. What cannot be wiped from here: OpenSSL's own key schedule (it clears it itself when the cipher is freed).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from core import oids
from core.asn1 import der
from core.errors import Malformed
from signer.engine.settings import KeyStoreSettings

_BLOCK: Final = 16
#: Bounds on what a file may make us do: memory for scrypt in bytes, work in block operations, PBKDF2 iterations.
_SCRYPT_MEMORY_MAX: Final = 1 << 28
_SCRYPT_WORK_MAX: Final = 1 << 26
_ITERATIONS_MAX: Final = 10_000_000
#: hmacWithSM3 as it is written, and the form without parameters that some write.
_HMAC_SM3_FORMS: Final = (der.sequence(der.oid(oids.HMAC_SM3), der.null()), der.sequence(der.oid(oids.HMAC_SM3)))


def wipe(secret: bytearray) -> None:
    """Overwrites with zeros, in place."""
    secret[:] = bytes(len(secret))


def as_bytes(buffer: bytearray) -> bytes:
    """The same object, for signatures that say `bytes` and take any buffer; nothing is copied."""
    return cast(bytes, buffer)


@dataclass(frozen=True, slots=True)
class Kdf:
    """A key derivation with its parameters. `costs`: (N, r, p) for scrypt, (iterations,) for PBKDF2."""

    name: str
    salt: bytes
    costs: tuple[int, ...]

    @classmethod
    def new(cls, settings: KeyStoreSettings, salt: bytes | None = None) -> Kdf:
        """By the settings, under a fresh salt of 16 bytes where none is given."""
        salt = secrets.token_bytes(16) if salt is None else salt
        if settings.kdf == "scrypt":
            return cls("scrypt", salt, (1 << settings.scrypt_log2_n, settings.scrypt_r, settings.scrypt_p))
        return cls("pbkdf2-hmac-sm3", salt, (settings.pbkdf2_iterations,))

    @classmethod
    def decode(cls, encoded: bytes) -> Kdf:
        """From its AlgorithmIdentifier. Raises Malformed, also where the costs are past our bounds."""
        body = der.Reader(encoded).enter(der.SEQUENCE)
        algorithm = body.take_tlv(der.OBJECT_IDENTIFIER)
        parameters = body.enter(der.SEQUENCE)
        salt = parameters.take(der.OCTET_STRING)
        if algorithm == der.oid(oids.SCRYPT):
            kdf = cls("scrypt", salt, (parameters.integer(), parameters.integer(), parameters.integer()))
        elif algorithm == der.oid(oids.PBKDF2):
            kdf = cls("pbkdf2-hmac-sm3", salt, (parameters.integer(),))
        else:
            raise Malformed("the key derivation is neither scrypt nor PBKDF2", code="pbes2")
        if parameters.peek() == der.INTEGER and parameters.integer() != _BLOCK:
            raise Malformed("the derived key's length is not 16", code="pbes2")
        if kdf.name != "scrypt" and parameters.take_tlv(der.SEQUENCE) not in _HMAC_SM3_FORMS:
            raise Malformed("PBKDF2's function is not HMAC-SM3", code="pbes2")
        parameters.finish()
        body.finish()
        kdf._check()
        return kdf

    def _check(self) -> None:
        if not 8 <= len(self.salt) <= 64:
            raise Malformed("the salt has fewer than 8 or more than 64 bytes", code="pbes2")
        if self.name == "scrypt":
            n, r, p = self.costs
            sound = n > 1 and n & (n - 1) == 0 and r > 0 and p > 0
            if not sound or 128 * n * r > _SCRYPT_MEMORY_MAX or n * r * p > _SCRYPT_WORK_MAX:
                raise Malformed("the scrypt parameters are out of bounds", code="pbes2")
        elif not 1 <= self.costs[0] <= _ITERATIONS_MAX:
            raise Malformed("the PBKDF2 iterations are out of bounds", code="pbes2")

    def encode(self) -> bytes:
        """Its AlgorithmIdentifier (RFC 7914 §7.1; RFC 8018 Appendix A.2)."""
        costs = b"".join(der.integer(cost) for cost in self.costs)
        if self.name == "scrypt":
            return der.sequence(der.oid(oids.SCRYPT), der.sequence(der.octet_string(self.salt), costs))
        return der.sequence(der.oid(oids.PBKDF2), der.sequence(der.octet_string(self.salt), costs, _HMAC_SM3_FORMS[0]))

    def derive(self, passphrase: bytearray) -> bytearray:
        """The SM4 key; the caller wipes it."""
        key = bytearray(_BLOCK)
        if self.name == "scrypt":
            n, r, p = self.costs
            Scrypt(salt=self.salt, length=_BLOCK, n=n, r=r, p=p).derive_into(as_bytes(passphrase), key)
        else:
            PBKDF2HMAC(hashes.SM3(), _BLOCK, self.salt, self.costs[0]).derive_into(as_bytes(passphrase), key)
        return key


class Passphrase:
    """A passphrase and the keys derived from it so far. `wipe()` ends it."""

    def __init__(self, secret: bytearray) -> None:
        self._secret = secret
        self._derived: dict[Kdf, bytearray] = {}

    def key(self, kdf: Kdf) -> bytearray:
        """The SM4 key under `kdf`: ours, not for the caller to wipe."""
        key = self._derived.get(kdf)
        if key is None:
            key = self._derived[kdf] = kdf.derive(self._secret)
        return key

    def wipe(self) -> None:
        """Clears the passphrase and every derived key."""
        wipe(self._secret)
        for key in self._derived.values():
            wipe(key)
        self._derived.clear()


@dataclass(frozen=True, slots=True)
class Encrypted:
    """An EncryptedPrivateKeyInfo (RFC 5958 §3), taken apart."""

    kdf: Kdf
    iv: bytes
    ciphertext: bytes

    @classmethod
    def decode(cls, encoded: bytes) -> Encrypted:
        """Raises Malformed where it is not PBES2 with SM4-CBC and one of our derivations."""
        outer = der.Reader(encoded)
        body = outer.enter(der.SEQUENCE)
        outer.finish()
        algorithm = body.enter(der.SEQUENCE)
        ciphertext = body.take(der.OCTET_STRING)
        body.finish()
        if algorithm.take_tlv(der.OBJECT_IDENTIFIER) != der.oid(oids.PBES2):
            raise Malformed("the encryption is not PBES2", code="pbes2")
        parameters = algorithm.enter(der.SEQUENCE)
        algorithm.finish()
        kdf = Kdf.decode(parameters.take_tlv(der.SEQUENCE))
        scheme = parameters.enter(der.SEQUENCE)
        parameters.finish()
        if scheme.take_tlv(der.OBJECT_IDENTIFIER) != der.oid(oids.SM4_CBC):
            raise Malformed("the cipher is not SM4-CBC", code="pbes2")
        iv = scheme.take(der.OCTET_STRING)
        scheme.finish()
        if len(iv) != _BLOCK or not ciphertext or len(ciphertext) % _BLOCK:
            raise Malformed("the initial vector or the ciphertext has a wrong length", code="pbes2")
        return cls(kdf, iv, ciphertext)

    def encode(self) -> bytes:
        """The DER."""
        scheme = der.sequence(der.oid(oids.SM4_CBC), der.octet_string(self.iv))
        algorithm = der.sequence(der.oid(oids.PBES2), der.sequence(self.kdf.encode(), scheme))
        return der.sequence(algorithm, der.octet_string(self.ciphertext))


def encrypt(plain: bytearray, passphrase: Passphrase, kdf: Kdf) -> Encrypted:
    """Under a fresh initial vector. `plain` stays the caller's to wipe; the padded copy is wiped here."""
    fill = _BLOCK - len(plain) % _BLOCK
    padded = bytearray(len(plain) + fill)
    out = bytearray(len(padded) + _BLOCK - 1)
    iv = secrets.token_bytes(_BLOCK)
    try:
        padded[: len(plain)] = plain
        padded[len(plain) :] = bytes((fill,)) * fill
        cipher = Cipher(algorithms.SM4(as_bytes(passphrase.key(kdf))), modes.CBC(iv)).encryptor()
        length = cipher.update_into(as_bytes(padded), out)
        cipher.finalize()
        return Encrypted(kdf, iv, bytes(out[:length]))
    finally:
        wipe(padded)


def decrypt(encrypted: Encrypted, passphrase: Passphrase) -> tuple[bytearray, int]:
    """The padded plaintext and how many octets of padding end it: 0 where the padding is not sound.

    The caller wipes the plaintext. An unsound padding is returned, not raised, because the caller can tell a wrong
    passphrase from a damaged file better by looking at the plaintext.
    """
    out = bytearray(len(encrypted.ciphertext) + _BLOCK - 1)
    cipher = Cipher(algorithms.SM4(as_bytes(passphrase.key(encrypted.kdf))), modes.CBC(encrypted.iv)).decryptor()
    length = cipher.update_into(encrypted.ciphertext, out)
    cipher.finalize()
    out[length:] = b""
    fill = out[-1]
    sound = 1 <= fill <= _BLOCK and out.endswith(bytes((fill,)) * fill)
    return out, fill if sound else 0
