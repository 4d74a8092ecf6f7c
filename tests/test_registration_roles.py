"""Who may do what: every role against everything, the words in the docs, and people judged by them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from core.errors import Denied
from signer._native import sm2
from signer.registration.directory import Credential, Person, RaView, Scope, Seats, judge, seat
from signer.registration.roles import (
    RIGHTS,
    TOGETHER,
    TWICE_APPROVED,
    Kind,
    Role,
    go_together,
    may_appoint,
    may_approve,
    may_enter,
)

DOCS = Path(__file__).parents[1] / "docs" / "registration.md"
ENTERS = {
    Role.OPERATOR: {"issue", "renew", "change", "reissue", "suspend", "resume", "revoke", "unlock", "recover"},
    Role.JUDICIAL: {"recover_judicial"},
}
APPOINTS = {
    Role.SUPER_ADMINISTRATOR: {Role.BUSINESS_ADMINISTRATOR},
    Role.AUDIT_ADMINISTRATOR: {Role.AUDITOR},
    Role.BUSINESS_ADMINISTRATOR: {Role.OPERATOR, Role.APPROVER, Role.JUDICIAL},
}


def test_the_table() -> None:
    assert set(RIGHTS) == set(Role)
    for role, kind in itertools.product(Role, Kind):
        assert may_enter([role], kind) == (kind.value in ENTERS.get(role, set())), (role, kind)
        assert may_approve([role], kind) == (role is Role.APPROVER), (role, kind)
    for role, wanted in itertools.product(Role, Role):
        assert may_appoint([role], [wanted]) == (wanted in APPOINTS.get(role, set())), (role, wanted)
        assert not may_appoint([role], []), "nobody appoints to nothing"
    assert not may_appoint([Role.BUSINESS_ADMINISTRATOR], [Role.OPERATOR, Role.AUDITOR])
    assert {Kind.RECOVER, Kind.RECOVER_JUDICIAL} == TWICE_APPROVED


def test_peers_and_separation() -> None:
    """Neither of the two peers appoints the other; who administers or audits does no business."""
    business = {Role.OPERATOR, Role.APPROVER, Role.JUDICIAL}
    for size in (1, 2, 3):
        for roles in itertools.combinations(Role, size):
            assert go_together(roles) == (len(roles) == 1 or set(roles) <= business), roles
    assert not go_together([])
    assert frozenset().union(*TOGETHER) == set(Role)


def test_the_docs_have_the_same_table() -> None:
    rows = {}
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0] in set(Role):
            rows[Role(cells[0])] = [set(cell.replace(",", " ").split()) - {"–"} for cell in cells[1:]]
    assert set(rows) == set(Role)
    every = {kind.value for kind in Kind}
    for role, (enters, approves, appoints) in rows.items():
        assert (every if enters == {"all"} else enters) == {kind.value for kind in RIGHTS[role].enters}, role
        assert (every if approves == {"all"} else approves) == {kind.value for kind in RIGHTS[role].approves}, role
        assert appoints == {one.value for one in RIGHTS[role].appoints}, role


def view(*roles: frozenset[Role], active: bool = True) -> tuple[RaView, list[bytes]]:
    """An authority with a person for each set of roles, a certificate each; valid from 10 to 20."""
    key = sm2.PrivateKey.generate().public_key
    signers = [bytes([number]) for number in range(len(roles))]
    people = {str(number): Person(str(number), these, True) for number, these in enumerate(roles)}
    credentials = {
        signer: Credential(str(number), "issuing", number, b"", key, 10, 20, True)
        for number, signer in enumerate(signers)
    }
    return RaView("gz", 1, active, Scope(None, None, None, False), people, credentials), signers


@pytest.mark.parametrize("kind", list(Kind))
def test_two_people_in_their_roles(kind: Kind) -> None:
    """Every pair of roles, in either order of signatures: it takes one who enters and another who approves."""
    for first, second in itertools.product(Role, Role):
        authority, signers = view(frozenset({first}), frozenset({second}))
        one_way = may_enter([first], kind) and may_approve([second], kind)
        other_way = may_enter([second], kind) and may_approve([first], kind)
        seats = seat(authority, kind, signers, 15)
        if one_way or other_way:
            assert judge(authority, kind, seats, 15).entered_by == ("0" if one_way else "1")
        else:
            with pytest.raises(Denied) as refused:
                judge(authority, kind, seats, 15)
            assert refused.value.code == "role"


def test_who_signs() -> None:
    both = frozenset({Role.OPERATOR, Role.APPROVER})
    authority, (first, second) = view(both, both)
    assert judge(authority, Kind.ISSUE, Seats(first, (second,)), 15).approved_by == ("1",)
    same = RaView(
        "gz", 1, True, authority.scope, authority.people, {**authority.credentials, b"x": authority.credentials[first]}
    )
    for where, seats, at_ms, code in (
        (authority, Seats(b"?"), 15, "signer_unknown"),
        (authority, Seats(first), 9, "certificate_not_yet_valid"),
        (authority, Seats(first), 21, "certificate_expired"),
        (same, Seats(first, (b"x",)), 15, "same_person"),
        (view(both, active=False)[0], Seats(b"\0"), 15, "ra_withdrawn"),
    ):
        with pytest.raises(Denied) as refused:
            judge(where, Kind.ISSUE, seats, at_ms)
        assert refused.value.code == code
