"""Transactions that the database broke off because another one stood in their way: a wait for a lock that took too
long, a deadlock. The database is there and nothing was done, so that is no outage: what two requests want of one thing
is a conflict, and who came second is told so.

Owns the code by which such a failure leaves `Database.write()`, and how it becomes a Conflict: after a second try, for
which a deadlock mostly leaves the way free. So a revocation is not turned away because a reissue crossed it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from core.errors import Conflict, QianyanError, Unavailable

T = TypeVar("T")

#: Of an Unavailable: background work and batches try again.
CONTENDED: Final = "store_contended"
#: Of the Conflict that a request gets.
CODE: Final = "request_contended"


def is_contended(error: BaseException) -> bool:
    """Whether a transaction was broken off for another one."""
    return isinstance(error, QianyanError) and error.code == CONTENDED


async def or_conflict(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` gives: a transaction that does what a request asks for, and is done once more where it had to give
    way. Raises Conflict (code "request_contended") where it had to again, and what `work` raises."""
    try:
        return await work()
    except Unavailable as error:
        if not is_contended(error):
            raise
    try:
        return await work()
    except Unavailable as error:
        if not is_contended(error):
            raise
        raise Conflict(
            "another request is at work on the same holder, certificate or request, and this one had to give way: "
            "nothing of it was done; look what the other did, then ask again",
            code=CODE,
        ) from error
