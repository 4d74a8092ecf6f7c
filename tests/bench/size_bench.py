"""What things weigh: octets in the store for each pair and revocation, of OCSP on the wire, of an answer in Redis.

    python -m tests.bench.size_bench [--pairs 1000] [--json]

Issues pairs with the real issuer into a SQLite store, revokes some, and takes the difference between two sizes of the
file, so that what every store has once does not count. Sizes do not depend on what else the machine does. They are
coefficients of the capacity model (service/capacity/coefficients.json).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from sqlalchemy import text

from core.model import RevocationReason
from core.store import certificates
from core.store.database import Database
from tests.issuance_support import ORGANISATION, Request, installation, subject_of
from tests.redis_world import RedisServer
from tests.status_world import open_world, request

_HTTP_REQUEST = (
    b"POST /ocsp HTTP/1.1\r\nHost: status.example.cn\r\nContent-Type: application/ocsp-request\r\n"
    b"Content-Length: 100\r\n\r\n"
)
_HTTP_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\nContent-Length: 1000\r\n"
    b'Date: Fri, 20 Nov 2026 07:00:00 GMT\r\nETag: "0123456789abcdef0123456789abcdef"\r\n'
    b"Last-Modified: Fri, 20 Nov 2026 07:00:00 GMT\r\nExpires: Fri, 20 Nov 2026 08:00:00 GMT\r\n"
    b"Cache-Control: max-age=3600, public, no-transform, must-revalidate\r\nX-Request-Id: 0123456789abcdef\r\n\r\n"
)


async def file_bytes(database: Database) -> int:
    """Octets of the store's pages, the log left out."""
    async with database.read() as connection:
        pages = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
        free = (await connection.execute(text("PRAGMA freelist_count"))).scalar_one()
        size = (await connection.execute(text("PRAGMA page_size"))).scalar_one()
    return int((pages - free) * size)


async def store_sizes(directory: Path, pairs: int) -> dict[str, float]:
    """Octets for a pair, for a revoked pair more, and of one certificate."""
    async with installation(directory) as world:

        async def issue(number: int) -> list[bytes]:
            fields = ORGANISATION | {"CN": f"{ORGANISATION['CN']}{number:06}"}
            asked = Request(subject=subject_of(fields)).encode()
            issued = await world.issuer.issue(asked, "organisation", actor="cli:bench")
            return [certificate.der for certificate in issued.certificates]

        made = [await issue(number) for number in range(max(pairs // 10, 10))]
        before = await file_bytes(world.database)
        made += [await issue(len(made) + number) for number in range(pairs)]
        issued = await file_bytes(world.database)
        async with world.database.read() as connection:
            rows = (await connection.execute(text("SELECT serial FROM certificates ORDER BY id"))).all()
        serials = [int.from_bytes(row[0], "big") for row in rows]
        for serial in serials:
            async with world.database.write() as connection:
                record = await certificates.find(connection, serial)
                if record is not None and record.usage in ("sign", "encrypt"):
                    await certificates.revoke(connection, record, RevocationReason.SUPERSEDED, at_ms=world.clock())
        revoked = await file_bytes(world.database)
        ders = [len(der) for both in made for der in both]
        return {
            "store_bytes_per_certificate": round((issued - before) / pairs / 2, 1),
            "store_bytes_per_revocation": round((revoked - issued) / len(serials), 1),
            "certificate_bytes": round(sum(ders) / len(ders), 1),
        }


async def ocsp_sizes(directory: Path) -> dict[str, float]:
    """Octets on the wire of one question and its answer, and what an answer takes in Redis."""
    async with open_world(directory) as world:
        serial = await world.issue()
        asked = request(world.issuing.cert_id(serial))
        answer = (await world.responder.respond(asked)).der
    return {
        "ocsp_request_bytes": len(_HTTP_REQUEST) + len(asked),
        "ocsp_answer_bytes": len(_HTTP_ANSWER) + len(answer),
        "redis_bytes_per_answer": await asyncio.to_thread(_redis_bytes, len(answer)),
    }


def _redis_bytes(answer: int) -> float:
    """Memory of Redis for an answer: its value has 73 octets before and after it, its key 52 (status.redis_cache)."""
    server = RedisServer().start()
    try:
        with server.client as client:
            before = int(client.info("memory")["used_memory"])
            count = 20_000
            for number in range(count):
                client.set(b"qianyan:ocsp:" + number.to_bytes(32, "big"), bytes(73 + answer), ex=3600)
            return round((int(client.info("memory")["used_memory"]) - before) / count, 1)
    finally:
        server.remove()


async def measure(pairs: int) -> dict[str, float]:
    """Every size by its coefficient's name."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "a").mkdir()
        (Path(directory) / "b").mkdir()
        return await store_sizes(Path(directory) / "a", pairs) | await ocsp_sizes(Path(directory) / "b")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    sizes = asyncio.run(measure(options.pairs))
    print(json.dumps(sizes, indent=2) if options.as_json else "\n".join(f"{k:32}{v:12,.1f}" for k, v in sizes.items()))


if __name__ == "__main__":
    main()
