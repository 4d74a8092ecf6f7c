"""Lines of results: written of what was just issued, or anew from the store, where the file of results lacks them.

An encryption key is taken out of escrow and enveloped for the key of its own signing certificate, as it was the first
time, so that the line says the same; only the envelope's octets differ. That it was done is on record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson

from core.audit import AuditEvent
from core.clock import Clock
from core.http import to_base64
from core.model import serial_to_hex
from core.store import audit, bulk_runs, certificates, counters, escrow
from core.store.bulk_runs import LineResult
from core.store.certificates import CertificateRecord
from core.store.database import Database
from core.store.escrow import WrappedKey
from signer.issuance.bulk_files import Results
from signer.issuance.issued import Issued, IssuedCertificate
from signer.issuance.kmc import KeyManagement


class Restorer:
    """Completes a file of results."""

    def __init__(self, database: Database, keys: KeyManagement, authority_id: str, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._authority_id = authority_id
        self._clock = clock

    async def complete(self, results: Results, run_id: bytes, actor: str) -> int:
        """Writes the results that the store has and the file lacks; returns how many."""
        count = 0
        while lacking := await self._lacking(run_id, results.last_line):
            lines = await self._lines(lacking)
            async with self._database.write() as connection:
                now_ms = await counters.advance_time(connection, self._clock())
                detail: dict[str, str | int] = {"from_line": lacking[0].line, "to_line": lacking[-1].line}
                event = AuditEvent(actor, "bulk.restore", f"bulk:{run_id.hex()}", detail=detail)
                await audit.append(connection, event, at_ms=now_ms)
            await asyncio.to_thread(results.append, lines, lacking[-1].line)
            count += len(lines)
        return count

    async def _lacking(self, run_id: bytes, last_line: int) -> list[LineResult]:
        async with self._database.read() as connection:
            return await bulk_runs.results_after(connection, run_id, last_line)

    async def _lines(self, lacking: Sequence[LineResult]) -> list[bytes]:
        found: dict[int, tuple[CertificateRecord, CertificateRecord | None]] = {}
        async with self._database.read() as connection:
            for one in lacking:
                if one.serial is not None:
                    first = await certificates.find(connection, one.serial, self._authority_id)
                    found[one.line] = (first, await certificates.find_pair(connection, first.id))
            kept = await escrow.get_many(connection, [pair.id for _, pair in found.values() if pair is not None])
        lines = []
        for one in lacking:
            if one.serial is None:
                lines.append(refused_line(one.line, one.code, one.detail, one.field))
            else:
                lines.append(issued_line(one.line, await self._issued(*found[one.line], kept)))
        return lines

    async def _issued(
        self, first: CertificateRecord, second: CertificateRecord | None, kept: dict[int, WrappedKey]
    ) -> Issued:
        members = (first,) if second is None else (first, second)
        wrapped = None if second is None else kept.get(second.id)
        return Issued(
            tuple(IssuedCertificate(one.usage, one.serial, one.certificate) for one in members),
            (),
            None if wrapped is None else await self._keys.restore(wrapped, first.public_key),
            first.holder_id,
        )


def issued_line(number: int, issued: Issued) -> bytes:
    """A line of results: as the HTTP answer, without the chain, which is in the head."""
    value: dict[str, object] = {"line": number}
    if issued.holder_id is not None:
        value["holder"] = issued.holder_id
    value["certificates"] = [
        {"serial": serial_to_hex(one.serial), "usage": one.usage, "certificate": to_base64(one.der)}
        for one in issued.certificates
    ]
    value["enveloped_key"] = None if issued.enveloped_key is None else to_base64(issued.enveloped_key)
    return orjson.dumps(value)


def refused_line(number: int, code: str, detail: str, field_: str | None) -> bytes:
    """A line of results: why nothing was issued."""
    return orjson.dumps({"line": number, "error": {"code": code, "detail": detail, "field": field_}})
