"""A builder in a process of its own: builds one scope's CRL over and over, and prints each number, until it is killed.

python -m tests.crl_builder_process STORE KEY_HEX
"""

from __future__ import annotations

import asyncio
import sys

from core.clock import system_clock
from core.errors import Conflict, Unavailable
from core.store.database import open_database
from core.store.follow import FeedFollower
from crl.service import CrlService
from crl.settings import CrlSettings
from signer._native import sm2
from signer.engine.verify import verify_signature
from tests.crl_world import PUBLIC_URL, KeySigner


async def main(store: str, key: str) -> None:
    """Never returns."""
    signer = KeySigner(key=sm2.PrivateKey.from_bytes(bytes.fromhex(key)))
    database = await open_database(f"sqlite+aiosqlite:///{store}")
    follower = await FeedFollower.start(database)
    settings = CrlSettings(keep=10_000, lease_s=600)
    service = CrlService(
        database, follower, lambda _: signer, verify_signature, system_clock, settings, public_url=PUBLIC_URL
    )
    while True:
        try:
            print((await service.build("issuing", 0)).number, flush=True)
        except (Conflict, Unavailable) as error:
            print(error.code, file=sys.stderr, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
