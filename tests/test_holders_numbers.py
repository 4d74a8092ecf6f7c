"""Numbers that name holders: the standards' own examples, every wrong digit, and that nothing wrong is repeated."""

from __future__ import annotations

import pytest

from core.errors import Refused
from signer.holders.claim import HolderClaim, mask
from signer.holders.numbers import HolderKind, check_number

#: GB 32100-2015's example, and codes that are on display at their owners.
CREDIT_CODES = ["91350100M000100Y43", "91330106673959654P", "91110000802100433B", "9144030071526726XG"]
#: GB 11643-1999's examples.
IDENTITY_NUMBERS = ["11010519491231002X", "440524188001010014"]


@pytest.mark.parametrize("number", CREDIT_CODES)
def test_credit_codes(number: str) -> None:
    assert check_number(HolderKind.ORGANISATION, f" {number.lower()} ") == number


@pytest.mark.parametrize("number", IDENTITY_NUMBERS)
def test_identity_numbers(number: str) -> None:
    assert check_number(HolderKind.PERSON, number.lower()) == number


@pytest.mark.parametrize(
    ("kind", "number", "alphabet"),
    [
        (HolderKind.ORGANISATION, CREDIT_CODES[0], "0123456789ABCDEFGHJKLMNPQRTUWXY"),
        (HolderKind.PERSON, IDENTITY_NUMBERS[0], "0123456789X"),
    ],
)
def test_every_wrong_character_is_found(kind: HolderKind, number: str, alphabet: str) -> None:
    for at, right in enumerate(number):
        for wrong in alphabet.replace(right, ""):
            changed = number[:at] + wrong + number[at + 1 :]
            with pytest.raises(Refused) as refusal:
                check_number(kind, changed)
            assert (refusal.value.code, refusal.value.field) == ("holder_number", "holder.number")
            assert changed not in refusal.value.detail
    for at in range(len(number) - 1):  # neighbours that changed places
        swapped = number[:at] + number[at + 1] + number[at] + number[at + 2 :]
        if swapped != number:
            with pytest.raises(Refused):
                check_number(kind, swapped)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("organisation", ""),
        ("organisation", "91350100M000100Y4"),
        ("organisation", "91350100M000100Y430"),
        ("organisation", "9135010OM000100Y43"),
        ("person", "110105194913310025"),  # no such day
        ("person", "11010517491231002X"),
        ("person", "110105491231002"),  # fifteen digits, of before 1999
        ("person", "１１０１０５１９４９１２３１００２Ｘ"),
        ("device", ""),
        ("device", "-dev"),
        ("device", "a" * 65),
        ("device", "dev 1"),
    ],
)
def test_wrong_forms(kind: str, number: str) -> None:
    with pytest.raises(Refused) as refusal:
        HolderClaim.of(kind, number)
    assert refusal.value.code == "holder_number"
    assert not number or number not in refusal.value.detail


def test_other_data_is_bounded_and_not_repeated() -> None:
    for label, value in [("name", " "), ("name", "张" * 129), ("phone", "call me"), ("address", "a\nb")]:
        with pytest.raises(Refused) as refusal:
            HolderClaim.of("device", "dev-1", **{label: value})
        assert (refusal.value.code, refusal.value.field) == ("holder_data", f"holder.{label}")
        assert value.strip() not in refusal.value.detail or not value.strip()
    with pytest.raises(Refused, match="organisation, person, device"):
        HolderClaim.of("ghost", "1")


def test_masks() -> None:
    claim = HolderClaim.of("person", IDENTITY_NUMBERS[0], name="欧阳震华", phone="13800138000", address="某路1号")
    assert claim.masked() == {
        "number": "11**************2X",
        "name": "欧***",
        "phone": "*********00",
        "address": "****",
    }
    assert (mask("李", 1, 0), mask("李四", 1, 0), mask("abc", 2, 2)) == ("*", "李*", "***")
    assert "欧阳" not in repr(claim)
    assert IDENTITY_NUMBERS[0] not in repr(claim)
