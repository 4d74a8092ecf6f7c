"""Our authorities as a relying party sees them: whose certificates may issue, and for how long.

Knows certificates and the native core; not the store, the clock or HTTP. What does not depend on the time is checked
once when a `Hierarchy` is built: names, keys, signatures, CA flag, key usage, path length, critical extensions
(RFC 5280 §6.1). An authority that fails is left out, so nothing chains to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from core.errors import QianyanError, Refused
from core.store.authorities import Authority
from signer.signing.parsed import Parsed, check_signature, parse

_log = structlog.get_logger()

__all__ = ["Hierarchy", "Issuer", "Parsed", "check_signature", "parse"]


@dataclass(frozen=True, slots=True)
class Issuer:
    """An authority that may issue. `parent` None: the end of the path, trusted because it is ours."""

    authority_id: str
    parsed: Parsed
    parent: Issuer | None

    def path(self) -> Iterable[Issuer]:
        """This authority, then those above it."""
        link: Issuer | None = self
        while link is not None:
            yield link
            link = link.parent


class Hierarchy:
    """The authorities that hold, by name and key. Made by `build`."""

    def __init__(self, issuers: Iterable[Issuer]) -> None:
        self._by_name: dict[bytes, list[Issuer]] = {}
        self._by_certificate: dict[bytes, Issuer] = {}
        self._by_key: dict[tuple[bytes, bytes], Issuer] = {}
        for issuer in issuers:
            self._by_name.setdefault(issuer.parsed.subject, []).append(issuer)
            self._by_certificate[issuer.parsed.encoded] = issuer
            self._by_key[issuer.parsed.subject, issuer.parsed.point] = issuer

    @classmethod
    def build(cls, authorities: Sequence[Authority]) -> Hierarchy:
        """From the store's rows; those without a certificate, or whose certificate does not hold, are left out."""
        rows = {row.id: row for row in authorities}
        built: dict[str, Issuer | None] = {}

        def link(authority_id: str, below: int) -> Issuer | None:
            if authority_id in built or below > len(rows):
                return built.get(authority_id)
            row = rows[authority_id]
            parent = None if row.parent_id is None else link(row.parent_id, below + 1)
            try:
                built[authority_id] = _issuer(row, parent)
            except QianyanError as error:
                _log.warning("authority_does_not_hold", authority=authority_id, code=error.code, detail=error.detail)
                built[authority_id] = None
            return built[authority_id]

        return cls(found for row in authorities if row.certificate and (found := link(row.id, 0)) is not None)

    def of_certificate(self, certificate: Parsed) -> Issuer | None:
        """The authority of ours whose own certificate this is."""
        return self._by_certificate.get(certificate.encoded)

    def of_name_and_key(self, certificate: Parsed) -> Issuer | None:
        """The authority of ours that has the certificate's subject and key: what it issues is in our store."""
        return self._by_key.get((certificate.subject, certificate.point))

    def issuer_of(self, certificate: Parsed) -> Issuer | None:
        """The authority that the certificate names as its issuer, by name and key identifier; None: not one of ours.

        That its signature verifies under that authority's key is left to the caller.
        """
        named = self._by_name.get(certificate.issuer, [])
        if certificate.authority_key_id is None:
            return named[0] if len(named) == 1 else None
        for issuer in named:
            if issuer.parsed.subject_key_id == certificate.authority_key_id:
                return issuer
        return None


def _issuer(row: Authority, parent: Issuer | None) -> Issuer:
    if row.certificate is None:
        raise Refused("it has no certificate", code="authority_certificate")
    parsed = parse(row.certificate)
    if parsed.subject != row.subject or parsed.point != row.public_key:
        raise Refused("its certificate is not for its name and key", code="authority_certificate")
    if row.parent_id is not None and parent is None:
        raise Refused("the authority above it does not hold", code="authority_parent")
    if parent is not None or parsed.issuer == parsed.subject:
        above = parsed if parent is None else parent.parsed
        if parsed.issuer != above.subject:
            raise Refused("its certificate names another issuer", code="authority_certificate")
        check_signature(above.public_key, parsed.signed)
    issuer = Issuer(row.id, parsed, parent)
    for below, link in enumerate(issuer.path()):
        _check_may_issue(link.parsed, below)
    return issuer


def _check_may_issue(parsed: Parsed, below: int) -> None:
    """CA flag, keyCertSign, and room for `below` authorities under it (RFC 5280 §4.2.1.9, §4.2.1.3)."""
    constraints = parsed.basic_constraints
    if constraints is None or not parsed.is_authority:
        raise Refused("its certificate is not that of an authority", code="authority_certificate")
    if constraints.path_length is not None and constraints.path_length < below:
        raise Refused("the path length above it is used up", code="authority_path_length")
