"""Reads lines of a bulk request file: JSON, holder, certificate request, what the profile grants of it.

As the HTTP route reads one (`http.IssueBody`, `csr.parse_request`, `policy.grant`), with the same refusals; plain
requests are taken apart natively and their signatures verified in one native batch, all others go the ordinary way.
What is accepted is the same. Pure: bytes in, `Asked` out; needs no event loop, and runs in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from pydantic import ValidationError

from core.asn1.plain_names import encode_plain, read_plain
from core.asn1.x509 import Extension
from core.errors import Malformed, QianyanError, Refused, TooLarge
from core.settings import explain
from signer._native import sm2, sm3
from signer.holders.claim import HolderClaim
from signer.holders.vault import Sealer
from signer.issuance._template import split_request
from signer.issuance.csr import parse_request
from signer.issuance.http import IssueBody, read_csr
from signer.issuance.policy import grant
from signer.issuance.profiles import Profile, Profiles

#: What a line holds beside its request.
_REST_BYTES: Final = 8 * 1024
_SIGNATURE_BYTES: Final = 64
_VALID: Final = 1


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file, counted from 1. `octets`: how much of the file it is; `text` None: it is too long."""

    number: int
    octets: int
    text: bytes | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a line asks for. `csr_digest`: names its request on the audit record; `number_hash`: of its holder."""

    line: Line
    csr_digest: bytes
    profile_name: str
    profile: Profile
    subject: bytes
    extensions: tuple[Extension, ...]
    public_key: bytes
    claim: HolderClaim | None
    number_hash: bytes | None


@dataclass(frozen=True, slots=True)
class Bad:
    """A line that asks for nothing that can be had."""

    line: Line
    csr_digest: bytes | None
    error: QianyanError


@dataclass(slots=True)
class _Reading:
    """A line on its way. `plain`: (info, point, signature) still to be verified."""

    line: Line
    csr: bytes = b""
    csr_digest: bytes | None = None
    profile_name: str = ""
    profile: Profile | None = None
    claim: HolderClaim | None = None
    fields: dict[str, list[str]] | None = None
    plain: tuple[bytes, sm2.PublicKey, bytes] | None = None
    error: QianyanError | None = None


class LineReader:
    """Reads under one installation's profiles, for one authority."""

    def __init__(self, profiles: Profiles, authority_id: str, max_csr_bytes: int) -> None:
        self._profiles = profiles
        self._authority_id = authority_id
        self._max_csr_bytes = max_csr_bytes

    @property
    def line_max(self) -> int:
        """The longest line that is looked at: a request in base64 and the rest."""
        return 2 * self._max_csr_bytes + _REST_BYTES

    def read(self, lines: Sequence[Line], sealer: Sealer | None) -> list[Asked | Bad]:
        """What each line asks for, in order. sealer: for the holders' hashes; None where no holders are kept."""
        readings = [self._open(line) for line in lines]
        self._verify([one for one in readings if one.plain is not None])
        found = [self._finish(one) for one in readings]
        claims = [(place, one.claim) for place, one in enumerate(found) if isinstance(one, _Granted) and one.claim]
        hashes: dict[int, bytes] = {}
        if sealer is not None and claims:
            digests = sealer.number_hashes([claim for _, claim in claims])
            hashes = dict(zip((place for place, _ in claims), digests, strict=True))
        return [one if isinstance(one, Bad) else one.asked(hashes.get(place)) for place, one in enumerate(found)]

    def _open(self, line: Line) -> _Reading:
        one = _Reading(line)
        try:
            body = self._body(line)
            one.csr = read_csr(body.csr)
            one.csr_digest = sm3.sm3(one.csr)
            one.profile_name = body.profile
            one.claim = None if body.holder is None else body.holder.claim()
            one.profile = self._profiles.get(body.profile)
            if len(one.csr) <= self._max_csr_bytes:
                self._split(one)
        except QianyanError as error:
            one.error = error
        return one

    def _body(self, line: Line) -> IssueBody:
        if line.text is None:
            raise TooLarge(f"a line has at most {self.line_max} octets", code="line_size", field="line")
        try:
            value = orjson.loads(line.text)
            body = IssueBody.model_validate(value)
        except orjson.JSONDecodeError as error:
            raise Malformed("the line is not JSON", code="json", field="line") from error
        except ValidationError as error:
            field, message = explain(error)
            raise Malformed(f"{field or 'line'}: {message}", code="body", field=field or None) from error
        if body.authority is not None and body.authority != self._authority_id:
            raise Refused(
                f"this run issues from authority {self._authority_id!r}; name it for the whole file",
                code="bulk_authority",
                field="authority",
            )
        return body

    def _split(self, one: _Reading) -> None:
        """The quick way, where the request is plain."""
        parts = split_request(one.csr)
        if parts is None:
            return
        info, attributes, point, signature = parts
        try:
            fields = read_plain(attributes)
            if fields is not None:
                one.plain = (info, sm2.PublicKey.from_bytes(point), sm2.signature_from_der(signature))
                one.fields = fields
        except (sm2.InvalidKey, sm2.InvalidEncoding):
            return

    def _verify(self, plain: Sequence[_Reading]) -> None:
        """One native batch; a request that does not verify goes the ordinary way, which says why."""
        parts = [one.plain for one in plain if one.plain is not None]
        if not parts:
            return
        keys = [key for _, key, _ in parts]
        digests = sm2.digest_many(keys, [info for info, _, _ in parts])
        valid = sm2.verify_many(keys, digests, b"".join([signature for _, _, signature in parts]))
        for one, result in zip(plain, valid, strict=True):
            if result != _VALID:
                one.plain = None

    def _finish(self, one: _Reading) -> _Granted | Bad:
        if one.error is None:
            try:
                return self._granted(one)
            except QianyanError as error:
                one.error = error
        return Bad(one.line, one.csr_digest, one.error)

    def _granted(self, one: _Reading) -> _Granted:
        assert one.profile is not None
        assert one.csr_digest is not None
        if one.plain is not None and one.fields is not None:
            subject = encode_plain(one.profile.subject.apply(one.fields))
            return _Granted(one, subject, (), one.plain[1].to_bytes())
        request = parse_request(one.csr, max_bytes=self._max_csr_bytes)
        granted = grant(request, one.profile)
        return _Granted(one, granted.subject, granted.extensions, request.public_key)


@dataclass(frozen=True, slots=True)
class _Granted:
    reading: _Reading
    subject: bytes
    extensions: tuple[Extension, ...]
    public_key: bytes

    @property
    def claim(self) -> HolderClaim | None:
        return self.reading.claim

    def asked(self, number_hash: bytes | None) -> Asked:
        one = self.reading
        assert one.profile is not None
        assert one.csr_digest is not None
        return Asked(
            line=one.line,
            csr_digest=one.csr_digest,
            profile_name=one.profile_name,
            profile=one.profile,
            subject=self.subject,
            extensions=self.extensions,
            public_key=self.public_key,
            claim=self.claim,
            number_hash=number_hash,
        )
