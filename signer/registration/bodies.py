"""A person as it is asked for in JSON, by token or in a signed message."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from core.asn1.x509 import certificate_der, load_certificate
from core.http import from_base64
from signer.registration.records import PersonWish
from signer.registration.roles import Role

_Pem = Annotated[str, Field(min_length=1, max_length=1 << 17)]


class PersonBody(BaseModel):
    """POST /v1/ras/{ra}/people: certificate or csr."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    id: Annotated[str, Field(min_length=1, max_length=32)]
    """The person's id within the RA, for good."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    """The person's name; kept sealed, shown masked."""

    roles: Annotated[list[Annotated[Role, Field(strict=False)]], Field(min_length=1, max_length=7)]
    """What the person is."""

    certificate: _Pem | None = None
    """A certificate for signatures, PEM or base64 of the DER."""

    csr: _Pem | None = None
    """A request for one, PEM or base64 of the DER."""

    def wish(self) -> PersonWish:
        """As it is asked for. Raises Malformed."""
        certificate = csr = None
        if self.certificate is not None:
            raw = _octets(self.certificate, "certificate")
            certificate = certificate_der(load_certificate(raw)) if raw.startswith(b"-----") else raw
        if self.csr is not None:
            csr = _octets(self.csr, "csr")
        return PersonWish(self.id, self.name, frozenset(self.roles), certificate, csr)


def _octets(text: str, field: str) -> bytes:
    """PEM as it is, or base64 decoded. Raises Malformed."""
    return text.strip().encode() if text.lstrip().startswith("-----BEGIN") else from_base64(text, field)
