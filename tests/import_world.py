"""An authority that issued elsewhere: its certificates and CRLs, made by its own key, as files to import.

Nothing of the service takes part but the codecs; the files are what another system would hand over.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from core import oids
from core.asn1 import der
from core.asn1.distribution import crl_distribution_points, issuing_distribution_point
from core.asn1.names import build_name
from core.asn1.x509 import (
    SM3_WITH_SM2,
    Extension,
    encode_extensions,
    join_signed,
    key_identifier,
    subject_public_key_info,
    tbs_certificate,
)
from core.clock import to_datetime
from core.model import RevocationReason, serial_to_hex
from signer._native import sm2
from signer.engine import keyinfo

DAY_MS = 86_400_000
CRL_URL = "http://crl.old.example.cn/old.crl"
SIGNS = x509.KeyUsage(True, True, False, False, False, False, False, False, False)
ENCRYPTS = x509.KeyUsage(False, False, True, True, True, False, False, False, False)
_AUTHORITY = x509.KeyUsage(False, False, False, False, False, True, True, False, False)


@dataclass
class OldAuthority:
    """See the module. now_ms: when the files are made."""

    now_ms: int
    key: sm2.PrivateKey = field(default_factory=sm2.PrivateKey.generate)
    holder: sm2.PrivateKey = field(default_factory=sm2.PrivateKey.generate)

    def __post_init__(self) -> None:
        self.point = self.key.public_key.to_bytes()
        self.name = build_name({"C": "CN", "O": "旧机构", "CN": "旧签发机构"}).public_bytes()
        extensions = [
            Extension.of(x509.BasicConstraints(True, 0), critical=True),
            Extension.of(_AUTHORITY, critical=True),
            Extension.of(x509.SubjectKeyIdentifier(key_identifier(self.point))),
        ]
        self.certificate = self._sign(
            1, self.name, self.point, extensions, self.now_ms - 2000 * DAY_MS, self.now_ms + 2000 * DAY_MS
        )

    def _sign(
        self, serial: int, subject: bytes, point: bytes, extensions: list[Extension], begins_ms: int, ends_ms: int
    ) -> bytes:
        tbs = tbs_certificate(
            serial=serial,
            issuer=self.name,
            subject=subject,
            not_before=to_datetime(begins_ms),
            not_after=to_datetime(ends_ms),
            spki=subject_public_key_info(point),
            extensions=extensions,
        )
        return self.sign(tbs)

    def sign(self, tbs: bytes) -> bytes:
        """What its key has signed, whatever that is."""
        return join_signed(tbs, sm2.signature_to_der(self.key.sign(tbs)))

    def leaf(
        self,
        serial: int,
        *,
        usage: x509.KeyUsage | None = SIGNS,
        url: str | None = CRL_URL,
        begins_ms: int | None = None,
        ends_ms: int | None = None,
        name: str = "某企业",
        more: tuple[Extension, ...] = (),
        point: bytes | None = None,
        subject: bytes | None = None,
    ) -> bytes:
        """A holder's certificate, DER. subject: a Name instead of the usual one."""
        extensions = [Extension.of(x509.AuthorityKeyIdentifier(key_identifier(self.point), None, None)), *more]
        if usage is not None:
            extensions.append(Extension.of(usage, critical=True))
        if url is not None:
            extensions.append(crl_distribution_points(url))
        usual = build_name({"C": "CN", "ST": "广东省", "L": "广州市", "CN": name}).public_bytes()
        begins = self.now_ms - 100 * DAY_MS if begins_ms is None else begins_ms
        ends = self.now_ms + 265 * DAY_MS if ends_ms is None else ends_ms
        return self._sign(
            serial, subject or usual, point or self.holder.public_key.to_bytes(), extensions, begins, ends
        )

    def ocsp_signer(self, serial: int, point: bytes) -> bytes:
        """An OCSP signer's certificate for a key that asked for it."""
        purpose = Extension.of(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]))
        return self.leaf(serial, more=(purpose,), point=point)

    def crl(
        self,
        entries: Iterable[tuple[int, RevocationReason, int]],
        *,
        number: int,
        url: str | None = None,
        ended: bool = False,
        this_ms: int | None = None,
        more: tuple[Extension, ...] = (),
        said: Mapping[int, tuple[Extension, ...]] | None = None,
    ) -> bytes:
        """A CRL, DER: (serial, reason, time in ms). said: what entries say beside or instead of a reason, by serial."""
        listed = b""
        for serial, reason, at_ms in sorted(entries):
            why = Extension(oids.CRL_REASON, False, der.enumerated(int(reason)))
            told = [*((why,) if reason else ()), *(said or {}).get(serial, ())]
            extensions = der.sequence(*(one.encode() for one in told)) if told else b""
            listed += der.sequence(der.integer(serial), der.x509_time(to_datetime(at_ms)), extensions)
        scope = () if url is None else (issuing_distribution_point(url),)
        extensions = encode_extensions([Extension(oids.CRL_NUMBER, False, der.integer(number)), *scope, *more])
        this_ms = this_ms or self.now_ms - (3 if ended else 0) * DAY_MS - 60_000
        tbs = der.sequence(
            der.integer(1),
            SM3_WITH_SM2,
            self.name,
            der.x509_time(to_datetime(this_ms)),
            der.x509_time(to_datetime(this_ms + DAY_MS)),
            der.sequence(listed) if listed else b"",
            der.tlv(der.context(0), extensions),
        )
        return join_signed(tbs, sm2.signature_to_der(self.key.sign(tbs)))

    def key_pem(self) -> bytes:
        """The private key, PKCS#8."""
        return pem("PRIVATE KEY", bytes(keyinfo.encode(self.key)))


def pem(label: str, content: bytes) -> bytes:
    """One block."""
    return f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(content) + f"-----END {label}-----\n".encode()


def pem_file(path: Path, certificates: Iterable[bytes]) -> Path:
    """A file of many."""
    path.write_bytes(b"".join(pem("CERTIFICATE", one) for one in certificates))
    return path


def hexadecimal(serial: int) -> str:
    """As the command line writes it."""
    return serial_to_hex(serial)
