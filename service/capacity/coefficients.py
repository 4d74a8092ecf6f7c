"""The coefficients of the capacity model: measured values, each with its unit and the run that it comes from.

Reads and checks a file; knows nothing of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from core.errors import SettingsError

_UNITS = frozenset({"1", "1/s", "s", "B"})


@dataclass(frozen=True, slots=True)
class Source:
    """The run that a value comes from."""

    command: str
    machine: str
    date: str


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A measured value. unit: "1" (a ratio), "1/s", "s" or "B" (octets)."""

    value: float
    unit: str
    meaning: str
    source: Source


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Everything that the model takes from measurement, by name; what each means is in the file."""

    sign_per_core_s: float
    ocsp_cached_per_core_s: float
    ocsp_signed_per_core_s: float
    ocsp_store_s: float
    verify_per_core_s: float
    hsm_share: float
    commits_per_s: float
    pairs_per_commit: float
    issue_core_s: float
    issue_store_s: float
    store_bytes_per_certificate: float
    store_bytes_per_revocation: float
    crl_entry_bytes: float
    crl_entry_build_s: float
    crl_memory_factor: float
    set_overhead: float
    ocsp_request_bytes: float
    ocsp_answer_bytes: float
    redis_bytes_per_answer: float
    worker_memory_bytes: float


def read(path: Path | None = None) -> dict[str, Coefficient]:
    """The coefficients of a file, or those that come with the project. Raises SettingsError naming what is wrong."""
    where = resources.files("service.capacity") / "coefficients.json" if path is None else path
    try:
        document = orjson.loads(where.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise SettingsError(f"{where} cannot be read as coefficients: {error}", code="coefficients") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{where} is not an object of coefficients", code="coefficients")
    wanted = {field.name for field in fields(Coefficients)}
    if odd := sorted(wanted ^ set(document)):
        state = "is missing" if odd[0] in wanted else "is not known"
        raise SettingsError(f"{where}: {odd[0]} {state}", code="coefficients")
    return {name: _coefficient(name, entry) for name, entry in document.items()}


def _coefficient(name: str, entry: Any) -> Coefficient:
    try:
        source = Source(**entry["source"])
        found = Coefficient(entry["value"], entry["unit"], entry["meaning"], source)
    except (TypeError, KeyError) as error:
        message = f"coefficient {name} needs value, unit, meaning and source (command, machine, date)"
        raise SettingsError(message, code="coefficients") from error
    if isinstance(found.value, bool) or not isinstance(found.value, int | float):
        raise SettingsError(f"coefficient {name}: its value is no number", code="coefficients")
    if not math.isfinite(found.value) or found.value <= 0:
        raise SettingsError(f"coefficient {name} must be more than 0", code="coefficients")
    if found.unit not in _UNITS or not all((source.command, source.machine, source.date)):
        raise SettingsError(f"coefficient {name}: its unit or its source is missing", code="coefficients")
    return found


def values(known: Mapping[str, Coefficient]) -> Coefficients:
    """The values alone, as the model takes them."""
    return Coefficients(**{name: float(coefficient.value) for name, coefficient in known.items()})
