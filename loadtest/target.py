"""What is loaded and what is known to be true about it: a file that `prepare` or a stand writes.

Owns the file's form. A truth is told with the times between which it changed, so that an answer is judged only by what
was certain when it was given.
"""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from loadtest.call import Listener
from loadtest.x509 import Issuer

State: TypeAlias = Literal["good", "revoked", "held", "unknown"]
STATES: Final[tuple[State, ...]] = ("good", "revoked", "held", "unknown")
#: How long after its commit a change may still be answered as before (docs/status.md).
PROPAGATION_S: Final = 1.0


class TargetError(Exception):
    """The target's file or an answer of the target does not fit; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A certificate that the load side has the key of, so that it can sign with it. `key`: 32 octets."""

    serial: int
    state: State
    certificate: bytes
    key: bytes


@dataclass
class Target:
    """A service and the truth about it. `processes`: {name: pid} of those whose time and memory are measured."""

    public: str
    private: str
    authority: str
    issuer: Issuer
    token: str = field(repr=False)
    signing_key: str = "demo"
    signing_public_key: bytes = b""
    directory: str = ""
    directory_base: str = ""
    population: dict[State, list[int]] = field(default_factory=dict)
    holders: list[Holder] = field(default_factory=list)
    #: An RA to sign requests for: "id"; "operator" and "approver", each {"certificate", "key"} in base64.
    ra: dict[str, Any] = field(default_factory=dict)
    #: What a report has to say: "signing" (software or hsm), versions, settings of the service.
    facts: dict[str, Any] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)
    #: PEM file of the authority that signed the private listener's certificate.
    ca_file: str = ""

    @cached_property
    def known(self) -> dict[int, State]:
        """The status of every serial that nobody changes during a run."""
        return {serial: state for state, serials in self.population.items() for serial in serials}

    def url(self, listener: Listener) -> str:
        """Of a listener; TargetError where the target has none."""
        found = {"public": self.public, "private": self.private, "directory": self.directory}[listener]
        if not found:
            raise TargetError(f"the target names no {listener} listener; leave that scenario out, or add its URL")
        return found

    def address(self, listener: Listener) -> tuple[str, int]:
        """(host, port) of a listener."""
        parts = urlsplit(self.url(listener))
        default = {"http": 80, "https": 443, "ldap": 389}.get(parts.scheme)
        if parts.hostname is None or default is None:
            raise TargetError(f"{self.url(listener)!r} is not an http, https or ldap URL")
        return parts.hostname, parts.port or default

    def save(self, file: Path) -> None:
        """Writes it, for this user alone: the token and the holders' keys are in it."""
        value = {
            **{name: getattr(self, name) for name in _PLAIN},
            "issuer": _b64(self.issuer.certificate),
            "signing_public_key": _b64(self.signing_public_key),
            "population": {state: [f"{serial:x}" for serial in some] for state, some in self.population.items()},
            "holders": [
                {"serial": f"{one.serial:x}", "state": one.state, "certificate": _b64(one.certificate),
                 "key": _b64(one.key)}
                for one in self.holders
            ],
        }  # fmt: skip
        file.touch(mode=0o600)
        file.write_text(json.dumps(value))


_PLAIN: Final = ("public", "private", "authority", "token", "signing_key", "directory", "directory_base", "facts",
                 "processes", "ca_file", "ra")  # fmt: skip


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def load_target(file: Path) -> Target:
    """Reads it. Raises TargetError."""
    try:
        value = json.loads(file.read_text())
        holders = [
            Holder(int(one["serial"], 16), one["state"], base64.b64decode(one["certificate"]),
                   base64.b64decode(one["key"]))
            for one in value["holders"]
        ]  # fmt: skip
        return Target(
            **{name: value[name] for name in _PLAIN},
            issuer=Issuer(base64.b64decode(value["issuer"])),
            signing_public_key=base64.b64decode(value["signing_public_key"]),
            population={state: [int(text, 16) for text in some] for state, some in value["population"].items()},
            holders=holders,
        )
    except OSError as error:
        raise TargetError(f"cannot read {file}: {error.strerror}; `qianyan-load prepare` writes one") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TargetError(f"{file} is not a target file ({error!r}); write it anew: qianyan-load prepare") from error


class Changes:
    """What a run itself changes: which states of a serial are possible in the answer to a question.

    A change that is under way or younger than PROPAGATION_S leaves both states possible.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[int, list[tuple[State, float, float]]] = {}

    def issued(self, serial: int, at: float) -> None:
        """Known to be good from now on."""
        with self._lock:
            self._of[serial] = [("good", at, at)]

    def changing(self, serials: list[int], state: State, at: float) -> None:
        """A request for the change is sent."""
        with self._lock:
            for serial in serials:
                self._of[serial].append((state, at, float("inf")))

    def changed(self, serials: list[int], at: float) -> None:
        """It was confirmed."""
        with self._lock:
            for serial in serials:
                state, began, _ = self._of[serial][-1]
                self._of[serial][-1] = (state, began, at)

    def possible(self, serial: int, sent_at: float, received_at: float) -> set[State]:
        """What an honest answer may say."""
        with self._lock:
            history = list(self._of[serial])
        found: set[State] = set()
        for place, (state, began, _) in enumerate(history):
            after = history[place + 1] if place + 1 < len(history) else None
            over = after is not None and after[2] + PROPAGATION_S < sent_at
            if began <= received_at and not over:
                found.add(state)
        return found
