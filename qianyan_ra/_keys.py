"""Who signs: a key in this process, or a device that the caller speaks for; and a person with a certificate.

A signer is any object with `public_key` and `sign(message)`. `SoftwareKey` holds the key itself; `DigestSigner` is for
USB tokens and hardware modules that sign e (SKF_ECCSignData, SDF_InternalSign_ECC): Z and the hash are done here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from qianyan_ra import _arithmetic as arithmetic_of
from qianyan_ra import _der as der
from qianyan_ra import _pem as pem
from qianyan_ra import _pure as pure
from qianyan_ra._arithmetic import Arithmetic, Scalar
from qianyan_ra._certificate import Certificate
from qianyan_ra._errors import BadMessage, KeyTrouble, NotVerified


class Signer(Protocol):
    """Whoever can sign: SM2 with SM3 under the user id 1234567812345678."""

    @property
    def public_key(self) -> bytes:
        """04 ‖ x ‖ y, 65 octets."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`: a DER SM2Signature, or r ‖ s."""
        ...


class SoftwareKey:
    """A private key in this process. `with` wipes it at the end."""

    def __init__(self, scalar: Scalar) -> None:
        self._scalar = scalar

    def __enter__(self) -> SoftwareKey:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"SoftwareKey(public_key={self.public_key.hex()[:16]}…)"

    @classmethod
    def generate(cls, *, arithmetic: Arithmetic = "native") -> SoftwareKey:
        """A new key."""
        return cls(arithmetic_of.generate(arithmetic))

    @classmethod
    def from_scalar(cls, scalar: bytearray, *, arithmetic: Arithmetic = "native") -> SoftwareKey:
        """From 32 octets, which are wiped. Raises KeyTrouble (code "key_range")."""
        try:
            return cls(arithmetic_of.load(scalar, arithmetic))
        finally:
            pem.wipe(scalar)

    @classmethod
    def from_pem(
        cls, text: bytes, passphrase: bytes | None = None, *, arithmetic: Arithmetic = "native"
    ) -> SoftwareKey:
        """From PKCS#8 or SEC 1. Raises KeyTrouble ("passphrase", "passphrase_missing", "key_kind") or BadMessage."""
        return cls.from_scalar(pem.read_scalar(text, passphrase), arithmetic=arithmetic)

    def to_pem(self, passphrase: bytes | None) -> bytes:
        """PKCS#8, under `passphrase` (scrypt, SM4-CBC) unless it is None."""
        scalar = self._scalar.export()
        try:
            return pem.write_key(scalar, self.public_key, passphrase)
        finally:
            pem.wipe(scalar)

    @property
    def public_key(self) -> bytes:
        """04 ‖ x ‖ y."""
        return self._scalar.public_key

    def sign(self, message: bytes) -> bytes:
        """r ‖ s over `message`."""
        return self._scalar.sign_digest(pure.digest(self.public_key, message))

    def decrypt(self, cipher: bytes) -> bytearray:
        """The plaintext of an SM2Cipher, for the caller to wipe. Raises BadMessage."""
        return self._scalar.decrypt(cipher)

    def wipe(self) -> None:
        """Clears the key; it signs nothing more."""
        self._scalar.wipe()


@dataclass(frozen=True, slots=True)
class DigestSigner:
    """A key in a device: `sign_digest` takes e = SM3(Z ‖ message), 32 octets, and gives r ‖ s or a DER signature."""

    public_key: bytes
    sign_digest: Callable[[bytes], bytes]

    def sign(self, message: bytes) -> bytes:
        """The device's signature over `message`."""
        return self.sign_digest(pure.digest(self.public_key, message))


@dataclass(frozen=True, slots=True)
class Person:
    """An operator or approver: certificate and key. `chain`: certificates above it, where the service lacks them.

    Raises KeyTrouble (code "key_other") where the key is not the certificate's.
    """

    certificate: Certificate
    signer: Signer
    chain: Sequence[bytes] = field(default=())

    def __post_init__(self) -> None:
        if self.signer.public_key != self.certificate.public_key:
            raise KeyTrouble("the key is not that of the certificate", code="key_other")

    @classmethod
    def load(
        cls,
        certificate_file: str | Path,
        key_file: str | Path,
        passphrase: bytes | None = None,
        *,
        arithmetic: Arithmetic = "native",
    ) -> Person:
        """From files: the certificate in PEM or DER (what follows it in PEM is its chain), the key in PEM."""
        certificate, *chain = read_certificates(Path(certificate_file).read_bytes())
        key = SoftwareKey.from_pem(Path(key_file).read_bytes(), passphrase, arithmetic=arithmetic)
        return cls(Certificate.parse(certificate), key, tuple(chain))

    def sign(self, message: bytes) -> bytes:
        """A DER SM2Signature, verified before it leaves: a device's fault must not go out. Raises NotVerified."""
        raw = signature_octets(self.signer.sign(message))
        public_key = self.certificate.public_key
        if not arithmetic_of.verify_digest(public_key, pure.digest(public_key, message), raw):
            raise NotVerified(
                "the signature just made does not verify: the device or its driver is at fault", code="made"
            )
        return signature_der(raw)


def read_certificates(data: bytes) -> list[bytes]:
    """The certificates in PEM or, one, in DER. Raises BadMessage (code "certificate")."""
    if b"-----BEGIN" in data:
        found = [contents for label, contents in pem.blocks(data) if label == "CERTIFICATE"]
        if found:
            return found
        raise BadMessage("there is no certificate in it", code="certificate")
    return [data]


def signature_octets(signature: bytes) -> bytes:
    """r ‖ s from either form. Raises BadMessage (code "signature")."""
    if len(signature) == 64:
        return signature
    whole = der.Reader(signature)
    body = whole.enter(der.SEQUENCE)
    whole.finish()
    r, s = body.integer(), body.integer()
    body.finish()
    if r >= pure.N or s >= pure.N:
        raise BadMessage("not an SM2Signature", code="signature")
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def signature_der(raw: bytes) -> bytes:
    """SM2Signature (GM/T 0009 §7.3)."""
    return der.sequence(der.integer(int.from_bytes(raw[:32], "big")), der.integer(int.from_bytes(raw[32:], "big")))
