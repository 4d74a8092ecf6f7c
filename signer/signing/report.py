"""Verification reports: one signed record of what was checked, against what, when, and with what result.

A record is {"report": …, "signature": …} in canonical JSON (RFC 8785); the signature is SM2 with SM3 (GB/T 32918.2)
under the default user id over the canonical form of its "report", which names the signer's certificate and chain by
SM3. `Reporter` makes records; `check` and `Checked.judge_signer` need nothing but the bytes and anchors, so that a
record can be judged off line, years later. Knows verdicts and the engine; not HTTP. Nothing of a record is logged.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from core.clock import Clock, from_datetime, rfc3339
from core.errors import Malformed, Refused
from core.model import serial_to_hex
from core.store import keys
from core.store.database import Database
from signer._native import sm2
from signer.engine.engine import SigningEngine
from signer.signing import canonical
from signer.signing.foreign import Evidence, sm3
from signer.signing.hierarchy import Hierarchy
from signer.signing.parsed import Parsed, parse
from signer.signing.paths import PathFinder, SignatureCache
from signer.signing.trust import Trust
from signer.signing.verdicts import Verdict, VerifyItem
from signer.signing.verification import VerificationService
from signer.signing.verification_settings import VerificationSettings

FORMAT: Final = "qianyan-verification-report/1"
ALGORITHM: Final = "sm2-with-sm3"
#: The longest record that is read.
RECORD_MAX_BYTES: Final = 64 << 20
_ALL_CHECKS: Final = ["signature", "chain", "validity", "key_usage", "status"]


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What the caller wants in: a reference of its own, and the subjects of the holders' certificates, which are
    personal data as often as not. Authorities' names are always in."""

    reference: str | None = None
    subjects: bool = True


class Reporter:
    """Makes records, signed by `key_id`."""

    def __init__(
        self,
        engine: SigningEngine,
        database: Database,
        verification: VerificationService,
        clock: Clock,
        key_id: str,
        version: str,
    ) -> None:
        self._engine = engine
        self._database = database
        self._verification = verification
        self._clock = clock
        self._key_id = key_id
        self._version = version

    async def make(
        self, judged: Sequence[tuple[VerifyItem | None, Verdict]], options: ReportOptions, caller: str
    ) -> bytes:
        """The record. An item of None could not be read at all.

        Raises Refused (code "report_certificate": the key has no certificate), and as `SigningEngine.sign_message`.
        """
        certificate, chain = await self._signer()
        report: dict[str, Any] = {
            "format": FORMAT,
            "id": secrets.token_hex(16),
            "created_at": rfc3339(self._clock()),
            "service": {"name": "qianyan", "version": self._version},
            "reference": options.reference,
            "summary": {"items": len(judged), "valid": sum(verdict.valid for _, verdict in judged)},
            "items": [_item(index, item, verdict) for index, (item, verdict) in enumerate(judged)],
            "certificates": _certificates([verdict for _, verdict in judged], options),
            "statuses": _statuses([verdict for _, verdict in judged]),
            "signer": {"certificate": sm3(certificate).hex(), "chain": [sm3(link).hex() for link in chain]},
        }
        message = canonical.encode(report)
        raw = await self._engine.sign_message(self._key_id, message, user_id=sm2.DEFAULT_ID, caller=caller)
        signature = {
            "algorithm": ALGORITHM,
            "certificate": _text(certificate),
            "chain": [_text(link) for link in chain],
            "value": _text(sm2.signature_to_der(raw)),
        }
        return canonical.encode({"report": report, "signature": signature})

    async def _signer(self) -> tuple[bytes, list[bytes]]:
        """The key's certificate and, where it is ours, the authorities above it."""
        async with self._database.read() as connection:
            certificate = (await keys.get(connection, self._key_id)).certificate
        if certificate is None:
            raise Refused(
                f"the key {self._key_id!r} that signs reports has no certificate: qianyan key service --certificate",
                code="report_certificate",
            )
        issuer = (await self._verification.hierarchy()).issuer_of(parse(certificate))
        return certificate, [] if issuer is None else [link.parsed.encoded for link in issuer.path()]


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _item(index: int, item: VerifyItem | None, verdict: Verdict) -> dict[str, Any]:
    out: dict[str, Any] = {
        "index": index,
        "valid": verdict.valid,
        "reason": verdict.reason,
        "detail": verdict.detail,
        "checked": ["format"],
    }
    if item is None:
        return out
    out["checked"] = ["signature"] if item.certificate is None else _ALL_CHECKS
    out["signature"] = None if item.signature is None else item.signature.hex()
    out["at"] = None if item.at_ms is None else rfc3339(item.at_ms)
    if item.digest is not None:
        out["digest"] = item.digest.hex()
    elif item.data is not None:
        out |= {"data_sm3": sm3(item.data).hex(), "data_octets": len(item.data), "user_id": item.user_id.hex()}
    if item.certificate is None:
        out["public_key"] = (item.public_key or b"").hex()
        return out
    out["certificate"] = sm3(item.certificate).hex()
    out["path"] = [sm3(link.encoded).hex() for link in verdict.path[1:]]
    if verdict.checked_at_ms is not None:
        out["checked_at"] = rfc3339(verdict.checked_at_ms)
    if verdict.revoked_at_ms is not None:
        out["revoked_at"] = rfc3339(verdict.revoked_at_ms)
    if verdict.revocation_reason is not None:
        out["revocation_reason"] = verdict.revocation_reason.label
    return out


def _certificates(verdicts: Sequence[Verdict], options: ReportOptions) -> dict[str, Any]:
    """What is said of each certificate, by the SM3 of its DER."""
    out: dict[str, Any] = {}
    for verdict in verdicts:
        for depth, parsed in enumerate(verdict.path):
            name = sm3(parsed.encoded).hex()
            if name in out and depth == 0:
                continue
            out[name] = {
                "serial": serial_to_hex(parsed.serial),
                "issuer": parsed.text_of(parsed.issuer),
                "not_before": rfc3339(parsed.not_before_ms),
                "not_after": rfc3339(parsed.not_after_ms // 1000 * 1000),
                "subject": parsed.text_of(parsed.subject) if depth or options.subjects else None,
            }
    return out


def _statuses(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """What the statuses rest on, each once."""
    found: dict[Evidence, None] = {entry: None for verdict in verdicts for entry in verdict.evidence}
    return [
        {
            "certificate": entry.subject_sm3.hex(),
            "kind": entry.kind,
            "source": entry.source,
            "this_update": rfc3339(entry.this_update_ms),
            "next_update": None if entry.next_update_ms is None else rfc3339(entry.next_update_ms),
            "produced_at": None if entry.produced_at_ms is None else rfc3339(entry.produced_at_ms),
            "crl_number": None if entry.crl_number is None else str(entry.crl_number),
            "sm3": None if entry.sm3 is None else entry.sm3.hex(),
        }
        for entry in found
    ]


@dataclass(frozen=True, slots=True)
class Checked:
    """A record whose signature verifies under the certificate that it carries. Whom that is: `judge_signer`."""

    report: dict[str, Any]
    signer: Parsed
    chain: tuple[Parsed, ...]
    created_at_ms: int

    def judge_signer(self, anchors: Sequence[Parsed]) -> None:
        """Returns where the signer's certificate leads to an anchor and was valid for data when the record was made.

        Raises Refused (code "report_signer"). Whether it was revoked is not to be had off line.
        """
        finder = PathFinder(Hierarchy(()), Trust.of(anchors), self.chain, SignatureCache(64), VerificationSettings())
        paths = [
            path
            for issuer in finder.issuers_of(self.signer)
            if finder.check(self.signer, issuer)
            for path in finder.paths(issuer)[0]
            if all(link.valid_at(self.created_at_ms) for link in path)
        ]
        usage = self.signer.key_usage
        if not paths or not self.signer.understood:
            raise Refused("the signer's certificate does not lead to any of the anchors", code="report_signer")
        if not self.signer.valid_at(self.created_at_ms):
            raise Refused("the signer's certificate was not valid when the record was made", code="report_signer")
        if usage is None or not (usage.digital_signature or usage.content_commitment):
            raise Refused("the signer's certificate is not for signing data", code="report_signer")


def check(encoded: bytes) -> Checked:
    """Reads a record and verifies its signature. Raises Malformed or Refused: it was changed, or is none."""
    value = canonical.decode(encoded)
    try:
        report, signature = value["report"], value["signature"]
        if set(value) != {"report", "signature"} or report["format"] != FORMAT:
            raise Malformed(f"it is not a record of format {FORMAT}", code="report_format")
        if set(signature) != {"algorithm", "certificate", "chain", "value"} or signature["algorithm"] != ALGORITHM:
            raise Malformed("its signature is of another form", code="report_format")
        certificate = _octets(signature["certificate"])
        chain = [_octets(link) for link in signature["chain"]]
        named = {"certificate": sm3(certificate).hex(), "chain": [sm3(link).hex() for link in chain]}
        created_at_ms = _time_ms(report["created_at"])
        if report["signer"] != named:
            raise Refused("the certificates beside the signature are not those that the report names", code="signature")
        signer = parse(certificate)
        signer.public_key.verify(
            canonical.encode(report), sm2.signature_from_der(_octets(signature["value"])), user_id=sm2.DEFAULT_ID
        )
        return Checked(report, signer, tuple(parse(link) for link in chain), created_at_ms)
    except (sm2.InvalidSignature, sm2.InvalidEncoding) as error:
        raise Refused("the signature does not verify: the record was changed", code="signature") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed("it is not a verification report", code="report_format") from error


def _octets(text: Any) -> bytes:
    """Strict base64: one form for the same octets."""
    try:
        octets = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise Malformed("a certificate or signature in it is not base64", code="report_format") from error
    if _text(octets) != text:
        raise Malformed("a certificate or signature in it is not in the one form of base64", code="report_format")
    return octets


def _time_ms(text: str) -> int:
    return from_datetime(datetime.fromisoformat(text))
