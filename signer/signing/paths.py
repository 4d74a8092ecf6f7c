"""Finds the paths from an authority's certificate up to what is trusted (RFC 5280 §6.1), within bounds.

Pure but for a cache of signatures on certificates that hold or do not: knows certificates; not time, status, the store
or HTTP. What depends on a time (validity) and on status is left to the caller, so that one search serves every item of
a call. Loops are refused: no name and key stands twice in a path. The search for one authority's paths tries a bounded
number of issuers and checks a bounded number of signatures; nothing that a caller brings along can make it longer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from signer.signing.hierarchy import Hierarchy
from signer.signing.parsed import Parsed, holds
from signer.signing.trust import Trust
from signer.signing.verification_settings import VerificationSettings

#: From an issuer up to an anchor, the issuer first; an anchor by itself is a path of one.
Path = tuple[Parsed, ...]


class SignatureCache:
    """Which certificates' signatures verify under which keys: facts that do not change. Bounded; thread-safe."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._known: OrderedDict[tuple[bytes, bytes], bool] = OrderedDict()
        self._lock = Lock()

    def get(self, child: Parsed, issuer: Parsed) -> bool | None:
        """Whether it verifies; None: not known."""
        with self._lock:
            return self._known.get((child.encoded, issuer.point))

    def put(self, child: Parsed, issuer: Parsed, good: bool) -> None:
        """Remembers."""
        with self._lock:
            self._known[child.encoded, issuer.point] = good
            while len(self._known) > self._max_entries:
                self._known.popitem(last=False)


@dataclass(slots=True)
class _Budget:
    """What a search may still do."""

    candidates: int
    signatures: int

    @property
    def spent(self) -> bool:
        return self.candidates < 0 or self.signatures < 0


class PathFinder:
    """The paths that one call may use: our hierarchy, the configured trust, and what the call brought along."""

    def __init__(
        self,
        hierarchy: Hierarchy,
        trust: Trust,
        brought: Sequence[Parsed],
        signatures: SignatureCache,
        settings: VerificationSettings,
    ) -> None:
        self._hierarchy = hierarchy
        self._trust = trust
        self._signatures = signatures
        self._settings = settings
        self._brought: dict[bytes, list[Parsed]] = {}
        for parsed in brought:
            self._brought.setdefault(parsed.subject, []).append(parsed)
        self._found: dict[bytes, tuple[list[Path], bool]] = {}
        self._checked: dict[tuple[bytes, bytes], bool] = {}

    def issuers_of(self, child: Parsed) -> list[Parsed]:
        """Certificates that may be the issuer's, by name and key identifier: ours first, then the configured, then what
        was brought along; each key once where several certificates have it is left to `paths`."""
        own = self._hierarchy.issuer_of(child)
        found = [] if own is None else [own.parsed]
        for parsed in (*self._trust.named(child.issuer), *self._brought.get(child.issuer, ())):
            named, has = child.authority_key_id, parsed.subject_key_id
            if (named is None or has is None or named == has) and all(parsed.encoded != one.encoded for one in found):
                found.append(parsed)
        return found[: self._settings.max_candidates]

    def verified(self, child: Parsed, issuer: Parsed) -> bool | None:
        """Whether the child's signature is the issuer's, where that is known."""
        found = self._checked.get((child.encoded, issuer.point))
        return self._signatures.get(child, issuer) if found is None else found

    def remember(self, child: Parsed, issuer: Parsed, good: bool) -> None:
        """Whether the child's signature is the issuer's: for this call, and as long as there is room for later ones."""
        self._checked[child.encoded, issuer.point] = good
        self._signatures.put(child, issuer, good)

    def check(self, child: Parsed, issuer: Parsed) -> bool:
        """Whether the child's signature is the issuer's; verified here where it is not known."""
        known = self.verified(child, issuer)
        if known is None:
            known = holds(issuer.public_key, child.signed)
            self.remember(child, issuer, known)
        return known

    def paths(self, issuer: Parsed) -> tuple[list[Path], bool]:
        """The paths from `issuer` up, and whether the search was given up before its end."""
        found = self._found.get(issuer.encoded)
        if found is None:
            budget = _Budget(self._settings.max_candidates, self._settings.max_path_signatures)
            paths: list[Path] = []
            if issuer.is_authority:
                self._walk((issuer,), paths, budget)
            found = self._found[issuer.encoded] = (paths, budget.spent)
        return found

    def _walk(self, chain: Path, paths: list[Path], budget: _Budget) -> None:
        """Depth first; recursion is bounded by `max_depth`."""
        last = chain[-1]
        own = self._hierarchy.of_certificate(last)
        if own is not None:
            self._keep(chain[:-1] + tuple(link.parsed for link in own.path()), paths)
        elif self._trust.is_anchor(last):
            self._keep(chain, paths)
        elif len(chain) < self._settings.max_depth:
            for issuer in self.issuers_of(last):
                budget.candidates -= 1
                if budget.spent or len(paths) >= self._settings.max_paths:
                    return
                if _loops(chain, issuer) or not issuer.is_authority:
                    continue
                if self._check(last, issuer, budget):
                    self._walk((*chain, issuer), paths, budget)

    def _keep(self, path: Path, paths: list[Path]) -> None:
        if len(path) <= self._settings.max_depth and _lengths_hold(path):
            paths.append(path)

    def _check(self, child: Parsed, issuer: Parsed, budget: _Budget) -> bool:
        if self.verified(child, issuer) is None:
            budget.signatures -= 1
            if budget.spent:
                return False
        return self.check(child, issuer)


def _loops(chain: Path, issuer: Parsed) -> bool:
    return any(link.subject == issuer.subject and link.point == issuer.point for link in chain)


def _lengths_hold(path: Path) -> bool:
    """pathLenConstraint: how many authorities that are not self-issued may stand below (RFC 5280 §4.2.1.9)."""
    below = 0
    for link in path:
        constraints = link.basic_constraints
        if constraints is None or (constraints.path_length is not None and constraints.path_length < below):
            return False
        below += not link.is_self_issued
    return True
