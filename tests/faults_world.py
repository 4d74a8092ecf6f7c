"""A client that knows the truth, under load, while parts of a real installation are broken.

The truth is what this process has committed to the store itself, through a connection of its own. An answer is wrong if
it says what was true only before a change that was committed more than a second before the question was sent, or
something that was not true yet when the answer came; if it is about another certificate, does not repeat the nonce,
is not signed by the OCSP signer, or is not in its time. What is no answer (tryLater, a broken connection) is an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.x509 import ocsp

from core.asn1.x509 import public_key_of_certificate
from core.clock import system_clock
from core.errors import Unavailable
from core.model import RevocationReason
from core.store import authorities, certificates, counters
from core.store.authorities import Authority
from core.store.database import Database
from signer._native import sm2
from status.issuers import cert_id_issuers
from tests.judges import der as judge_der
from tests.status_world import request, word

#: How long a commit may take to be everywhere.
BOUND_S = 1.0
YEAR_MS = 365 * 86_400_000
PATIENCE_S = 90


class SteppedClock:
    """The wall clock of services that are started with `environment`; `offset_ms` is how far it is off."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "offset"
        self._file.write_bytes(bytes(8))
        library = directory / "step.so"
        source = Path(__file__).parent / "clock" / "step.c"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "QIANYAN_TEST_CLOCK": str(self._file)}
        self.offsets_ms = [0]

    def step_to(self, offset_ms: int) -> None:
        """Puts it so far off, at once, in every process."""
        self.offsets_ms.append(offset_ms)
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", offset_ms))

    def range(self) -> tuple[datetime, datetime]:
        """The earliest and the latest that it shows or has just shown."""
        now = datetime.now(UTC)
        lately = self.offsets_ms[-2:]
        return now + timedelta(milliseconds=min(lately)), now + timedelta(milliseconds=max(lately))


@dataclass
class Change:
    """From one status to another; `committed` None: not known whether it was."""

    began: float
    before: str
    after: str
    committed: float | None = None


@dataclass
class Phase:
    """What the load met during one fault."""

    name: str
    began: float = field(default_factory=time.monotonic)
    answers: int = 0
    errors: int = 0
    last_error: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def recovery_s(self) -> float:
        """From the beginning of the fault to the last error."""
        return max(0.0, self.last_error - self.began)


class Truth:
    """Certificates, their statuses, and who may say what when."""

    def __init__(self, database: Database, authority: Authority, serials: list[int]) -> None:
        self.database = database
        self.authority = authority
        self.serials = serials
        self.words = dict.fromkeys(serials, "good")
        self.changes: dict[int, Change] = {}
        self.doubtful: set[int] = set()
        self._cert_id = cert_id_issuers(authority.subject, authority.public_key)[1]

    def allowed(self, serial: int, sent: float, came: float) -> set[str]:
        """What an answer may say to a question sent and answered then."""
        if serial in self.doubtful:
            return {"good", "revoked"}
        change = self.changes.get(serial)
        if change is None:
            return {self.words[serial]}
        words = set()
        if change.committed is None or sent <= change.committed + BOUND_S:
            words.add(change.before)
        if came >= change.began:
            words.add(change.after)
        return words

    async def flip(self, count: int) -> int:
        """Revokes, holds or releases so many; returns how many were committed."""
        settled = [s for s in self.serials if s not in self.doubtful and self._settled(s)]
        done = 0
        for serial in random.sample(settled, min(count, len(settled))):
            before = self.words[serial]
            change = self.changes[serial] = Change(time.monotonic(), before, "revoked" if before == "good" else "good")
            try:
                async with self.database.write() as connection:
                    record = await certificates.find(connection, serial, "issuing")
                    now_ms = await counters.advance_time(connection, system_clock())
                    if before == "good":
                        await certificates.revoke(connection, record, RevocationReason.CERTIFICATE_HOLD, at_ms=now_ms)
                    else:
                        await certificates.release(connection, record, at_ms=now_ms)
            except Unavailable:
                self.doubtful.add(serial)
                continue
            change.committed = time.monotonic()
            self.words[serial] = change.after
            done += 1
        return done

    def _settled(self, serial: int) -> bool:
        change = self.changes.get(serial)
        return change is None or (change.committed is not None and time.monotonic() > change.committed + 2 * BOUND_S)

    def question(self, serial: int, nonce: bytes | None) -> bytes:
        """The DER OCSPRequest."""
        from core.asn1 import der

        return request(der.sequence(self._cert_id + der.integer(serial)), nonce=nonce)


class Load:
    """Asks again and again, at a bounded rate, and judges each answer."""

    def __init__(self, truth: Truth, ports: list[int], clock: SteppedClock, *, clients: int = 8) -> None:
        self._truth = truth
        self._ports = ports
        self._clock = clock
        self._signer = sm2.PublicKey.from_bytes(public_key_of_certificate(truth.authority.ocsp_certificate or b""))
        self.phase = Phase("start")
        self.phases = [self.phase]
        self.samples: list[tuple[int, bytes]] = []
        self._good_in_a_row = 0
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(clients)]

    async def end(self) -> None:
        """Stops asking; raises what went wrong in a client itself."""
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                assert ended is None, ended

    @contextlib.asynccontextmanager
    async def during(self, name: str, *, answers: int = 150) -> AsyncIterator[Phase]:
        """One fault: changes go on within the block; at its end it waits until answers come without an error again."""
        self.phase = Phase(name)
        self.phases.append(self.phase)
        yield self.phase
        await self.until(lambda: self.phase.answers >= answers and self._good_in_a_row >= 60, name)
        found = self.phase
        print(
            f"{name}: {found.answers} answers, {len(found.wrong)} wrong, {found.errors} errors, "
            f"recovered after {found.recovery_s:.2f} s"
        )
        assert not found.wrong, found.wrong[:5]

    async def asked(self, count: int) -> None:
        """Waits until so many more were answered, rightly or with an error."""
        phase = self.phase
        wanted = phase.answers + phase.errors + count
        await self.until(lambda: phase.answers + phase.errors >= wanted, phase.name)

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Waits for a condition, with a deadline."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            for task in self._tasks:
                if task.done():
                    task.result()
            assert time.monotonic() < deadline, (what, self.phase)
            await asyncio.sleep(0.02)

    async def _client(self, number: int) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        rng = random.Random(number)
        port = self._ports[number % len(self._ports)]
        while True:
            serial = rng.choice(self._truth.serials)
            nonce = rng.randbytes(16) if rng.random() < 0.3 else None
            sent, phase = time.monotonic(), self.phase
            try:
                if streams is None or rng.random() < 0.02:  # now and then a new one, which may be another worker's
                    if streams is not None:
                        streams[1].close()
                    streams = await asyncio.open_connection("127.0.0.1", port)
                async with asyncio.timeout(20):
                    body = await _exchange(*streams, self._truth.question(serial, nonce))
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                if streams is not None:
                    streams[1].close()
                streams, body = None, b""
            self._judge(phase, serial, nonce, sent, body)
            await asyncio.sleep(0.01)

    def _judge(self, phase: Phase, serial: int, nonce: bytes | None, sent: float, body: bytes) -> None:
        came = time.monotonic()
        response = ocsp.load_der_ocsp_response(body) if body else None
        if response is None or response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            phase.errors += 1
            phase.last_error = came
            self._good_in_a_row = 0
            return
        phase.answers += 1
        self._good_in_a_row += 1
        said, allowed = word(response), self._truth.allowed(serial, sent, came)
        earliest, latest = self._clock.range()
        faults = [
            (said not in allowed, f"{said}, not {allowed}"),
            (response.serial_number != serial, "another certificate"),
            ([e.value.nonce for e in response.extensions] != ([nonce] if nonce else []), "another nonce"),  # type: ignore[attr-defined]
            (response.this_update_utc > latest + timedelta(seconds=1), "from the future"),
            ((response.next_update_utc or latest) <= earliest - timedelta(seconds=20), "past its time"),
        ]
        parts = judge_der.split_ocsp(body)
        try:
            self._signer.verify(parts.tbs, sm2.signature_from_der(parts.signature))
        except Exception as error:  # whatever it is, the signature is not good
            faults.append((True, f"signature: {error!r}"))
        phase.wrong += [f"{serial:x}: {what}" for wrong, what in faults if wrong]
        if phase.answers % 40 == 1 and serial not in self._truth.doubtful:
            self.samples.append((serial, body))


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> bytes:
    """One POST /ocsp on a kept connection."""
    writer.write(b"POST /ocsp HTTP/1.1\r\nHost: ocsp\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise OSError(head[:40])
    size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    return await reader.readexactly(size)


async def add_certificates(database: Database, count: int, *, life_ms: int = YEAR_MS) -> tuple[Authority, list[int]]:
    """Records so many under the authority `issuing`; OCSP looks at their rows only."""
    async with database.write() as connection:
        authority = next(one for one in await authorities.list_all(connection) if one.id == "issuing")
        now_ms = await counters.advance_time(connection, system_clock())
        month = 24_330
        first = await certificates.take_status_index(connection, "issuing", month, count)
        serials = [int.from_bytes(b"\x51" + os.urandom(15), "big") for _ in range(count)]
        new = [
            certificates.NewCertificate(
                authority_id="issuing",
                serial=serial,
                usage="sign",
                profile="person",
                subject=authority.subject,
                public_key=authority.public_key,
                not_before_ms=now_ms,
                not_after_ms=now_ms + life_ms,
                partition=0,
                status_month=month,
                status_index=first + n,
                certificate=b"0",
            )
            for n, serial in enumerate(serials)
        ]
        await certificates.load(connection, new, at_ms=now_ms)
    return authority, serials


async def eventually(holds: Callable[[], Awaitable[object]]) -> None:
    """Waits for a condition that has to be asked for."""
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.05)
