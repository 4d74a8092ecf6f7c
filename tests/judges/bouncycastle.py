"""BouncyCastle as a judge: `java/Judge.java` compiled once, run once per session, spoken to over pipes.

The protocol and every command are documented in Judge.java. Methods return what BouncyCastle saw and raise
`Refused` where it said no. Windows in time and expected nonces are the test's to compare.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from tests.judges import JudgeMissing, Misuse, Refused
from tests.judges.views import CertificateView, CrlEntry, CrlView, Csr, KeyPair, OcspView

SOURCE = Path(__file__).parent / "java" / "Judge.java"
JARS = {
    Path("/usr/share/java/bcprov.jar"): "libbcprov-java",
    Path("/usr/share/java/bcutil.jar"): "libbcutil-java",
    Path("/usr/share/java/bcpkix.jar"): "libbcpkix-java",
}
DEFAULT_ID = b"1234567812345678"


def _tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise JudgeMissing(f"{name} is not installed: apt install {package}")
    return found


def _jars() -> list[Path]:
    for jar, package in JARS.items():
        if not jar.exists():
            raise JudgeMissing(f"{jar} is not there: apt install {package}")
    return list(JARS)


def _compiled() -> Path:
    """The directory with Judge.class; keyed by source and jars, so that it is built once per change."""
    digest = hashlib.sha256(SOURCE.read_bytes())
    for jar in _jars():
        digest.update(str(jar.resolve()).encode())
    home = Path(tempfile.gettempdir()) / f"qianyan-judge-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid != os.getuid() or home.is_symlink():
        raise JudgeMissing(f"{home} belongs to somebody else; remove it")
    done = home / digest.hexdigest()
    if done.exists():
        return done
    fresh = Path(tempfile.mkdtemp(dir=home))
    classpath = ":".join(map(str, _jars()))
    compiler = _tool("javac", "default-jdk-headless")
    ran = subprocess.run(
        [compiler, "-encoding", "UTF-8", "-cp", classpath, "-d", str(fresh), str(SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise JudgeMissing(f"Judge.java does not compile:\n{ran.stderr}")
    try:
        fresh.rename(done)
    except OSError:
        shutil.rmtree(fresh)  # another session finished first; its classes are the same
    return done


class Answer:
    """The named values of one `ok` line."""

    def __init__(self, fields: list[str]) -> None:
        self._values: dict[str, list[bytes]] = {}
        for field in fields:
            name, _, value = field.partition("=")
            self._values.setdefault(name, []).append(base64.b64decode(value))

    def octets(self, name: str) -> bytes:
        """The one value of this name."""
        (value,) = self._values[name]
        return value

    def maybe_octets(self, name: str) -> bytes | None:
        """The one value of this name, or None where BouncyCastle sent none."""
        return self.octets(name) if name in self._values else None

    def text(self, name: str) -> str:
        """As text."""
        return self.octets(name).decode()

    def integer(self, name: str) -> int | None:
        """As a decimal number, or None where absent."""
        value = self.maybe_octets(name)
        return None if value is None else int(value)

    def flag(self, name: str) -> bool:
        """As a truth value; absent is false."""
        return self.maybe_octets(name) == b"1"

    def time(self, name: str) -> datetime | None:
        """As a UTC time, or None where absent."""
        seconds = self.integer(name)
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    def texts(self, name: str) -> list[str]:
        """All values of this name, in order."""
        return [value.decode() for value in self._values.get(name, [])]


def _required(value: datetime | None) -> datetime:
    assert value is not None
    return value


Value = bytes | str | int | bool | datetime


def _encode(name: str, value: Value) -> str:
    if isinstance(value, bool):
        value = b"1" if value else b"0"
    elif isinstance(value, datetime):
        value = str(int(value.timestamp())).encode()
    elif isinstance(value, int):
        value = str(value).encode()
    elif isinstance(value, str):
        value = value.encode()
    return f"{name}={base64.b64encode(value).decode()}"


class BouncyCastle:
    """The running judge. Use as a context manager; safe to call from several threads."""

    def __init__(self) -> None:
        classpath = ":".join([str(_compiled()), *map(str, _jars())])
        java = _tool("java", "default-jre-headless")
        self._lock = threading.Lock()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx768m", "-cp", classpath, "Judge"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
        )

    def __enter__(self) -> "BouncyCastle":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the Java process, which stops when its input ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()
        self._complaints.close()

    def ask(self, command: str, *arguments: tuple[str, Value | None]) -> Answer:
        """One command. Arguments whose value is None are left out; names may repeat."""
        fields = [command, *(_encode(name, value) for name, value in arguments if value is not None)]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write("\t".join(fields).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline().decode().rstrip("\n")
        verdict, *rest = line.split("\t")
        if verdict == "ok":
            return Answer(rest)
        if not line:
            self._complaints.seek(0)
            raise RuntimeError("the Java judge died: " + self._complaints.read().decode(errors="replace"))
        reason = base64.b64decode(rest[0]).decode()
        raise (Refused if verdict == "refused" else Misuse)(reason)

    def version(self) -> str:
        """BouncyCastle's version."""
        return self.ask("version").text("version")

    # ---- SM2

    def generate(self) -> KeyPair:
        """A new SM2 key pair."""
        answer = self.ask("sm2-generate")
        return KeyPair(answer.octets("private"), answer.octets("public"))

    def sign(self, private: bytes, message: bytes, *, user_id: bytes = DEFAULT_ID) -> bytes:
        """DER SM2Signature over a message."""
        arguments = (("private", private), ("message", message), ("id", user_id))
        return self.ask("sm2-sign", *arguments).octets("signature")

    def verify(self, public: bytes, message: bytes, signature: bytes, *, user_id: bytes = DEFAULT_ID) -> None:
        """Raise Refused unless the DER signature over the message is the key's."""
        self.ask("sm2-verify", ("public", public), ("message", message), ("signature", signature), ("id", user_id))

    def encrypt(self, public: bytes, plaintext: bytes, *, encoding: str = "c1c3c2") -> bytes:
        """SM2 ciphertext, `c1c3c2` or `der` (GM/T 0009 SM2Cipher)."""
        arguments = (("public", public), ("plaintext", plaintext), ("encoding", encoding))
        return self.ask("sm2-encrypt", *arguments).octets("ciphertext")

    def decrypt(self, private: bytes, ciphertext: bytes, *, encoding: str = "c1c3c2") -> bytes:
        """The plaintext, or Refused."""
        arguments = (("private", private), ("ciphertext", ciphertext), ("encoding", encoding))
        return self.ask("sm2-decrypt", *arguments).octets("plaintext")

    def open_enveloped_key(self, private: bytes, envelope: bytes) -> KeyPair:
        """Open an SM2EnvelopedKey (GM/T 0009 7.4) and prove that the key inside fits its public key."""
        answer = self.ask("enveloped-key-open", ("private", private), ("envelope", envelope))
        return KeyPair(answer.octets("private"), answer.octets("public"))

    # ---- certificates

    @staticmethod
    def _certificate(answer: Answer) -> CertificateView:
        return CertificateView(
            subject=answer.text("subject"),
            issuer=answer.text("issuer"),
            serial=int(answer.text("serial"), 16),
            not_before=_required(answer.time("not_before")),
            not_after=_required(answer.time("not_after")),
            public=answer.octets("public"),
            spki_algorithm=answer.octets("spki_algorithm"),
            signature_algorithm=answer.octets("signature_algorithm"),
            extensions=answer.texts("extension"),
            critical=answer.texts("critical"),
            key_usage=set(answer.texts("key_usage")),
            extended_key_usage=answer.texts("extended_key_usage"),
            is_ca=answer.flag("is_ca"),
            path_length=answer.integer("path_length"),
            subject_key_id=answer.maybe_octets("subject_key_id"),
            authority_key_id=answer.maybe_octets("authority_key_id"),
            crl_uris=answer.texts("crl_uri"),
        )

    def read_certificate(self, certificate: bytes) -> CertificateView:
        """What is in it; no signature is checked."""
        return self._certificate(self.ask("certificate-read", ("certificate", certificate)))

    def verify_certificate(self, certificate: bytes, issuer: bytes) -> CertificateView:
        """Signature by the issuer's key, names chained, both algorithm identifiers the same."""
        return self._certificate(self.ask("certificate-verify", ("certificate", certificate), ("issuer", issuer)))

    def validate_path(
        self,
        anchor: bytes,
        chain: Iterable[bytes],
        *,
        at: datetime,
        crls: Iterable[bytes] | None = None,
        deltas: bool = False,
    ) -> None:
        """PKIX path validation of `chain` (leaf first) at a time; with `crls`, revocation against them."""
        self.ask(
            "path-validate",
            ("anchor", anchor),
            ("at", at),
            ("revocation", crls is not None),
            ("deltas", deltas),
            *(("certificate", der) for der in chain),
            *(("crl", der) for der in crls or ()),
        )

    # ---- CRL and OCSP

    def check_crl(self, crl: bytes, issuer: bytes, serials: Iterable[int] = (), *, list_all: bool = False) -> CrlView:
        """Signature, names, key identifier, DER, no serial twice; and which of `serials` are listed."""
        asked = [("serial", f"{serial:x}") for serial in serials]
        answer = self.ask("crl-check", ("crl", crl), ("issuer", issuer), ("list", list_all), *asked)
        listed = {}
        for line in answer.texts("listed"):
            serial, reason, seconds = line.split()
            listed[int(serial, 16)] = CrlEntry(int(reason), datetime.fromtimestamp(int(seconds), UTC))
        return CrlView(
            this_update=_required(answer.time("this_update")),
            next_update=answer.time("next_update"),
            number=answer.integer("number"),
            base_number=answer.integer("base_number"),
            extensions=answer.texts("extension"),
            critical=answer.texts("critical"),
            idp=answer.flag("idp"),
            idp_critical=answer.flag("idp_critical"),
            idp_uris=answer.texts("idp_uri"),
            idp_name=answer.maybe_octets("idp_name"),
            only_user=answer.flag("only_user"),
            only_ca=answer.flag("only_ca"),
            only_attribute=answer.flag("only_attribute"),
            indirect=answer.flag("indirect"),
            entries=int(answer.text("entries")),
            listed=listed,
            serials={int(serial, 16) for serial in answer.texts("entry")},
        )

    def ocsp_status(self, response: bytes) -> int:
        """OCSPResponseStatus (RFC 6960 4.2.1): 0 successful, 1 malformed, 3 try later, 6 unauthorized."""
        return int(self.ask("ocsp-status", ("response", response)).text("status"))

    def check_ocsp(self, response: bytes, issuer: bytes, serial: int) -> OcspView:
        """Everything RFC 6960 3.2 asks of a client about this serial, save the clock and the nonce."""
        arguments = (("response", response), ("issuer", issuer), ("serial", f"{serial:x}"))
        answer = self.ask("ocsp-check", *arguments)
        return OcspView(
            status=answer.text("status"),
            reason=answer.integer("reason"),
            revoked_at=answer.time("revoked_at"),
            this_update=_required(answer.time("this_update")),
            next_update=answer.time("next_update"),
            produced_at=_required(answer.time("produced_at")),
            nonce=answer.maybe_octets("nonce"),
            digest=answer.text("digest"),
            cert_id=answer.octets("cert_id"),
            responses=int(answer.text("responses")),
            responder=answer.text("responder"),
            responder_id=answer.text("responder_id"),
            responder_not_after=_required(answer.time("responder_not_after")),
            no_check=answer.flag("no_check"),
            single_extensions=answer.texts("single_extension"),
        )

    def make_ocsp_request(
        self,
        issuer: bytes,
        serials: Iterable[int],
        *,
        digest: str = "sm3",
        nonce: bytes | None = None,
        null_parameters: bool = False,
    ) -> bytes:
        """An OCSPRequest; `digest` is sm3, sha1 or sha256; `null_parameters`: NULL beside its OID."""
        asked = [("serial", f"{serial:x}") for serial in serials]
        return self.ask(
            "ocsp-request",
            ("issuer", issuer),
            ("digest", digest),
            ("nonce", nonce),
            ("null_parameters", null_parameters),
            *asked,
        ).octets("request")

    # ---- foreign objects

    def make_csr(self, subject: str, *, private: bytes | None = None) -> Csr:
        """A PKCS#10 request for `subject` ("C=CN,CN=..."), under a new key unless one is given."""
        answer = self.ask("csr-make", ("subject", subject), ("private", private))
        return Csr(answer.octets("private"), answer.octets("public"), answer.octets("csr"))

    def verify_csr(self, csr: bytes) -> tuple[str, bytes]:
        """Subject and public key of a request whose signature verifies."""
        answer = self.ask("csr-verify", ("csr", csr))
        return answer.text("subject"), answer.octets("public")

    def make_certificate(
        self,
        kind: str,
        subject: str,
        public: bytes,
        *,
        private: bytes,
        issuer: bytes | None,
        serial: int,
        not_before: datetime,
        not_after: datetime,
        crl_uri: str | None = None,
    ) -> bytes:
        """A certificate; `kind` is root, authority, sign, encrypt or ocsp; `private` is the issuer's key."""
        return self.ask(
            "certificate-make",
            ("kind", kind),
            ("subject", subject),
            ("public", public),
            ("private", private),
            ("issuer", issuer),
            ("serial", f"{serial:x}"),
            ("not_before", not_before),
            ("not_after", not_after),
            ("crl_uri", crl_uri),
        ).octets("certificate")

    def make_crl(
        self,
        issuer: bytes,
        private: bytes,
        *,
        number: int,
        this_update: datetime,
        next_update: datetime,
        entries: Iterable[tuple[int, int, datetime]] = (),
        idp_uri: str | None = None,
    ) -> bytes:
        """A CRL; an entry is serial, reason code, date."""
        lines = [f"{serial:x} {reason} {int(date.timestamp())}" for serial, reason, date in entries]
        return self.ask(
            "crl-make",
            ("issuer", issuer),
            ("private", private),
            ("number", number),
            ("this_update", this_update),
            ("next_update", next_update),
            ("idp_uri", idp_uri),
            *(("entry", line) for line in lines),
        ).octets("crl")

    def make_ocsp_response(
        self,
        issuer: bytes,
        serial: int,
        status: str,
        *,
        responder: bytes,
        private: bytes,
        this_update: datetime,
        next_update: datetime,
        produced_at: datetime,
        reason: int | None = None,
        revoked_at: datetime | None = None,
        digest: str = "sm3",
        nonce: bytes | None = None,
        by_key: bool = False,
    ) -> bytes:
        """An OCSPResponse about one serial, signed by `responder` (embedded unless it is the issuer)."""
        return self.ask(
            "ocsp-make",
            ("issuer", issuer),
            ("serial", f"{serial:x}"),
            ("status", status),
            ("responder", responder),
            ("private", private),
            ("this_update", this_update),
            ("next_update", next_update),
            ("produced_at", produced_at),
            ("reason", reason),
            ("revoked_at", revoked_at),
            ("digest", digest),
            ("nonce", nonce),
            ("by_key", by_key),
        ).octets("response")

    # ---- GM/T 0010 messages

    def verify_cms(self, message: bytes, *, content: bytes | None = None, certificates: Iterable[bytes] = ()) -> Answer:
        """SignedData whose every signature verifies, as read by BouncyCastle's own structures.

        The answer has content_type, content (where attached), certificate, crl, digest and signature (OIDs).
        """
        others = [("certificate", der) for der in certificates]
        return self.ask("cms-verify", ("message", message), ("content", content), *others)

    def make_cms(
        self,
        content: bytes,
        signers: Iterable[tuple[bytes, bytes]],
        *,
        detached: bool = False,
        attributes: bool = False,
        null_parameters: bool = False,
        signature: str | None = None,
    ) -> bytes:
        """SignedData by (private key, certificate) each; `signature` names the signature algorithm otherwise."""
        named = [field for private, der in signers for field in (("private", private), ("certificate", der))]
        options = {"detached": detached, "attributes": attributes, "null_parameters": null_parameters}
        answer = self.ask("cms-make", ("content", content), ("signature", signature), *options.items(), *named)
        return answer.octets("message")

    def open_cms(self, message: bytes, certificate: bytes, private: bytes) -> bytes:
        """The content of EnvelopedData, for one of its recipients."""
        arguments = (("message", message), ("certificate", certificate), ("private", private))
        return self.ask("cms-open", *arguments).octets("content")

    def make_envelope(self, content: bytes, certificates: Iterable[bytes], *, cipher: str | None = None) -> bytes:
        """EnvelopedData for the certificates' keys; `cipher` names SM4-CBC otherwise."""
        recipients = [("certificate", der) for der in certificates]
        return self.ask("cms-envelope", ("content", content), ("cipher", cipher), *recipients).octets("message")

    # ---- CA-KM messages

    def ask_centre(
        self, private: bytes, certificate: bytes, *, task: int, number: int, recipient: bytes, kind: str = "apply"
    ) -> bytes:
        """A CARequest (GM/T 0014) of the authority with that key and certificate; kind: apply, restore or revoke."""
        arguments = (("private", private), ("certificate", certificate), ("task", str(task)), ("kind", kind))
        return self.ask("km-ask", *arguments, ("number", f"{number:x}"), ("recipient", recipient)).octets("message")

    def open_centre_answer(self, message: bytes, certificate: bytes, private: bytes) -> Answer:
        """A KMRespond with one answer, its signatures checked: task, kind (the choice's tag), number (hexadecimal).

        Of a returned key also private and public, opened with the user's key and found to belong together.
        """
        return self.ask("km-open", ("message", message), ("certificate", certificate), ("private", private))
