"""What every scenario is."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sized
from dataclasses import dataclass, field
from typing import ClassVar

from loadtest.call import Call, Journey, Wrong
from loadtest.target import Changes, Target, TargetError


@dataclass
class World:
    """What scenarios are given: the target, what this run has changed there, and a source of chance."""

    target: Target
    rng: random.Random
    changes: Changes = field(default_factory=Changes)
    #: Entity tags by path, so that downloads ask as clients do.
    etags: dict[str, str] = field(default_factory=dict)


class Scenario(ABC):
    """Makes calls. One object serves one process."""

    name: ClassVar[str]
    help: ClassVar[str]

    def __init__(self, world: World) -> None:
        self.world = world

    @abstractmethod
    def journey(self) -> Journey:
        """One use of the service, call after call."""


class Single(Scenario):
    """A scenario of calls that do not depend on one another: the compiled driver can send them."""

    @abstractmethod
    def call(self) -> Call:
        """One call."""

    def journey(self) -> Journey:
        yield self.call()


def expect(holds: bool, why: str) -> None:
    """Raises Wrong unless it holds."""
    if not holds:
        raise Wrong(why)


def need(things: Sized, what: str) -> None:
    """Raises TargetError where the target lacks what a scenario needs."""
    if not things:
        raise TargetError(f"the target file has no {what}; write it with `qianyan-load prepare` (see --help)")
