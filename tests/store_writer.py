"""Records certificates until it is done or killed: `python -m tests.store_writer URL FIRST_SERIAL COUNT`.

What it prints has been committed: that is what a test holds the store to after a kill.
"""

import asyncio
import sys

from core.audit import AuditEvent
from core.clock import system_clock
from core.store import audit, certificates, counters
from core.store.database import open_database
from tests.store_world import certificate


async def main(url: str, first: int, count: int) -> None:
    """Writes one transaction per certificate: index, row, feed and audit together, as an issuance does."""
    database = await open_database(url)
    for serial in range(first, first + count):
        async with database.write() as connection:
            at_ms = await counters.advance_time(connection, system_clock())
            index = await certificates.take_status_index(connection, "issuing", 24_322)
            await certificates.record(connection, certificate(serial, index), at_ms=at_ms)
            event = AuditEvent("system", "certificate.issue", str(serial), detail={"serial": serial})
            await audit.append(connection, event, at_ms=at_ms)
        print(serial, flush=True)
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
