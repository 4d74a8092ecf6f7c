"""What is to be made, for whom, in place of what, and what is settled with it: the orders that `making` carries out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.x509 import Extension
from core.errors import QianyanError
from core.store import idempotency
from core.store.escrow import WrappedKey
from signer.holders.service import Admission
from signer.issuance import lifecycle
from signer.issuance.issued import Issued
from signer.issuance.kmc import EncryptionKey
from signer.issuance.profiles import Profile
from signer.issuance.states import Operation


class Settlement(Protocol):
    """What an order settles beside its certificates, in the transaction that records them, and what it did before.

    recall: the answer that was given before; asked in a read transaction before anything is made, and again at the
    beginning of the recording one, before that has written anything for the order. Raises where the order may not be
    carried out; that is then the order's alone to fail.
    remember: written after everything else of the order, in the same transaction.
    A settlement that has a hashable `scope` shares its transactions with others of another scope; one without is alone.
    One that has an `attribution` says what statistics count the certificates under: (registration authority, customer).
    """

    async def recall(self, connection: AsyncConnection) -> Issued | None:
        """See the class."""

    async def remember(self, connection: AsyncConnection, issued: Issued, *, at_ms: int) -> None:
        """See the class."""


@runtime_checkable
class SharedSettlement(Settlement, Protocol):
    """One whose kind asks the store for many at once, as one does for itself."""

    @classmethod
    async def recall_many(
        cls, connection: AsyncConnection, settlements: Sequence[Any]
    ) -> list[Issued | QianyanError | None]:
        """`recall` of each, in order; what one would raise is its answer."""

    @classmethod
    async def remember_many(
        cls, connection: AsyncConnection, given: Sequence[tuple[Any, Issued]], *, at_ms: int
    ) -> None:
        """`remember` of each."""


@dataclass(frozen=True, slots=True)
class Once:
    """An idempotency key with the digest of the request it stands for."""

    caller: str
    key: str
    digest: bytes

    @property
    def scope(self) -> tuple[str, str]:
        """What no two orders of one transaction have in common."""
        return (self.caller, self.key)

    @property
    def question(self) -> idempotency.Question:
        """It, as the store asks."""
        return idempotency.Question(self.caller, self.key, self.digest)

    async def recall(self, connection: AsyncConnection) -> Issued | None:
        """The answer given before. Raises Conflict for another request."""
        answer = await idempotency.recall(connection, self.caller, self.key, self.digest)
        return None if answer is None else Issued.from_body(answer.body)

    async def remember(self, connection: AsyncConnection, issued: Issued, *, at_ms: int) -> None:
        """Keeps the answer."""
        answer = idempotency.Answer(201, issued.to_body())
        await idempotency.remember(connection, self.caller, self.key, self.digest, answer, at_ms=at_ms)


@dataclass(frozen=True, slots=True)
class Replaced:
    """The pair in whose place a new one comes. `change`: how it ends at once; None: it stays until its own end."""

    first_id: int
    serial: int
    change: lifecycle.Change | None


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made. `subject`: DER Name; `public_key`: the signing certificate's, 65 bytes.

    dual: an encryption certificate belongs to it, with a new key, or with `kept` (`wrapped` empty: not ours to recover,
    as of a certificate that was imported). not_after: the end, from the time of
    issue. new_key: `public_key` came with the request and was not certified for this pair before.
    kept_from: the row of the certificate that has the key `kept`. given: the new key, where another centre made it.
    """

    operation: Operation
    profile_name: str
    profile: Profile
    authority_id: str
    subject: bytes
    extensions: tuple[Extension, ...]
    public_key: bytes
    not_after: Callable[[datetime], datetime]
    dual: bool
    actor: str
    kept: WrappedKey | None = None
    new_key: bool = True
    admission: Admission | None = None
    replaced: Replaced | None = None
    once: Settlement | None = None
    kept_from: int | None = None
    given: EncryptionKey | None = None

    @property
    def holder_id(self) -> str | None:
        """Whose it is, where that is known."""
        return None if self.admission is None else self.admission.holder_id

    @property
    def alone(self) -> bool:
        """Whether it needs a transaction of its own: it locks other rows, or settles what is not known here."""
        return self.replaced is not None or (self.once is not None and not hasattr(self.once, "scope"))

    @property
    def claims(self) -> set[Hashable]:
        """What no other order of the same transaction may have in common with it: key, holder, settlement."""
        found: set[Hashable] = {("key", self.public_key)}
        if self.admission is not None:
            fresh = self.admission.fresh
            found.add(("holder", self.admission.holder_id))
            if fresh is not None:
                found.add(("holder", fresh.number_hash))
        scope = getattr(self.once, "scope", None)
        if scope is not None:
            found.add(("once", scope))
        return found
