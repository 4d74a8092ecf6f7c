"""A status set that was checked and may be asked. Owns the failure rules: in doubt UNKNOWN or NOT_COVERED, never GOOD.

The caller validates the certificate's path and validity first; this only says whether its issuer has revoked it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from qianyan_status import _file
from qianyan_status._apply import apply_delta
from qianyan_status._certificate import CertificateFacts, read_certificate, status_place
from qianyan_status._errors import DeltaMismatch, StatusSetError
from qianyan_status._file import SetFile, Signed
from qianyan_status._lookup import Status, Table, fastest_index
from qianyan_status._sm3 import sm3

#: `verify(public_key, message, signature)`: the 65 octets of an SM2 point, the signed bytes, a DER SM2Signature; by
#: SM2 with SM3 under the user id 1234567812345678. Raises where the signature is not good, or answers False.
Verify = Callable[[bytes, bytes, bytes], object]

#: How far thisUpdate may lie ahead of this machine's clock, in seconds.
CLOCK_TOLERANCE_S: Final = 120


@dataclass(frozen=True, slots=True)
class Answer:
    """A status (GOOD, REVOKED, UNKNOWN or NOT_COVERED) and the moment that it speaks of.

    `on_hold`: REVOKED by certificateHold, which may end.
    """

    status: Status
    as_of: datetime
    on_hold: bool = False

    @property
    def ask_ocsp(self) -> bool:
        """Whether OCSP has to be asked."""
        return self.status in (Status.UNKNOWN, Status.NOT_COVERED)


def _now() -> int:
    return int(time.time())


class StatusSet:
    """A checked set.

    position: hand it to the next `load` as `last_position`, so that nobody gives you an older one.
    """

    def __init__(self, contents: SetFile, *, clock: Callable[[], int] = _now) -> None:
        self._contents = contents
        self._clock = clock
        self._index = fastest_index()(_table(contents))
        imports = contents.imports
        self._imported = frozenset(imports.revoked if imports else ()), frozenset(imports.held if imports else ())
        self.authority_key_id = contents.header.authority_key_id
        self.number = contents.header.number
        self.position = contents.header.position
        self.this_update = datetime.fromtimestamp(contents.header.this_update, UTC)
        self.next_update = datetime.fromtimestamp(contents.header.next_update, UTC)

    @property
    def contents(self) -> SetFile:
        """Everything that the files say, decoded."""
        return self._contents

    @property
    def stale(self) -> bool:
        """Past nextUpdate, or this machine's clock stands before thisUpdate: nothing is GOOD any more."""
        header, now = self._contents.header, self._clock()
        return not header.this_update - CLOCK_TOLERANCE_S <= now <= header.next_update

    def query(self, certificate: bytes) -> Answer:
        """The status of a DER certificate. Never raises for what stands in it: NOT_COVERED then."""
        try:
            status = self._status(read_certificate(certificate))
        except StatusSetError:
            status = Status.NOT_COVERED
        return self._answer(status)

    def query_index(self, authority_key_id: bytes, month: int, index: int, not_before: int) -> Answer:
        """The same for one whose extension was read before. `month`: year * 12 + month - 1 of notAfter in UTC;
        `not_before`: seconds since 1970."""
        if authority_key_id != self.authority_key_id:
            return self._answer(Status.NOT_COVERED)
        return self._answer(self._index.find(month, index, not_before, self.stale))

    def _answer(self, status: int) -> Answer:
        """To whoever looks at one certificate, a hold is a revocation."""
        if status == Status.HELD:
            return Answer(Status.REVOKED, self.this_update, on_hold=True)
        return Answer(Status(status), self.this_update)

    def query_many(self, records: bytes | bytearray | memoryview) -> bytes:
        """A Status octet for each record of `RECORD_BYTES`, all of this authority: little-endian month (4), index (4),
        notBefore in seconds since 1970 (8, signed)."""
        return self._index.find_many(records, self.stale)

    def _status(self, facts: CertificateFacts) -> Status:
        if facts.authority_key_id != self.authority_key_id:
            return Status.NOT_COVERED
        place = status_place(facts, self._contents.index_extension)
        if place is not None:
            return Status(self._index.find(*place, facts.not_before, self.stale))
        imports, as_of = self._contents.imports, self._contents.header.this_update
        if imports is None or facts.not_before >= imports.cutoff or facts.not_before > as_of:
            return Status.NOT_COVERED
        key = imports.key(facts.serial)
        revoked, held = self._imported
        if key in revoked:
            return Status.REVOKED
        if self.stale:
            return Status.UNKNOWN
        return Status.HELD if key in held else Status.GOOD


def _table(contents: SetFile) -> Table:
    octets = (_file.line_length(contents.spaces) + 7) // 8
    maps = bytearray(octets), bytearray(octets)
    for keys, bitmap in ((contents.revoked, maps[0]), (contents.held, maps[1])):
        for key in keys:
            bitmap[key >> 3] |= 1 << (key & 7)
    return Table(contents.spaces, bytes(maps[0]), bytes(maps[1]), contents.header.this_update)


def _accepts(verify: Verify, public_key: bytes, message: bytes, signature: bytes) -> None:
    """Raises StatusSetError where `verify` raises or answers anything but None or True."""
    try:
        verdict = verify(public_key, message, signature)
    except Exception as error:
        raise StatusSetError("the signature does not verify", code="signature") from error
    if verdict is not None and verdict is not True:
        raise StatusSetError("the signature does not verify", code="signature")


def _check_signature(signed: Signed, issuer: CertificateFacts, verify: Verify) -> None:
    """By the issuer's key, or by that of a signer whom the issuer has certified for status sets."""
    this_update = _file.read_header(signed.tbs).this_update
    if signed.signer is None:
        return _accepts(verify, issuer.public_key, signed.tbs, signed.signature)
    signer = read_certificate(signed.signer)
    _accepts(verify, issuer.public_key, signer.tbs, signer.signature)
    if (
        signer.algorithm != _file.SM3_WITH_SM2
        or signer.issuer != issuer.subject
        or _file.PURPOSE_SIGNER not in signer.extended_key_usages
        or not signer.may_sign_data
        or not signer.not_before <= this_update <= signer.not_after
    ):
        raise StatusSetError("the signer is not one that the issuer has named for status sets", code="signer")
    return _accepts(verify, signer.public_key, signed.tbs, signed.signature)


def _check_times(this_update: int, now: int) -> None:
    if this_update > now + CLOCK_TOLERANCE_S:
        raise StatusSetError("thisUpdate lies in the future; is this machine's clock right?", code="future")


def load(
    set_bytes: bytes,
    delta_bytes: bytes | None = None,
    *,
    issuer: bytes,
    verify: Verify,
    last_position: int = 0,
    clock: Callable[[], int] = _now,
) -> StatusSet:
    """Checks a set, with its delta where there is one.

    issuer: the issuing authority's certificate, DER, already validated. verify: see `Verify`. last_position:
    `StatusSet.position` of the last one that was taken; an older one is refused. clock: seconds since 1970.
    Raises DeltaMismatch where the delta does not fit the set: load the set alone and fetch both anew; StatusSetError
    where a file may not be used at all. A set past its nextUpdate is taken: what is revoked stays revoked.
    """
    authority = read_certificate(issuer)
    signed = _file.split(set_bytes)
    _check_signature(signed, authority, verify)  # before anything of it is unfolded
    contents = _file.read_set(signed.tbs)
    _check_issuer(contents, authority)
    _check_times(contents.header.this_update, clock())
    if delta_bytes is not None:
        signed_delta = _file.split(delta_bytes)
        _check_signature(signed_delta, authority, verify)
        delta = _file.read_delta(signed_delta.tbs)
        _check_times(delta.header.this_update, clock())
        contents = apply_delta(contents, sm3(set_bytes), delta)
        _check_signer_stands(signed_delta, contents)
    if contents.header.position < last_position:
        raise StatusSetError("the files are older than what was taken before", code="rollback")
    _check_signer_stands(signed, contents)
    return StatusSet(contents, clock=clock)


def _check_issuer(contents: SetFile, issuer: CertificateFacts) -> None:
    if contents.issuer_digest != sm3(issuer.spki):
        raise StatusSetError("the set is of another authority", code="issuer")
    own = issuer.subject_key_id
    if own is not None and own != contents.header.authority_key_id:
        raise StatusSetError("the set names another key than the authority's certificate", code="issuer")


def _check_signer_stands(signed: Signed, contents: SetFile) -> None:
    """A delegated signer that the set itself says is revoked or on hold has signed for the last time."""
    if signed.signer is None:
        return
    status = StatusSet(contents, clock=lambda: contents.header.this_update).query(signed.signer).status
    if status is Status.REVOKED:
        raise StatusSetError("the signer is revoked", code="signer")


__all__ = ["Answer", "DeltaMismatch", "StatusSet", "StatusSetError", "Verify", "load"]
