"""By what names an authority's sealed octets are bound to what they are of: `Vault.seal_octets`, `open_octets`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from core.store.sealed import Kind


def request_name(ra_id: str, request_id: str) -> str:
    """A signed message of a request."""
    return f"request {ra_id} {request_id}"


def reason_name(ra_id: str, request_id: str) -> str:
    """Why a request was rejected."""
    return f"reason {ra_id} {request_id}"


def person_name(ra_id: str, person_id: str) -> str:
    """A person's name."""
    return f"person {ra_id} {person_id}"


NAMES: Final[Mapping[Kind, Callable[[str, str], str]]] = {
    Kind.PERSON: person_name,
    Kind.REASON: reason_name,
    Kind.REQUEST: request_name,
}
