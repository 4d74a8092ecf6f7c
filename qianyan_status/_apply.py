"""A delta applied to the set that it belongs to. A state difference: the same keys are toggled, whatever was missed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from qianyan_status._codec import decode
from qianyan_status._errors import DeltaMismatch
from qianyan_status._file import (
    DeltaFile,
    Imports,
    SetFile,
    Space,
    check_disjoint,
    check_spaces,
    line_length,
    state_digest,
)


def grown(spaces: Sequence[Space], growth: Sequence[tuple[int, int]]) -> tuple[Space, ...]:
    """The spaces with their new ends; a month that was not there begins at 0."""
    by_month = {month: (month, first, following) for month, first, following in spaces}
    for month, by in growth:
        _, first, following = by_month.get(month, (month, 0, 0))
        by_month[month] = (month, first, following + by)
    result = tuple(by_month[month] for month in sorted(by_month))
    check_spaces(result)
    return result


def moved(keys: Sequence[int], before: Sequence[Space], after: Sequence[Space]) -> Sequence[int]:
    """Positions on the line of `before` as positions on the line of `after`, which has all its spaces."""
    if before == after:
        return keys
    starts = {}
    offset = 0
    for month, first, following in after:
        starts[month] = offset
        offset += following - first
    result: list[int] = []
    offset = 0
    for month, first, following in before:
        end = offset + following - first
        shift = starts[month] - offset
        result += [key + shift for key in keys[bisect_left(keys, offset) : bisect_left(keys, end)]]
        offset = end
    return result


def _toggled(keys: Sequence[int], toggles: Sequence[int]) -> Sequence[int]:
    return sorted(set(keys).symmetric_difference(toggles)) if toggles else keys


def _imports(imports: Imports | None, delta: DeltaFile) -> Imports | None:
    if not delta.import_revoked and not delta.import_held:
        return imports
    if imports is None:
        raise DeltaMismatch("the delta changes imports that the set does not have", code="digest")
    size = 1 << imports.bits
    revoked = _toggled(imports.revoked, decode(delta.import_revoked, size, whole=True))
    held = _toggled(imports.held, decode(delta.import_held, size, whole=True))
    check_disjoint(revoked, held)
    return replace(imports, revoked=revoked, held=held)


def apply_delta(base: SetFile, base_digest: bytes, delta: DeltaFile) -> SetFile:
    """The set as of the delta. Raises DeltaMismatch where it is not this set's, or its state comes out otherwise."""
    ours, theirs = base.header, delta.header
    if (
        delta.base_digest != base_digest
        or delta.base_number != ours.number
        or delta.base_position != ours.position
        or theirs.authority_key_id != ours.authority_key_id
    ):
        raise DeltaMismatch("the delta belongs to another set", code="digest")
    if theirs.number <= ours.number or theirs.position < ours.position or theirs.this_update < ours.this_update:
        raise DeltaMismatch("the delta is older than its set", code="digest")
    spaces = grown(base.spaces, delta.growth)
    size = line_length(spaces)
    revoked = _toggled(moved(base.revoked, base.spaces, spaces), decode(delta.revoked, size))
    held = _toggled(moved(base.held, base.spaces, spaces), decode(delta.held, size))
    check_disjoint(revoked, held)
    imports = _imports(base.imports, delta)
    if state_digest(spaces, revoked, held, imports) != theirs.state_digest:
        raise DeltaMismatch("the delta does not lead to the state that it declares", code="digest")
    return replace(base, header=theirs, spaces=spaces, revoked=revoked, held=held, imports=imports)
