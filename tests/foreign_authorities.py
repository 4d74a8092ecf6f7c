"""Authorities that never met our code: OpenSSL's `ca` with its own database, and BouncyCastle. What an import is given.

Each has issued, revoked, put on hold and lost a certificate, and made its CRL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle

GOOD, REVOKED, HELD, ENCRYPTION, LOST, UNKNOWN, LATER = 0xA01, 0xA02, 0xA03, 0xA04, 0xA05, 0xA06, 0xA07
CRL_NUMBER = 0x1F40
CRL_URL = "http://crl.{name}.example.cn/all.crl"
_ID = "distid:1234567812345678"


class Foreign(Protocol):
    """See the module. certificate, key_pem: the authority's."""

    name: str
    certificate: bytes
    key_pem: bytes

    def leaf(self, serial: int, begins: datetime, *, encrypts: bool = False) -> bytes:
        """A holder's certificate, DER; it is told of in the authority's books."""
        ...

    def crl(self) -> bytes:
        """The CRL: REVOKED and LOST by keyCompromise, HELD on hold."""
        ...


def _moment(at: datetime) -> str:
    return f"{at:%Y%m%d%H%M%SZ}"


@dataclass
class OpenSslAuthority:
    """`openssl ca`, in a folder of its own. Its certificate was renewed: it is younger than all that it issued."""

    directory: Path
    name: str = "from-openssl"
    certificate: bytes = field(init=False)
    key_pem: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir()
        self.key_pem = openssl.make_key()
        (self.directory / "ca.key").write_bytes(self.key_pem)
        for name, content in (("index.txt", ""), ("index.txt.attr", "unique_subject = no\n")):
            (self.directory / name).write_text(content)
        (self.directory / "crlnumber").write_text(f"{CRL_NUMBER:X}\n")
        url = CRL_URL.format(name=self.name)
        self._config = self.directory / "ca.cnf"
        self._config.write_text(
            f"[ca]\ndefault_ca = c\n[c]\ndir = {self.directory}\ndatabase = $dir/index.txt\nnew_certs_dir = $dir\n"
            "serial = $dir/serial\ncrlnumber = $dir/crlnumber\ncertificate = $dir/ca.pem\nprivate_key = $dir/ca.key\n"
            "default_md = sm3\ndefault_crl_days = 3\npolicy = p\ncrl_extensions = l\n[p]\ncommonName = supplied\n"
            "organizationName = optional\n[l]\nauthorityKeyIdentifier = keyid\n[req]\ndistinguished_name = d\n[d]\n"
            "[a]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign,cRLSign\n"
            "subjectKeyIdentifier = hash\n[sign]\nkeyUsage = critical,digitalSignature,nonRepudiation\n"
            f"authorityKeyIdentifier = keyid\ncrlDistributionPoints = URI:{url}\n"
            "[encrypt]\nkeyUsage = critical,keyEncipherment,dataEncipherment,keyAgreement\n"
            f"authorityKeyIdentifier = keyid\ncrlDistributionPoints = URI:{url}\n"
        )
        pem = openssl.run(
            *("req", "-new", "-x509", "-utf8", "-sm3", "-key", self.directory / "ca.key", "-sigopt", _ID),
            *("-subj", "/C=CN/O=外省机构/CN=外省签发机构", "-days", "900", "-config", self._config),
            *("-extensions", "a"),
        )
        (self.directory / "ca.pem").write_bytes(pem)
        self.certificate = openssl.run("x509", "-outform", "DER", stdin=pem)
        self._holder = openssl.make_csr(openssl.make_key(), "/O=外省/CN=外省企业")

    def _ca(self, *arguments: str | Path) -> bytes:
        return openssl.run("ca", "-config", self._config, "-batch", "-utf8", "-sigopt", _ID, *arguments)

    def leaf(self, serial: int, begins: datetime, *, encrypts: bool = False) -> bytes:
        (self.directory / "serial").write_text(f"{serial:04X}\n")
        request = self.directory / "request.pem"
        request.write_bytes(openssl.pem("CERTIFICATE REQUEST", self._holder))
        out = self.directory / f"{serial:x}.pem"
        self._ca(
            *("-vfyopt", _ID, "-in", request, "-out", out, "-notext"),
            *("-extensions", "encrypt" if encrypts else "sign"),
            *("-startdate", _moment(begins), "-enddate", _moment(begins + timedelta(days=300))),
        )
        return openssl.run("x509", "-in", out, "-outform", "DER")

    def crl(self) -> bytes:
        for serial, reason in ((REVOKED, "keyCompromise"), (HELD, "certificateHold"), (LOST, "keyCompromise")):
            self._ca("-revoke", self.directory / f"{serial:x}.pem", "-crl_reason", reason)
        self._ca("-gencrl", "-out", self.directory / "all.crl")
        return (self.directory / "all.crl").read_bytes()


@dataclass
class BouncyCastleAuthority:
    """By BouncyCastle's builders."""

    judge: BouncyCastle
    name: str = "from-bouncycastle"
    certificate: bytes = field(init=False)
    key_pem: bytes = field(init=False)

    def __post_init__(self) -> None:
        self._now = datetime.now(UTC).replace(microsecond=0)
        self._key, self._holder = self.judge.generate(), self.judge.generate()
        self.certificate = self.judge.make_certificate(
            *("root", "C=CN,O=邻省机构,CN=邻省签发机构", self._key.public),
            private=self._key.private,
            issuer=None,
            serial=1,
            not_before=self._now - timedelta(days=100),
            not_after=self._now + timedelta(days=900),
        )
        self.key_pem = openssl.pkcs8_pem(self._key.private, self._key.public)

    def leaf(self, serial: int, begins: datetime, *, encrypts: bool = False) -> bytes:
        return self.judge.make_certificate(
            *("encrypt" if encrypts else "sign", "C=CN,ST=湖北省,O=邻省,CN=邻省企业", self._holder.public),
            private=self._key.private,
            issuer=self.certificate,
            serial=serial,
            not_before=begins,
            not_after=begins + timedelta(days=300),
            crl_uri=CRL_URL.format(name=self.name),
        )

    def crl(self) -> bytes:
        then = self._now - timedelta(days=2)
        return self.judge.make_crl(
            self.certificate,
            self._key.private,
            number=CRL_NUMBER,
            this_update=self._now - timedelta(minutes=1),
            next_update=self._now + timedelta(days=3),
            entries=[(REVOKED, 1, then), (HELD, 6, then), (LOST, 1, then)],
            idp_uri=CRL_URL.format(name=self.name),
        )
