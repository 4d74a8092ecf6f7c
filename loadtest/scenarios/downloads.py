"""What relying parties fetch: CRLs and deltas, status sets, statuses in bulk; with If-None-Match, as clients should."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from cryptography import x509

import qianyan_status
from loadtest import sm2
from loadtest.call import Answer, Call, Journey, Wrong
from loadtest.scenarios.base import Scenario, Single, World, expect, need
from loadtest.scenarios.ocsp import unissued
from loadtest.target import State
from loadtest.x509 import verify_issued

#: Clients that come with nothing in hand, of all.
_NEW_CLIENTS: Final = 0.1
BULK_SERIALS: Final = 1_000
_OCTET_OF: Final[dict[State, int]] = {"good": 1, "revoked": 2, "held": 3, "unknown": 4}


class _Download(Scenario):
    """A conditional GET: 304 where nothing changed, else the whole."""

    path: str

    def _fetch(self, path: str, check: Callable[[Answer], None]) -> Call:
        etag = self.world.etags.get(path)
        conditional = etag is not None and self.world.rng.random() >= _NEW_CLIENTS
        headers = {"If-None-Match": str(etag)} if conditional else {}
        also = (304,) if conditional else ()
        return Call(self.name, "public", "GET", path, headers, also=also, check=check)

    def _remember(self, path: str, answer: Answer) -> None:
        if "etag" in answer.headers:
            self.world.etags[path] = answer.headers["etag"]


class Crl(_Download):
    """A partition's CRL and its delta."""

    name: ClassVar[str] = "crl"
    help: ClassVar[str] = "CRL and delta CRL, with If-None-Match"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._numbers: dict[str, int] = {}

    def journey(self) -> Journey:
        authority = self.world.target.authority
        for path in (f"/crl/{authority}/0.crl", f"/crl/{authority}/0-delta.crl"):
            delta = path.endswith("-delta.crl")
            answer = yield self._fetch(path, lambda got, path=path, delta=delta: self._check(got, path, delta=delta))  # type: ignore[misc]
            self._remember(path, answer)

    def _check(self, answer: Answer, path: str, *, delta: bool) -> None:
        if answer.status == 304:
            return
        try:
            crl = x509.load_der_x509_crl(answer.body)
            verify_issued(answer.body, self.world.target.issuer.public_key)
            number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except (ValueError, sm2.InvalidSignature, x509.ExtensionNotFound) as error:
            raise Wrong(f"{path}: not a CRL of the authority: {error!r}") from error
        ends = crl.next_update_utc
        expect(ends is not None and ends.timestamp() > answer.sent_at, f"{path} is past its nextUpdate")
        expect(number >= self._numbers.get(path, 0), f"{path} went back to number {number}")
        self._numbers[path] = number
        if not delta:
            self._judge({one.serial_number for one in crl}, path)

    def _judge(self, listed: set[int], path: str) -> None:
        known = self.world.target.known
        good = [serial for serial in listed if known.get(serial) == "good"]
        expect(not good, f"{path} lists {len(good)} certificates that are good")
        if self.world.target.facts.get("partitions") == 1:
            gone = [serial for serial, state in known.items() if state in ("revoked", "held") and serial not in listed]
            expect(not gone, f"{path} lacks {len(gone)} revoked certificates, {gone[0]:x} among them" if gone else "")


class StatusSet(_Download):
    """The status set and its delta, read as a verifier reads them."""

    name: ClassVar[str] = "status-set"
    help: ClassVar[str] = "status set and delta, with If-None-Match"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._base = b""

    def journey(self) -> Journey:
        stem = f"/set/{self.world.target.authority}"
        answer = yield self._fetch(f"{stem}.set", lambda _: None)
        self._remember(f"{stem}.set", answer)
        self._base = answer.body if answer.status == 200 else self._base
        base = self._base
        answer = yield self._fetch(f"{stem}-delta.set", lambda got: self._check(base, got))
        self._remember(f"{stem}-delta.set", answer)

    def _check(self, base: bytes, answer: Answer) -> None:
        if answer.status == 304:
            return
        try:
            read = qianyan_status.load(
                base, answer.body, issuer=self.world.target.issuer.certificate, verify=sm2.verify
            )
        except qianyan_status.DeltaMismatch:
            return  # the set was renewed between the two fetches: a client fetches it again, as the next journey does
        except (qianyan_status.StatusSetError, ValueError) as error:
            raise Wrong(f"the status set is refused: {error!r}") from error
        for holder in self.world.target.holders:
            told = read.query(holder.certificate)
            bad = told.status is not (
                qianyan_status.Status.GOOD if holder.state == "good" else qianyan_status.Status.REVOKED
            )
            covered = told.status is not qianyan_status.Status.NOT_COVERED
            expect(
                not (bad and covered), f"the status set says {told.status} of {holder.serial:x}, a {holder.state} one"
            )


class StatusBulk(Single):
    """Statuses of many serials in one call."""

    name: ClassVar[str] = "status-bulk"
    help: ClassVar[str] = f"POST /v1/status with {BULK_SERIALS} serials"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        need(world.target.known, "population")
        self._serials = list(world.target.known)

    def call(self) -> Call:
        rng, known = self.world.rng, self.world.target.known
        serials = [rng.choice(self._serials) if rng.random() < 0.98 else unissued(rng) for _ in range(BULK_SERIALS)]
        truth = bytes(_OCTET_OF[known.get(serial, "unknown")] for serial in serials)

        def check(answer: Answer) -> None:
            pairs = zip(serials, answer.body, truth, strict=True)
            wrong = [f"{serial:x}: {told}" for serial, told, true in pairs if told != true]
            expect(not wrong, f"{len(wrong)} statuses are wrong, {', '.join(wrong[:3])}")

        body = b"".join(serial.to_bytes(20, "big") for serial in serials)
        path = f"/v1/status?authority={self.world.target.authority}"
        headers = {"Content-Type": "application/octet-stream"}
        size = (BULK_SERIALS, BULK_SERIALS)
        return Call(self.name, "public", "POST", path, headers, body, size=size, check=check)


ALL: Final[tuple[type[Scenario], ...]] = (Crl, StatusSet, StatusBulk)
