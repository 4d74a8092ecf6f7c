"""A file of requests: issued as the HTTP path issues, on both stores; gone on with; bad lines told and passed over."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from click.testing import CliRunner
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from sqlalchemy import func, select

from core.asn1 import der
from core.errors import Conflict, QianyanError, SettingsError, Unavailable
from core.http import from_base64, to_base64
from core.model import RevocationReason, serial_from_hex
from core.store import audit, bulk_runs, certificates, feed, schema
from core.store.bulk_runs import Chunk
from service.cli import cli
from signer._native import sm2
from signer.holders.claim import HolderClaim
from signer.issuance.bulk_files import Requests, Results
from signer.issuance.desk import Desk
from tests.bulk_world import people, run_bulk, write_requests
from tests.holder_world import desk_on
from tests.issuance_support import Installation, Request, audit_rows, installation, lint_complaints
from tests.running import Installation as DemoInstallation
from tests.store_world import BACKENDS, new_store

Place = tuple[Installation, Desk]
TABLES = ("certificates", "holders", "escrowed_keys", "certificate_events", "outbox", "feed")


@pytest_asyncio.fixture(params=BACKENDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    (tmp_path / "var").mkdir()
    database = None if request.param == "sqlite" else await new_store(tmp_path, "postgres")
    async with installation(tmp_path / "var", database=database) as world:
        yield world, desk_on(world)


@pytest_asyncio.fixture
async def small(tmp_path: Path) -> AsyncIterator[Place]:
    async with installation(tmp_path / "var") as world:
        yield world, desk_on(world)


async def counts(world: Installation) -> dict[str, int]:
    found = {}
    async with world.database.read() as connection:
        for name in TABLES:
            statement = select(func.count()).select_from(schema.metadata.tables[name])
            found[name] = int((await connection.execute(statement)).scalar_one())
    return found


def results(path: Path) -> list[dict[str, Any]]:
    """The lines of results, the head left out."""
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def opened(key: sm2.PrivateKey, enveloped: bytes) -> bytes:
    """The public point of the key in an SM2EnvelopedKey, which must fit the private key inside."""
    body = der.Reader(enveloped).enter(der.SEQUENCE)
    body.take_tlv(der.SEQUENCE)
    sym = key.decrypt(body.take_tlv(der.SEQUENCE))
    point, sealed = body.bit_string(), body.bit_string()
    cipher = Cipher(algorithms.SM4(sym), modes.ECB()).decryptor()
    inner = sm2.PrivateKey.from_bytes(cipher.update(sealed) + cipher.finalize())
    assert inner.public_key.to_bytes() == point
    return point


async def test_as_the_http_path_does(place: Place, tmp_path: Path) -> None:
    world, desk = place
    asked = list(people(1, 60))
    requests, output = tmp_path / "r.jsonl", tmp_path / "out.jsonl"
    requests.write_bytes(b"\n".join(body for body, _ in asked))  # no line end at the end
    before = await counts(world)
    done = await run_bulk(desk, world.keystore, requests, output, chunk_holders=25)
    assert (done.lines, done.holders, done.refused, done.octets) == (60, 60, 0, done.size)
    grown = {name: after - before[name] for name, after in (await counts(world)).items()}
    assert grown == {
        **{"certificates": 120, "outbox": 120, "feed": 120},
        **{"holders": 60, "escrowed_keys": 60, "certificate_events": 60},
    }
    found = results(output)
    assert [one["line"] for one in found] == list(range(1, 61))
    for (body, key), one in zip(asked, found, strict=True):
        claim = json.loads(body)["holder"]
        view = await desk.holders.find(claim["kind"], claim["number"])
        assert view.record.id == one["holder"]
        assert (await desk.holders.reveal(one["holder"], actor="test")).name == claim["name"]
        first, second = [await desk.issuer.find(serial_from_hex(c["serial"])) for c in one["certificates"]]
        assert first.pair is not None
        assert (first.pair.serial, first.certificate.holder_id) == (second.certificate.serial, one["holder"])
        assert [r.certificate.certificate for r in (first, second)] == [
            from_base64(c["certificate"], "") for c in one["certificates"]
        ]
        assert first.certificate.public_key == key.public_key.to_bytes()
        assert opened(key, from_base64(one["enveloped_key"], "")) == second.certificate.public_key
    for one in found[:4]:
        for certificate in one["certificates"]:
            complaints = lint_complaints(from_base64(certificate["certificate"], ""))
            # GM/T 0015 asks for usages in encryption certificates that RFC 8813 knows no SM2 for
            assert [c for c in complaints if "pkix.key_usage_value_prohibited_for_ec" not in c] == []
    await _whole(world)
    # what was made in bulk lives on as any other: its pair is revoked together
    changed = await desk.issuer.revoke(
        serial_from_hex(found[0]["certificates"][1]["serial"]), RevocationReason.SUPERSEDED, actor="cli:test"
    )
    assert {record.serial for record in changed} == {serial_from_hex(c["serial"]) for c in found[0]["certificates"]}


async def _whole(world: Installation) -> None:
    """The record verifies, the feed has no gap, every status index is used once, no serial twice."""
    async with world.database.read() as connection:
        assert (await audit.verify(connection)).broken_at is None
        entries = await feed.read_after(connection, 0, limit=100_000)
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        c = schema.certificates.c
        rows = (await connection.execute(select(c.status_month, c.status_index, c.serial))).all()
        issued = {entry.serial for entry in entries if entry.kind == "issued"}
    assert len({(row.status_month, row.status_index) for row in rows}) == len(rows)
    assert issued == {int.from_bytes(row.serial, "big") for row in rows}


async def test_the_same_file_again(small: Place, tmp_path: Path) -> None:
    world, desk = small
    requests, output = write_requests(tmp_path / "r.jsonl", 30), tmp_path / "out.jsonl"
    await run_bulk(desk, world.keystore, requests, output, chunk_holders=10)
    before, written = await counts(world), output.read_bytes()
    again = await run_bulk(desk, world.keystore, requests, output, chunk_holders=7)
    assert (again.holders, again.refused) == (30, 0)
    assert output.read_bytes() == written
    # another output is written from the store: all of it
    other = tmp_path / "other.jsonl"
    await run_bulk(desk, world.keystore, requests, other)
    assert await counts(world) == before
    same, restored = results(output), results(other)
    for one in (*same, *restored):
        one.pop("enveloped_key")
    assert restored == same
    # and what a crash left of one is completed: a torn line, and results that are missing behind it
    lines = written.splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:12]) + lines[12][:100])
    await run_bulk(desk, world.keystore, requests, output)
    assert output.read_bytes().splitlines()[:12] == [line.rstrip() for line in lines[:12]]
    completed = results(output)
    assert [one["line"] for one in completed] == list(range(1, 31))
    with pytest.raises(SettingsError, match="something else"):
        await run_bulk(desk, world.keystore, write_requests(tmp_path / "s.jsonl", 1, first=99), output)
    assert await counts(world) == before


def _bad_lines(known: bytes) -> list[tuple[bytes, str]]:
    """Lines that are refused, with their codes; `known`: a good one whose key is certified."""
    good = json.loads(next(iter(people(900, 1)))[0])
    other_holder = {**json.loads(known), "holder": good["holder"]}
    spoiled = bytearray(from_base64(good["csr"], ""))
    spoiled[-1] ^= 1

    def line(**changes: object) -> bytes:
        return json.dumps({**good, **changes}).encode()

    holder = good["holder"]
    return [
        (b"{", "json"),
        (b"[1]", "body"),
        (line(surprise=1), "body"),
        (line(csr="?"), "base64"),
        (line(csr="AAAA"), "csr"),
        (line(csr=to_base64(bytes(spoiled))), "csr_signature"),
        (line(profile="nobody"), "profile_unknown"),
        (line(authority="root"), "bulk_authority"),
        (line(holder={**holder, "number": holder["number"][:-1] + "0"}), "holder_number"),
        (line(holder={**holder, "kind": "ghost"}), "holder_kind"),
        (b'{"profile": "person", "csr": "' + b"A" * 200_000 + b'"}', "line_size"),
        (json.dumps(other_holder).encode(), "key_of_another"),
    ]


async def test_bad_lines(place: Place, tmp_path: Path) -> None:
    world, desk = place
    good = [body for body, _ in people(1, 4)]
    bad = _bad_lines(good[0])
    requests, output = tmp_path / "r.jsonl", tmp_path / "out.jsonl"
    lines = [good[0], *(text for text, _ in bad), b"", b"  ", good[1], good[2], good[1], good[3]]
    requests.write_bytes(b"\r\n".join(lines) + b"\n\n")
    done = await run_bulk(desk, world.keystore, requests, output, chunk_holders=5)
    found = results(output)
    refused = {one["line"]: one["error"]["code"] for one in found if "error" in one}
    assert refused == {place: code for place, (_, code) in enumerate(bad, 2)}
    assert (done.holders, done.refused) == (5, len(bad))
    # the second line of a holder that the file names twice: the same holder, another pair, in the next transaction
    assert len({one["holder"] for one in found if "holder" in one}) == 4
    rows = await audit_rows(world.database)
    on_record = Counter(outcome for action, _, outcome, _ in rows if action == "certificate.refuse")
    assert on_record == Counter(code for _, code in bad)
    restored = tmp_path / "again.jsonl"
    await run_bulk(desk, world.keystore, requests, restored)
    assert [one.get("error") for one in results(restored)] == [one.get("error") for one in found]


async def test_stop_on_error(small: Place, tmp_path: Path) -> None:
    world, desk = small
    good = [body for body, _ in people(1, 6)]
    requests, output = tmp_path / "r.jsonl", tmp_path / "out.jsonl"
    requests.write_bytes(b"\n".join([*good[:3], b"{", *good[3:]]))
    done = await run_bulk(desk, world.keystore, requests, output, stop_on_error=True)
    assert (done.stopped, done.lines, done.holders, done.refused) == (True, 4, 3, 1)
    assert [one["line"] for one in results(output)] == [1, 2, 3, 4]
    done = await run_bulk(desk, world.keystore, requests, output, stop_on_error=True)
    assert (done.stopped, done.lines, done.holders, done.refused) == (False, 7, 6, 1)


async def test_two_on_one_file(place: Place, tmp_path: Path) -> None:
    """Whoever is late is told before it has written anything, however the two cut the file."""
    world, desk = place
    requests, output = write_requests(tmp_path / "r.jsonl", 5), tmp_path / "out.jsonl"
    await run_bulk(desk, world.keystore, requests, output)
    async with world.database.read() as connection:
        (run,) = await bulk_runs.list_all(connection)
    with pytest.raises(Conflict, match="another process") as told:
        async with world.database.write() as connection:
            await bulk_runs.advance(connection, run.id, Chunk(3, 2, 100, ()), at_ms=1)
    assert told.value.code == "bulk_elsewhere"


async def test_no_trace_where_the_authority_cannot_issue(small: Place, tmp_path: Path) -> None:
    world, desk = small
    requests = write_requests(tmp_path / "r.jsonl", 1)
    with pytest.raises(QianyanError) as told:
        await run_bulk(desk, world.keystore, requests, tmp_path / "out.jsonl", authority_id="nobody")
    assert told.value.code == "authority_unknown"
    assert not (tmp_path / "out.jsonl").exists()


def test_reading_goes_on_at_any_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"\n{1}\r\n\n\n" + b"x" * 50 + b"\n{3}")
    lines, octets = 0, 0
    seen = []
    while True:
        requests = Requests(path, lines=lines, octets=octets, line_max=20)
        found = requests.take(1)
        requests.close()
        if not found:
            break
        lines, octets = found[0].number, octets + found[0].octets
        seen.append((found[0].number, found[0].text))
    assert seen == [(2, b"{1}"), (5, None), (6, b"{3}")]
    assert octets == path.stat().st_size


def test_results_are_cut_where_a_crash_tore_them(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    results_ = Results.open(path, b"r" * 32, "issuing", [b"chain"])
    results_.append([b'{"line": 1}', b'{"line": 3}', b'{"line": 4}'], 4)
    results_.close()
    whole = path.read_bytes()
    for torn in (whole[:-1], whole[:-5] + bytes(5), whole[:-12] + bytes(11) + b"\n", whole[:-3] + b"\x00\x00\n"):
        path.write_bytes(torn)
        again = Results.open(path, b"r" * 32, "issuing", [b"chain"])
        assert again.last_line == 3
        again.append([b'{"line": 4}'], 4)
        again.close()
        assert path.read_bytes() == whole
    path.write_bytes(b'{"run"')
    Results.open(path, b"r" * 32, "issuing", [b"chain"]).close()
    assert path.read_bytes() == whole.splitlines(keepends=True)[0]
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(b"somebody's notes, without a line end")
    with pytest.raises(SettingsError, match="something else"):
        Results.open(path, b"r" * 32, "issuing", [b"chain"])
    full = Results(open("/dev/full", "r+b", buffering=0), 0)  # noqa: SIM115 - closed below
    with pytest.raises(Unavailable, match="No space"):
        full.append([b"{}"], 1)
    full.close()


async def test_a_holder_who_is_known(small: Place, tmp_path: Path) -> None:
    """Met as the HTTP path meets one: the same id, newer data kept."""
    world, desk = small
    body, _ = next(iter(people(2, 1)))
    claim = json.loads(body)["holder"]
    old = HolderClaim.of(claim["kind"], claim["number"], name="旧名", address="旧址")
    before = await desk.issuer.issue(Request().encode(), "organisation", actor="cli:test", holder=old)
    requests = tmp_path / "r.jsonl"
    requests.write_bytes(body)
    await run_bulk(desk, world.keystore, requests, tmp_path / "out.jsonl")
    assert before.holder_id is not None
    kept = await desk.holders.reveal(before.holder_id, actor="test")
    assert (kept.name, kept.address) == (claim["name"], "旧址")
    async with world.database.read() as connection:
        assert len(await certificates.of_holder(connection, before.holder_id)) == 4


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts, exit statuses, one line of trouble; and the list of runs."""
    monkeypatch.delenv("QIANYAN_CONFIG", raising=False)
    config = str(DemoInstallation(tmp_path / "var").made().config)
    requests = write_requests(tmp_path / "r.jsonl", 3, then=[b"{"])
    runner = CliRunner()
    ran = runner.invoke(cli, ["bulk", "issue", "--requests", str(requests), "--config", config, "--json"])
    assert ran.exit_code == 3, ran.output
    said = json.loads(ran.stdout)
    assert said == {
        **{"lines": 4, "holders": 3, "refused": 1, "stopped": False},
        "output": str(tmp_path / "r.issued.jsonl"),
    }
    assert ran.stderr.strip().splitlines()[-1] == f"1 of 4 lines were refused; see {said['output']}"
    assert len(results(Path(said["output"]))) == 4
    good = write_requests(tmp_path / "g.jsonl", 2, first=50)
    assert runner.invoke(cli, ["bulk", "issue", "--requests", str(good), "--config", config]).exit_code == 0
    runs = json.loads(runner.invoke(cli, ["bulk", "list", "--config", config, "--json"]).stdout)
    assert [(one["file"], one["holders"], one["refused"]) for one in runs] == [("g.jsonl", 2, 0), ("r.jsonl", 3, 1)]
    assert "g.jsonl" in runner.invoke(cli, ["bulk", "list", "--config", config]).stdout
