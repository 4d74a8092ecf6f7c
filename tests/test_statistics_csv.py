"""Statistics as CSV: what a certificate's subject says is text to a spreadsheet, whatever it begins with."""

from __future__ import annotations

import csv
import io

import pytest

from core.store.statistics import Answer, Question
from service.statistics import as_csv


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_no_cell_is_a_formula(first: str) -> None:
    states = [{"region": f"{first}cmd|' /C calc'!A0", "good": 1, "held": 0, "revoked": 0, "expired": 0}]
    text = as_csv(Question(0, 1, ("region",), None, ()), Answer(0, [], states), "states")
    ((region, *_),) = list(csv.reader(io.StringIO(text, newline="")))[1:]
    assert region == f"'{first}cmd|' /C calc'!A0"


def test_other_text_stays_as_it_is() -> None:
    states = [{"region": "广东 = 44", "good": 1, "held": 0, "revoked": 0, "expired": 0}]
    text = as_csv(Question(0, 1, ("region",), None, ()), Answer(0, [], states), "states")
    assert "广东 = 44,1,0,0,0" in text
