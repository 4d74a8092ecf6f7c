"""The signing engine with callers' limits before it: what is refused here costs no key and no batch.

Knows callers by id and signatures by number; not HTTP, and not how limits are kept.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from core.errors import QianyanError
from service.callers import Account, Callers
from signer.engine.batch import DIGEST_BYTES
from signer.engine.engine import SigningEngine


class MeteredEngine(SigningEngine):
    """See the module. `callers`: who is limited; a caller that is not among them (the service itself) is not."""

    def __init__(self, callers: Callers, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._callers = callers

    def sign_digests(self, key_id: str, digests: bytes, *, caller: str, **named: Any) -> Coroutine[Any, Any, bytes]:
        """As SigningEngine's; raises Busy (code "caller_rate", "caller_quota") where the caller may have no more."""
        account = self._callers.charge(caller, len(digests) // DIGEST_BYTES)
        if account is None:
            return super().sign_digests(key_id, digests, caller=caller, **named)
        return self._sign_from_quota(account, key_id, digests, named)

    def _charge_now(self, caller: str, count: int) -> bool:
        return self._callers.charge_now(caller, count)

    async def _sign_from_quota(self, account: Account, key_id: str, digests: bytes, named: dict[str, Any]) -> bytes:
        count = len(digests) // DIGEST_BYTES
        day = await self._callers.take_quota(account, count)
        try:
            return await super().sign_digests(key_id, digests, caller=account.caller.id, **named)
        except QianyanError:  # nothing was signed; where the caller went away, something may have been
            if account.quota is not None:  # else it was taken away meanwhile, and nothing is counted any more
                await self._callers.quotas.give_back(account.caller.id, day, count, account.quota)
            raise
