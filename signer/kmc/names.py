"""EntName of GM/T 0014-2012: how an authority or a key-management centre is named in CA-KM messages.

Knows certificates and DER; not who is registered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes

from core import oids
from core.asn1 import der
from core.asn1.x509 import load_certificate, public_key_of_certificate, spki_of_certificate
from core.errors import Malformed
from signer.kmc.fields import algorithm, integer

#: GeneralName: directoryName [4]; Name is a CHOICE, so the tag is explicit.
_DIRECTORY_NAME: Final = 0xA4
_SM3: Final = der.sequence(der.oid(oids.SM3))
#: Digests that may name a key. SM3 is what is written.
_HASHES: Final[dict[bytes, type[hashes.HashAlgorithm]]] = {
    der.oid(oids.SM3): hashes.SM3,
    der.oid(oids.SHA1): hashes.SHA1,
    der.oid(oids.SHA256): hashes.SHA256,
}


@dataclass(frozen=True, slots=True)
class EntityName:
    """A party. `name`: GeneralName; `hash_oid`: DER of the digest's object identifier; `serial`: its certificate's."""

    hash_oid: bytes
    name: bytes
    key_hash: bytes
    serial: int

    @classmethod
    def of_certificate(cls, certificate: bytes) -> EntityName:
        """As written here: SM3 over the public key's octets (04, X, Y). Raises Malformed."""
        loaded = load_certificate(certificate)
        key_hash = _digest(hashes.SM3(), public_key_of_certificate(certificate))
        name = der.tlv(_DIRECTORY_NAME, loaded.subject.public_bytes())
        return cls(der.oid(oids.SM3), name, key_hash, loaded.serial_number)

    @classmethod
    def read(cls, reader: der.Reader) -> EntityName:
        """Raises Malformed."""
        body = reader.enter(der.SEQUENCE)
        hash_oid = algorithm(body)
        name = body.take_tlv()
        key_hash, serial = body.take(der.OCTET_STRING), integer(body)
        body.finish()
        return cls(hash_oid, name, key_hash, serial)

    def encode(self) -> bytes:
        """The DER."""
        return der.sequence(
            der.sequence(self.hash_oid), self.name, der.octet_string(self.key_hash), der.integer(self.serial)
        )

    def is_of(self, certificate: bytes) -> bool:
        """Whether it names the holder of `certificate`.

        The key's hash is taken over the key's octets, or over the SubjectPublicKeyInfo: the standard's text leaves room
        for either. Who sent a message is settled by its signature, not by this.
        """
        kind = _HASHES.get(self.hash_oid)
        try:
            loaded = load_certificate(certificate)
            keys = (public_key_of_certificate(certificate), spki_of_certificate(certificate))
        except Malformed:
            return False
        return (
            kind is not None
            and self.serial == loaded.serial_number
            and self.name == der.tlv(_DIRECTORY_NAME, loaded.subject.public_bytes())
            and self.key_hash in [_digest(kind(), key) for key in keys]
        )


def _digest(kind: hashes.HashAlgorithm, data: bytes) -> bytes:
    state = hashes.Hash(kind)
    state.update(data)
    return state.finalize()
