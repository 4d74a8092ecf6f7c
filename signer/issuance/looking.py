"""What the store is asked before anything is made: whether the request was answered before, and who the holder is.

For all requests that wait at the same time in one read transaction. What it says may be old by the time that the
certificates are recorded; that transaction looks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import QianyanError
from core.store import holders
from core.store.database import Database
from signer.holders.service import Found
from signer.issuance.gathering import Gatherer
from signer.issuance.issued import Issued
from signer.issuance.order import Settlement
from signer.issuance.recording import recall_all

_PARALLEL: Final = 2


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for one request. `number_hash`: of its holder, where it names one."""

    once: Settlement | None
    number_hash: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """`before`: the answer that was given before; then nothing else was looked up."""

    before: Issued | None = None
    found: Found | None = None


class Lookout:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gatherer: Gatherer[Question, Answer] = Gatherer(self._look, parallel=_PARALLEL)

    async def look(self, question: Question) -> Answer:
        """Raises what recalling raises; Busy or Unavailable."""
        if question.once is None and question.number_hash is None:
            return Answer()
        return await self._gatherer.submit(question)

    async def _look(self, questions: Sequence[Question]) -> list[Answer | QianyanError]:
        hashes = [one.number_hash for one in questions if one.number_hash is not None]
        async with self._database.read() as connection:
            before = await recall_all(connection, [one.once for one in questions])
            known = await holders.find_many(connection, hashes) if hashes else {}
        answers: list[Answer | QianyanError] = []
        for question, recalled in zip(questions, before, strict=True):
            if isinstance(recalled, QianyanError):
                answers.append(recalled)
                continue
            number_hash = question.number_hash
            found = None if number_hash is None else Found(number_hash, known.get(number_hash))
            answers.append(Answer(recalled, found))
        return answers
