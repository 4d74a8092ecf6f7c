"""A directory server of the tests' own (deploy/ldap/start-slapd.sh), and a store with something to publish there."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import ldif
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import CollectorRegistry

from core.asn1.names import build_name
from core.asn1.x509 import Extension, join_signed, key_identifier, subject_public_key_info, tbs_certificate
from core.clock import system_clock, to_datetime
from core.model import RevocationReason, serial_to_hex
from core.store import authorities, certificates, crls, outbox
from core.store.authorities import Authority
from core.store.certificates import NewCertificate
from core.store.crls import CrlRecord
from core.store.database import Database
from signer._native import sm2
from status.directory.service import DirectoryService
from status.directory.settings import DirectorySettings, LdapTargetSettings
from tests.running import free_port

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "deploy" / "ldap" / "start-slapd.sh"
SUFFIX = "dc=qianyan"
PATIENCE_S = 90.0
YEAR_MS = 365 * 86_400_000
_CRL_KEY = ec.generate_private_key(ec.SECP256R1())


class Slapd:
    """One server. `start()` returns when it answers; `kill()` is `kill -9`."""

    def __init__(self, **environment: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="slapd-", dir="/tmp"))
        self.port = free_port()
        self.url = f"ldap://127.0.0.1:{self.port}"
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Slapd:
        """Starts it, from nothing or again."""
        self.process = subprocess.Popen(
            [SCRIPT, self.directory, str(self.port)],
            env={**os.environ, "MAXSIZE": str(1 << 30), **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            asked = subprocess.run(
                ["ldapsearch", "-x", "-H", self.url, "-s", "base", "-b", "", "1.1"], capture_output=True, check=False
            )
            if asked.returncode == 0:
                return self
            assert self.process.poll() is None, "slapd did not start"
            assert time.monotonic() < deadline, asked.stderr
            time.sleep(0.05)

    @property
    def password_file(self) -> Path:
        return self.directory / "password"

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT and the like."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Ends it without a word."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def empty(self) -> None:
        """Removes its data, as a new disk would be."""
        shutil.rmtree(self.directory / "data")
        (self.directory / "data").mkdir(mode=0o700)

    def remove(self) -> None:
        """Ends it and removes what it had."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def search(self, base: str, text: str = "(objectClass=*)", *names: str) -> dict[str, dict[str, list[bytes]]]:
        """What ldapsearch reads as anybody: entry → attribute → values."""
        done = subprocess.run(
            ["ldapsearch", "-LLL", "-x", "-o", "ldif-wrap=no", "-E", "pr=400/noprompt", "-H", self.url, "-b", base,
             text, *names], capture_output=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode in (0, 32), done.stderr.decode()  # 32: no such entry
        parser = ldif.LDIFRecordList(io.BytesIO(done.stdout))
        parser.parse()
        return dict(parser.all_records)

    def modify(self, changes: str) -> None:
        """Changes LDIF says, behind the publisher's back."""
        done = subprocess.run(
            ["ldapmodify", "-x", "-H", self.url, "-D", f"cn=publisher,{SUFFIX}", "-y", self.password_file],
            input=changes.encode(), capture_output=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()

    def certificates(self, base: str) -> set[bytes]:
        """Every certificate of a holder below `base`."""
        found = self.search(base, "(userCertificate=*)", "userCertificate;binary").values()
        return {value for entry in found for value in entry["userCertificate;binary"]}

    def target(self, base: str, **changes: object) -> LdapTargetSettings:
        """Settings of a target below `base`, as impatient as tests are."""
        values: dict[str, object] = {
            "name": "main",
            "url": self.url,
            "bind_dn": f"cn=publisher,{SUFFIX}",
            "password_file": str(self.password_file),
            "base": base,
            "operation_timeout_s": 5,
            "settle_s": 0.1,
            **changes,
        }
        return LdapTargetSettings.model_validate(values)


def directory_settings(*targets: LdapTargetSettings, **changes: object) -> DirectorySettings:
    """Settings with those directories."""
    values = {"poll_s": 0.05, "lease_s": 3.0, "look_s": 0.3, "back_off_first_s": 0.05, "back_off_max_s": 0.3, **changes}
    return DirectorySettings.model_validate({"targets": [t.model_dump() for t in targets], **values})


def new_service(
    database: Database, settings: DirectorySettings, registry: CollectorRegistry | None = None
) -> DirectoryService:
    """Publication on that store."""
    return DirectoryService(
        database, system_clock, settings, Path, lambda name: Path(name).read_bytes().split(b"\n")[0], registry
    )


@asynccontextmanager
async def publishing(service: DirectoryService) -> AsyncIterator[None]:
    """Publishes inside the block, and stops orderly."""
    stop = asyncio.Event()
    task = asyncio.create_task(service.run(stop, service.publishers()))
    try:
        yield
    finally:
        stop.set()
        await task


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Returns when `condition` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


async def caught_up(service: DirectoryService) -> None:
    """Returns when every target has all that was committed before."""
    async with service.database.read() as connection:
        head = await outbox.head(connection)

    async def there() -> bool:
        return all(
            one.target is not None and one.target.position >= head and one.target.loading_to is None and not one.waiting
            for one in await service.status()
        )

    await until(there, "the directory does not catch up")


class Holders:
    """Writes certificates and CRLs into a store as issuance does: rows, feed and outbox in one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.key = sm2.PrivateKey.generate()
        self.point = self.key.public_key.to_bytes()
        self.issuer = build_name({"C": "CN", "O": "测试", "CN": "签发机构"})
        self.root = build_name({"C": "CN", "CN": "根"})
        self.certificate = self.certify(7, self.issuer, self.root)
        self.root_certificate = self.certify(3, self.root, self.root)
        self._indexes = 0

    def certify(self, serial: int, subject: x509.Name, issuer: x509.Name) -> bytes:
        """An SM2 certificate of a year."""
        now_ms = system_clock()
        tbs = tbs_certificate(
            serial=serial,
            issuer=issuer.public_bytes(),
            subject=subject.public_bytes(),
            not_before=to_datetime(now_ms - 1000),
            not_after=to_datetime(now_ms + YEAR_MS),
            spki=subject_public_key_info(self.point),
            extensions=[Extension.of(x509.SubjectKeyIdentifier(key_identifier(self.point)))],
        )
        return join_signed(tbs, sm2.signature_to_der(self.key.sign(tbs)))

    async def begin(self, *, partitions: int = 1) -> Holders:
        """Records a root and an issuing authority."""
        now_ms = system_clock()
        async with self.database.write() as connection:
            for row in (
                Authority("root", None, None, self.root.public_bytes(), self.point, self.root_certificate, None, None,
                          1, now_ms),
                Authority("issuing", "root", None, self.issuer.public_bytes(), self.point, self.certificate, None, None,
                          partitions, now_ms),
            ):  # fmt: skip
                await authorities.add(connection, row)
        return self

    async def issue(
        self,
        count: int = 1,
        *,
        subject: dict[str, str] | None = None,
        ends_in_ms: int = YEAR_MS,
        der: bytes | None = None,
    ) -> list[tuple[int, bytes]]:
        """(serial, DER) of new certificates, in one transaction."""
        name = build_name(subject or {"C": "CN", "O": "广东某公司", "CN": "张三"})
        now_ms = system_clock()
        made = []
        async with self.database.write() as connection:
            for _ in range(count):
                serial = int.from_bytes(os.urandom(15), "big") + 1
                self._indexes += 1
                new = NewCertificate(
                    authority_id="issuing",
                    serial=serial,
                    usage="sign",
                    profile="person",
                    subject=name.public_bytes(),
                    public_key=self.point,
                    not_before_ms=now_ms - 1000,
                    not_after_ms=now_ms + ends_in_ms,
                    partition=0,
                    status_month=24_000,
                    status_index=self._indexes,
                    certificate=der or self.certify(serial, name, self.issuer),
                )
                await certificates.record(connection, new, at_ms=now_ms)
                await outbox.put(connection, "certificate", f"issuing/{serial_to_hex(serial)}", at_ms=now_ms)
                made.append((serial, new.certificate))
        return made

    async def issue_authority(self) -> int:
        """Records the issuing authority's certificate as one that the root issued; its serial."""
        now_ms = system_clock()
        row = NewCertificate("root", 7, "ca", "authority", self.issuer.public_bytes(), self.point, now_ms - 1000,
                             now_ms + YEAR_MS, 0, 24_000, 1, self.certificate)  # fmt: skip
        async with self.database.write() as connection:
            await certificates.record(connection, row, at_ms=now_ms)
            await outbox.put(connection, "certificate", "root/07", at_ms=now_ms)
        return row.serial

    async def change(self, serial: int, reason: RevocationReason | None, *, authority: str = "issuing") -> None:
        """Revokes or holds; `reason` None ends a hold."""
        now_ms = system_clock()
        async with self.database.write() as connection:
            record = await certificates.find(connection, serial)
            if reason is None:
                await certificates.release(connection, record, at_ms=now_ms)
            else:
                await certificates.revoke(connection, record, reason, at_ms=now_ms)
            await outbox.put(connection, "certificate", f"{authority}/{serial_to_hex(serial)}", at_ms=now_ms)

    async def publish_crl(
        self,
        number: int,
        *,
        partition: int = 0,
        authority: str = "issuing",
        delta_of: int | None = None,
        ca: bool = False,
    ) -> tuple[bytes, bytes | None]:
        """(CRL, delta of the same number or None) as published. ca: about certificates of authorities alone."""
        body = make_crl(number, only_ca=ca)
        now_ms = system_clock()
        record = CrlRecord(authority, partition, number, None, now_ms, now_ms + 1000, 0, 1, body)
        delta = None
        if delta_of is not None:
            delta = replace(record, base_number=delta_of, crl=make_crl(number, base=delta_of))
        async with self.database.write() as connection:
            await crls.publish(connection, record, at_ms=now_ms, delta=delta)
            await outbox.put(connection, "crl", f"{authority}/{partition}/{number}", at_ms=now_ms)
        return body, None if delta is None else delta.crl


def make_crl(number: int, *, base: int | None = None, only_ca: bool = False) -> bytes:
    """A CRL with those extensions; who signed it is of no interest to a directory."""
    now = to_datetime(system_clock())
    point = [x509.UniformResourceIdentifier("http://crl.example/0.crl")]
    idp = x509.IssuingDistributionPoint(point, None, False, only_ca, None, False, False)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(build_name({"C": "CN", "CN": "x"}))
        .last_update(now)
        .next_update(now + timedelta(days=1))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(idp, critical=True)
    )
    if base is not None:
        builder = builder.add_extension(x509.DeltaCRLIndicator(base), critical=True)
    return builder.sign(_CRL_KEY, hashes.SHA256()).public_bytes(Encoding.DER)
