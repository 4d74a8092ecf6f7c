"""The OpenSSL command line as a judge and as a maker of foreign input.

OpenSSL 3.0 knows SM2 and SM3 but takes an empty user ID unless told otherwise, and most of its commands
cannot be told: `pkeyutl`, `verify` and `req` can. So CRLs and OCSP responses are split here (`der`) and their
signed bytes given to `pkeyutl`; the higher commands only read structure.
"""

import base64
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.judges import JudgeMissing, Refused, der

DEFAULT_ID = b"1234567812345678"
_SPKI_HEAD = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200")


def _run(arguments: list[str | Path], *, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("openssl")
    if program is None:
        raise JudgeMissing("openssl is not installed: apt install openssl")
    return subprocess.run([program, *map(str, arguments)], input=stdin, capture_output=True, check=False)


def run(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    """Standard output of one openssl command, or Refused with what it said."""
    done = _run(list(arguments), stdin=stdin)
    if done.returncode:
        raise Refused((done.stderr + done.stdout).decode(errors="replace").strip())
    return done.stdout


def version() -> str:
    """OpenSSL's version line."""
    return run("version").decode().strip()


def spki(public: bytes) -> bytes:
    """SubjectPublicKeyInfo of an uncompressed SM2 point (GB/T 35276: id-ecPublicKey with the SM2 curve)."""
    if len(public) != 65 or public[0] != 4:
        raise ValueError("an uncompressed point has 65 bytes and starts with 04")
    return _SPKI_HEAD + public


def public_point(certificate: bytes) -> bytes:
    """The 65 bytes of a certificate's public key, read by OpenSSL."""
    pem = run("x509", "-inform", "DER", "-noout", "-pubkey", stdin=certificate)
    return run("pkey", "-pubin", "-outform", "DER", stdin=pem)[-65:]


def _pkcs8(private: bytes, public: bytes) -> bytes:
    """An unencrypted PKCS#8 of d and its point, as OpenSSL itself writes it."""
    head = bytes.fromhex("308187020100301306072a8648ce3d020106082a811ccf5501822d046d306b0201010420")
    return head + private + bytes.fromhex("a144034200") + public


def pkcs8_pem(private: bytes, public: bytes) -> bytes:
    """The same as OpenSSL writes it to a file."""
    return run("pkey", "-inform", "DER", stdin=_pkcs8(private, public))


class Work:
    """A scratch directory for the files the command line wants."""

    def __enter__(self) -> "Work":
        self._held = tempfile.TemporaryDirectory(prefix="qianyan-openssl-")
        self.path = Path(self._held.name)
        return self

    def __exit__(self, *_: object) -> None:
        self._held.cleanup()

    def file(self, name: str, content: bytes) -> Path:
        """Write one file and name it."""
        path = self.path / name
        path.write_bytes(content)
        return path


# ---- raw SM2


def verify(public: bytes, message: bytes, signature: bytes, *, user_id: bytes = DEFAULT_ID) -> None:
    """Raise Refused unless the DER signature over the message is the key's."""
    with Work() as work:
        run(
            *("pkeyutl", "-verify", "-rawin", "-digest", "sm3", "-pubin", "-keyform", "DER"),
            *("-inkey", work.file("key", spki(public)), "-sigfile", work.file("sig", signature)),
            *("-in", work.file("message", message), "-pkeyopt", f"hexdistid:{user_id.hex()}"),
        )


def verify_digest(public: bytes, digest: bytes, signature: bytes) -> None:
    """The same over the 32-byte e itself."""
    with Work() as work:
        run(
            *("pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", work.file("key", spki(public))),
            *("-sigfile", work.file("sig", signature), "-in", work.file("digest", digest)),
        )


def sign(private: bytes, public: bytes, message: bytes, *, user_id: bytes = DEFAULT_ID) -> bytes:
    """DER signature over a message."""
    with Work() as work:
        return run(
            *("pkeyutl", "-sign", "-rawin", "-digest", "sm3", "-keyform", "DER"),
            *("-inkey", work.file("key", _pkcs8(private, public)), "-in", work.file("message", message)),
            *("-pkeyopt", f"hexdistid:{user_id.hex()}"),
        )


def encrypt(public: bytes, plaintext: bytes) -> bytes:
    """SM2Cipher DER."""
    with Work() as work:
        return run(
            *("pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", work.file("key", spki(public))),
            *("-in", work.file("plain", plaintext)),
        )


def decrypt(private: bytes, public: bytes, ciphertext: bytes) -> bytes:
    """The plaintext of an SM2Cipher, or Refused."""
    with Work() as work:
        return run(
            *("pkeyutl", "-decrypt", "-keyform", "DER", "-inkey", work.file("key", _pkcs8(private, public))),
            *("-in", work.file("cipher", ciphertext)),
        )


# ---- signed objects


def verify_signed(signed: bytes, issuer: bytes) -> None:
    """Check the signature of a certificate or CRL with the key in the issuer's certificate."""
    parts = der.split(signed)
    verify(public_point(issuer), parts.tbs, parts.signature)


def embedded_certificates(response: bytes) -> list[bytes]:
    """The certificates inside an OCSP response (BasicOCSPResponse.certs, tag [0])."""
    parts = der.basic_response(response).children()
    if len(parts) < 4:
        return []
    return [cert.encoded for cert in parts[3].children()[0].children()]


def verify_ocsp(response: bytes, issuer: bytes) -> None:
    """Check an OCSP response: its signature by the embedded responder, that one's by the issuer."""
    embedded = embedded_certificates(response)
    for certificate in embedded:
        verify_signed(certificate, issuer)
    parts = der.split_ocsp(response)
    verify(public_point(embedded[0] if embedded else issuer), parts.tbs, parts.signature)


def verify_certificate(certificate: bytes, issuer: bytes) -> None:
    """`openssl verify` of one hop: `-vfyopt` reaches only the leaf, so a chain is verified hop by hop."""
    with Work() as work:
        run(
            *("verify", "-vfyopt", f"hexdistid:{DEFAULT_ID.hex()}", "-partial_chain", "-no_check_time"),
            *("-CAfile", work.file("issuer.pem", pem("CERTIFICATE", issuer))),
            work.file("leaf.pem", pem("CERTIFICATE", certificate)),
        )


def pem(label: str, content: bytes) -> bytes:
    """DER in PEM armour (RFC 7468)."""
    body = base64.b64encode(content)
    lines = b"\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label.encode(), lines, label.encode())


def make_ocsp_request(issuer: bytes, certificate: bytes, *, digest: str = "sm3", nonce: bool = True) -> bytes:
    """An OCSP request as the command line makes it: CertID under `digest` with NULL parameters."""
    with Work() as work:
        out = work.path / "request"
        run(
            *("ocsp", f"-{digest}", "-issuer", work.file("issuer.pem", pem("CERTIFICATE", issuer))),
            *("-cert", work.file("leaf.pem", pem("CERTIFICATE", certificate))),
            *("-nonce" if nonce else "-no_nonce", "-reqout", out),
        )
        return out.read_bytes()


def ocsp_text(response: bytes) -> str:
    """A response as OpenSSL prints it; Refused where it will not parse. No signature is checked."""
    with Work() as work:
        return run(*("ocsp", "-respin", work.file("response", response), "-resp_text", "-noverify")).decode(
            errors="replace"
        )


def crl_text(crl: bytes) -> str:
    """A CRL as OpenSSL prints it. No signature is checked."""
    return run("crl", "-inform", "DER", "-noout", "-text", stdin=crl).decode(errors="replace")


def certificate_text(certificate: bytes) -> str:
    """A certificate as OpenSSL prints it."""
    return run("x509", "-inform", "DER", "-noout", "-text", stdin=certificate).decode(errors="replace")


# ---- keys and requests


def make_key() -> bytes:
    """A new SM2 private key, PKCS#8 PEM."""
    curve = ("-pkeyopt", "ec_paramgen_curve:SM2", "-pkeyopt", "ec_param_enc:named_curve")
    return run("genpkey", "-algorithm", "EC", *curve)


def make_csr(key_pem: bytes, subject: str) -> bytes:
    """A PKCS#10 request (DER) signed under the default ID; `subject` in OpenSSL's form, `/C=CN/CN=...`."""
    with Work() as work:
        key = work.file("key.pem", key_pem)
        return run(
            *("req", "-new", "-utf8", "-sm3", "-key", key, "-subj", subject, "-outform", "DER"),
            *("-sigopt", f"hexdistid:{DEFAULT_ID.hex()}"),
            *("-config", work.file("req.cnf", b"[req]\ndistinguished_name=d\n[d]\n")),
        )


def verify_csr(csr: bytes) -> None:
    """Check a request's own signature under the default ID."""
    pem_key = run("req", "-inform", "DER", "-noout", "-pubkey", stdin=csr)
    parts = der.split(csr)
    verify(run("pkey", "-pubin", "-outform", "DER", stdin=pem_key)[-65:], parts.tbs, parts.signature)


def read_private_key(key: bytes, *, password: bytes | None = None, form: str = "PEM") -> tuple[bytes, bytes]:
    """(d, point) of a private key file, encrypted or not."""
    with Work() as work:
        secret = work.file("password", (password or b"") + b"\n")
        text = run(
            *("pkey", "-inform", form, "-in", work.file("key", key), "-passin", f"file:{secret}"),
            *("-noout", "-text"),
        ).decode()
    return _hex_block(text, "priv:").rjust(32, b"\x00")[-32:], _hex_block(text, "pub:")


def _hex_block(text: str, title: str) -> bytes:
    """The colon-separated hexadecimal lines under a title in OpenSSL's text output."""
    lines = text.split(title, 1)[1].splitlines()[1:]
    digits = []
    for line in lines:
        if not line.startswith(" "):
            break
        digits.append(line.strip().replace(":", ""))
    return bytes.fromhex("".join(digits))


def encrypt_private_key(private: bytes, public: bytes, password: bytes) -> bytes:
    """A key as encrypted PKCS#8 PEM (PBES2, AES-256), to feed to our reader."""
    with Work() as work:
        return run(
            *("pkcs8", "-topk8", "-inform", "DER", "-in", work.file("key", _pkcs8(private, public))),
            *("-v2", "aes-256-cbc", "-passout", f"file:{work.file('password', password)}"),
        )
