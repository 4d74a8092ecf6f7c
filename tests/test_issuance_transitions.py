"""The state machine, exhaustively: each operation in each state works or is refused, as this file's own table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import NotFound, QianyanError, Refused
from core.model import RevocationReason
from core.store import schema
from signer.engine.master import SoftwareMaster
from signer.holders.vault import Vault
from signer.issuance import pairs
from signer.issuance.grounds import Ground
from signer.issuance.issued import Issued
from signer.issuance.kmc import KeyManagement
from signer.issuance.profiles import Profile, Profiles, SubjectRules
from signer.issuance.recovery import Recoveries, RecoveryWish
from signer.issuance.settings import IssuanceSettings
from signer.issuance.states import TRANSITIONS, Operation, PairState
from signer.issuance.unlocking import Unlocking
from tests.issuance_support import ORGANISATION, Installation, Request, audit_rows, installation, snapshot, subject_of

ACTOR = "token:ra-1"
#: Operation: what becomes of a pair in each state of `COLUMNS`; lower case with an underscore or without: the code.
COLUMNS = ["ACTIVE", "RENEWED", "SUSPENDED", "SUSPENDED_RENEWED", "EXPIRED", "REVOKED"]
TABLE = """
renew    RENEWED    already_replaced   suspended  already_replaced   expired  already_revoked
change   REVOKED    already_replaced   suspended  already_replaced   expired  already_revoked
reissue  REVOKED    already_replaced   REVOKED    already_replaced   expired  already_revoked
suspend  SUSPENDED  SUSPENDED_RENEWED  already_held  already_held    expired  already_revoked
resume   not_held   not_held           ACTIVE     RENEWED            expired  not_held
revoke   REVOKED    REVOKED            REVOKED    REVOKED            REVOKED  already_revoked
unlock   ACTIVE     RENEWED            suspended  suspended          expired  already_revoked
recover  ACTIVE     RENEWED            recovery_recipient  SUSPENDED_RENEWED  recovery_recipient  recovery_recipient
"""
EXPECTED = {row.split()[0]: dict(zip(COLUMNS, row.split()[1:], strict=True)) for row in TABLE.split("\n") if row}
#: Valid for less than the renewal window, so that a renewal is never too early.
SHORT = Profile(
    subject=SubjectRules(allowed=frozenset({"C", "ST", "L", "O", "OU", "CN"}), required=frozenset({"CN"}), fixed={}),
    validity_days=20,
)


class Bench:
    """An installation, with a pair brought into any state."""

    def __init__(self, world: Installation) -> None:
        master = SoftwareMaster(world.keystore)
        self.world = world
        self.issuer = world.issuer
        settings = IssuanceSettings()
        self.unlocking = Unlocking(world.database, Vault(world.database, master, world.clock), settings, world.clock)
        self.recoveries = Recoveries(world.database, KeyManagement(master), settings, world.clock)

    async def pair_in(self, state: PairState) -> tuple[Request, Issued]:
        """A new pair, brought there by the operations themselves; only time is helped along."""
        request = Request()
        issued = await self.issuer.issue(request.encode(), "short", actor=ACTOR)
        serial = issued.certificates[0].serial
        if state in (PairState.RENEWED, PairState.SUSPENDED_RENEWED):
            await self.issuer.renew(serial, actor=ACTOR)
        if state in (PairState.SUSPENDED, PairState.SUSPENDED_RENEWED):
            await self.issuer.suspend(serial, actor=ACTOR)
        if state is PairState.REVOKED:
            await self.issuer.revoke(serial, RevocationReason.SUPERSEDED, actor=ACTOR)
        if state is PairState.EXPIRED:
            c = schema.certificates.c
            async with self.world.database.write() as connection:
                for certificate in issued.certificates:
                    row = c.serial == certificate.serial.to_bytes(16, "big").lstrip(b"\0")
                    await connection.execute(schema.certificates.update().where(row).values(not_after_ms=1_000))
        assert await self.state(serial) is state
        return request, issued

    async def state(self, serial: int) -> PairState:
        async with self.world.database.read() as connection:
            return (await pairs.load(connection, serial)).state(self.world.clock())

    async def do(self, operation: Operation, serial: int, request: Request) -> None:
        changed = Request(subject_of({**ORGANISATION, "CN": "新名称"}), key=request.key)
        if operation is Operation.RENEW:
            await self.issuer.renew(serial, actor=ACTOR)
        elif operation is Operation.CHANGE:
            await self.issuer.change(serial, changed.encode(), actor=ACTOR)
        elif operation is Operation.REISSUE:
            await self.issuer.reissue(serial, Request().encode(), Ground.DAMAGED, actor=ACTOR)
        elif operation is Operation.SUSPEND:
            await self.issuer.suspend(serial, actor=ACTOR)
        elif operation is Operation.RESUME:
            await self.issuer.release(serial, actor=ACTOR)
        elif operation is Operation.REVOKE:
            await self.issuer.revoke(serial, RevocationReason.SUPERSEDED, actor=ACTOR)
        elif operation is Operation.UNLOCK:
            await self.unlocking.unlock(serial, actor=ACTOR)
        else:
            assert operation is Operation.RECOVER
            await self.recoveries.ask(RecoveryWish(serial, "case-1"), actor=ACTOR)


def test_the_table_is_whole() -> None:
    assert set(TRANSITIONS) == set(Operation)
    assert all(set(row) == set(PairState) for row in TRANSITIONS.values())
    assert set(EXPECTED) == {operation.value for operation in Operation} - {"issue"}


@pytest.mark.parametrize("operation", [one for one in Operation if one is not Operation.ISSUE])
async def test_every_state(tmp_path: Path, operation: Operation) -> None:
    async with installation(tmp_path, profiles=Profiles(profiles={"short": SHORT})) as world:
        bench = Bench(world)
        for column in COLUMNS:
            request, issued = await bench.pair_in(PairState[column])
            expected = EXPECTED[operation.value][column]
            # the second certificate of the pair stands for both as well as the first
            serial = issued.certificates[COLUMNS.index(column) % 2].serial
            if expected in PairState.__members__:
                await bench.do(operation, serial, request)
                assert await bench.state(serial) is PairState[expected], column
                continue
            before = await snapshot(world.database)
            with pytest.raises(QianyanError) as refusal:
                await bench.do(operation, serial, request)
            assert (refusal.type, refusal.value.code) == (Refused, expected), column
            assert refusal.value.detail
            assert await snapshot(world.database) == before, column
            assert (await audit_rows(world.database))[-1][2] == expected, column
        with pytest.raises(NotFound) as unknown:
            await bench.do(operation, 1234567, Request())
        assert unknown.value.code == "certificate_unknown"
        assert (await audit_rows(world.database))[-1][2] == "certificate_unknown"


def test_the_documentation_has_the_same_table() -> None:
    text = (Path(__file__).parents[1] / "docs" / "life-cycle.md").read_text()
    lines = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    heads = [column.lower() for column in COLUMNS]
    start = next(at for at, cells in enumerate(lines) if cells[1:] == heads)
    rows = {cells[0]: cells[1:] for cells in lines[start + 2 : start + 2 + len(EXPECTED)]}
    assert set(rows) == set(EXPECTED)
    for operation, row in TRANSITIONS.items():
        for column, cell in zip(COLUMNS, rows.get(operation.value, []), strict=False):
            before = PairState[column]
            after = row[before]
            if isinstance(after, PairState):
                assert cell == ("stays" if after is before else f"→ {after.value}"), (operation, column)
            else:
                assert cell == after.code, (operation, column)


async def test_issue_leads_to_active(tmp_path: Path) -> None:
    async with installation(tmp_path, profiles=Profiles(profiles={"short": SHORT})) as world:
        bench = Bench(world)
        _, issued = await bench.pair_in(PairState.ACTIVE)
        assert [await bench.state(c.serial) for c in issued.certificates] == [PairState.ACTIVE] * 2


def test_every_refusal_says_what_to_do() -> None:
    for row in TRANSITIONS.values():
        for after in row.values():
            if not isinstance(after, PairState):
                assert after.code
                assert after.detail
