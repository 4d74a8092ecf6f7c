"""Who does the arithmetic with a private key that is in this process: the compiled core, or plain Python where asked.

The compiled core is constant time and keeps scalars in memory of its own; plain Python is neither (`_pure`). Nothing
falls back from the one to the other. The only module that imports the compiled core.
"""

from __future__ import annotations

import functools
import importlib.util
import secrets
from typing import TYPE_CHECKING, Final, Literal, Protocol

from qianyan_ra import _der as der
from qianyan_ra import _pure as pure
from qianyan_ra._errors import BadMessage, KeyTrouble

if TYPE_CHECKING:
    from signer._native import sm2

Arithmetic = Literal["native", "pure"]
_MODULE: Final = "signer._native.sm2"


class Scalar(Protocol):
    """A private key. `wipe()` ends it, as far as its arithmetic can."""

    @property
    def public_key(self) -> bytes:
        """04 ‖ x ‖ y."""
        ...

    def sign_digest(self, e: bytes) -> bytes:
        """r ‖ s over 32 octets."""
        ...

    def decrypt(self, cipher: bytes) -> bytearray:
        """The plaintext of an SM2Cipher (GM/T 0009 §7.2), for the caller to wipe. Raises BadMessage."""
        ...

    def export(self) -> bytearray:
        """The scalar's 32 octets, for the caller to wipe."""
        ...

    def wipe(self) -> None:
        """Clears it."""
        ...


def load(scalar: bytearray, arithmetic: Arithmetic) -> Scalar:
    """A key from its 32 octets, which stay the caller's to wipe. Raises KeyTrouble."""
    try:
        if arithmetic == "pure":
            return _PureScalar(scalar)
        _need_native()
        from signer._native import sm2

        return _NativeScalar(sm2.PrivateKey.from_bytes(scalar))
    except ValueError as error:
        raise KeyTrouble("the private key is out of SM2's range", code="key_range") from error


def generate(arithmetic: Arithmetic) -> Scalar:
    """A new key, from the operating system's randomness."""
    if arithmetic == "pure":
        return _PureScalar(bytearray((secrets.randbelow(pure.N - 2) + 1).to_bytes(32, "big")))
    _need_native()
    from signer._native import sm2

    return _NativeScalar(sm2.PrivateKey.generate())


@functools.cache
def _has_native() -> bool:
    return importlib.util.find_spec("signer") is not None and importlib.util.find_spec(_MODULE) is not None


def _need_native() -> None:
    if not _has_native():
        raise KeyTrouble(
            "the compiled core is not installed: install the package qianyan, sign with a token (DigestSigner), or ask "
            'for arithmetic="pure", which is not constant time',
            code="native_missing",
        )


class _NativeScalar:
    def __init__(self, key: sm2.PrivateKey) -> None:
        self._key = key

    @property
    def public_key(self) -> bytes:
        return self._key.public_key.to_bytes()

    def sign_digest(self, e: bytes) -> bytes:
        return self._key.sign_digest(e)

    def decrypt(self, cipher: bytes) -> bytearray:
        from signer._native import sm2

        out = bytearray(len(cipher))
        try:
            length = self._key.decrypt_into(cipher, out, encoding="der")
        except (sm2.DecryptionError, sm2.InvalidEncoding) as error:
            raise _sealed_for_another() from error
        plain = out[:length]
        out[:] = bytes(len(out))
        return plain

    def export(self) -> bytearray:
        out = bytearray(32)
        self._key.export_into(out)
        return out

    def wipe(self) -> None:
        self._key.wipe()


class _PureScalar:
    def __init__(self, scalar: bytearray) -> None:
        number = int.from_bytes(scalar, "big")
        if len(scalar) != 32 or not 0 < number < pure.N - 1:
            raise ValueError("out of range")
        point = pure.multiply_vartime(number)
        assert point is not None  # 0 < number < N
        self._number = number
        self._public = pure.point_to_bytes(point)

    @property
    def public_key(self) -> bytes:
        return self._public

    def sign_digest(self, e: bytes) -> bytes:
        if not self._number:
            raise KeyTrouble("the key was wiped", code="key_wiped")
        return pure.sign_digest_vartime(self._number, e)

    def decrypt(self, cipher: bytes) -> bytearray:
        plain = pure.decrypt_vartime(self._number, *cipher_parts(cipher)) if self._number else None
        if plain is None:
            raise _sealed_for_another()
        return bytearray(plain)

    def export(self) -> bytearray:
        return bytearray(self._number.to_bytes(32, "big"))

    def wipe(self) -> None:
        """Lets go of the number; what Python copied of it stays until its memory is used again."""
        self._number = 0


def _sealed_for_another() -> BadMessage:
    return BadMessage("it does not open with this key", code="sm2_decrypt")


def verify_digest(public_key: bytes, e: bytes, signature: bytes) -> bool:
    """Whether r ‖ s is over e: by the compiled core where it is there, which is faster. Public values only."""
    if not _has_native():
        return pure.verify_digest(public_key, e, signature)
    from signer._native import sm2

    try:
        sm2.PublicKey.from_bytes(public_key).verify_digest(e, signature)
    except (sm2.InvalidSignature, sm2.InvalidKey, ValueError):
        return False
    return True


def cipher_parts(cipher: bytes) -> tuple[bytes, bytes, bytes]:
    """C1 (04 ‖ x ‖ y), C3 and C2 of an SM2Cipher. Raises BadMessage."""
    whole = der.Reader(cipher)
    body = whole.enter(der.SEQUENCE)
    whole.finish()
    x, y = body.integer(), body.integer()
    c3, c2 = body.take(der.OCTET_STRING), body.take(der.OCTET_STRING)
    body.finish()
    if not (x < pure.P and y < pure.P) or len(c3) != 32:
        raise BadMessage("not an SM2Cipher (GM/T 0009)", code="sm2_cipher")
    return pure.point_to_bytes((x, y)), c3, c2
