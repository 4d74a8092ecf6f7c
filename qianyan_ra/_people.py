"""People of an RA, appointed and dismissed by an administrator of that RA: the content that is signed.

One signature does it; the answer is that of a request. Knows the shape; not CMS or HTTP.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from qianyan_ra._certificate import Certificate
from qianyan_ra._csr import check_csr
from qianyan_ra._errors import Unfit
from qianyan_ra._requests import GROUNDS, check_id, octets

ROLES: Final = (
    "super_administrator", "audit_administrator", "business_administrator", "operator", "approver", "auditor",
    "judicial",
)  # fmt: skip
_NAME_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Appointment:
    """An appointment or a dismissal before it is signed. `person_id`: whom it is about; `act`: appoint or dismiss."""

    ra: str
    request_id: str
    act: str
    person_id: str
    members: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Appointment(ra={self.ra!r}, act={self.act!r}, person_id={self.person_id!r})"

    def content(self) -> bytes:
        """The octets that are signed."""
        return octets({"version": 1, "request_id": self.request_id, "ra": self.ra, "act": self.act, **self.members})


def appoint(
    ra: str,
    person_id: str,
    name: str,
    roles: Sequence[str],
    *,
    csr: bytes | None = None,
    certificate: bytes | None = None,
    request_id: str | None = None,
) -> Appointment:
    """A person added, or given another certificate and these roles.

    `csr` (PKCS#10, DER or PEM) has a certificate issued; `certificate` (DER) is one that there is. Raises Unfit.
    """
    unknown = [role for role in roles if role not in ROLES]
    if unknown or not roles:
        raise Unfit(f"roles are of: {', '.join(ROLES)}", code="roles", field="person.roles")
    if not 1 <= len(name.strip()) <= _NAME_MAX:
        raise Unfit(f"a name has 1 to {_NAME_MAX} characters", code="name", field="person.name")
    if (csr is None) == (certificate is None):
        raise Unfit("a person has a certificate, or a request for one", code="certificate", field="person.certificate")
    person: dict[str, Any] = {"id": check_id(person_id, "person"), "name": name, "roles": list(roles)}
    if csr is not None:
        person["csr"] = base64.b64encode(check_csr(csr)).decode()
    if certificate is not None:
        person["certificate"] = base64.b64encode(Certificate.parse(certificate).encoded).decode()
    return Appointment(ra, check_id(request_id), "appoint", person_id, {"person": person})


def dismiss(ra: str, person_id: str, *, ground: str | None = None, request_id: str | None = None) -> Appointment:
    """A person dismissed: certificates that were issued by the service are revoked. Raises Unfit."""
    if ground is not None and ground not in GROUNDS:
        raise Unfit(f"a ground is one of: {', '.join(GROUNDS)}", code="ground", field="ground")
    members = {"person": check_id(person_id, "person"), **({} if ground is None else {"ground": ground})}
    return Appointment(ra, check_id(request_id), "dismiss", person_id, members)
