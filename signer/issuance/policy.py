"""What of a request's wishes a profile grants: the subject, the GM private extensions, the alternative names.

Pure: a request and a profile in, a DER Name and extensions out, or Malformed/Refused naming the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from core.asn1 import names
from core.asn1.x509 import Extension
from core.errors import Refused
from signer.issuance import gm_extensions
from signer.issuance.csr import CertificateRequest
from signer.issuance.profiles import GM_EXTENSION_OIDS, AlternativeName, Profile

#: Asked for by habit (keytool writes it) and asks for nothing: the key identifier is always ours to compute.
_IGNORED: Final = frozenset({"2.5.29.14"})
_MAX_ALTERNATIVE_NAMES: Final = 20
_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE
)
_ALTERNATIVES: Final[Mapping[type[x509.GeneralName], AlternativeName]] = {x509.DNSName: "dns", x509.IPAddress: "ip"}


@dataclass(frozen=True, slots=True)
class Grant:
    """What the certificate will say of its holder. `subject`: DER Name."""

    subject: bytes
    extensions: tuple[Extension, ...]


def grant(request: CertificateRequest, profile: Profile) -> Grant:
    """What `profile` grants of `request`. Raises Malformed or Refused naming the field."""
    subject = names.build_name(profile.subject.apply(request.fields)).public_bytes()
    extensions = []
    for dotted, value in request.extensions.items():
        field = f"csr.extensions.{dotted}"
        if dotted in _IGNORED:
            continue
        if isinstance(value, x509.SubjectAlternativeName) and profile.alternative_names:
            extensions.append(_alternative_names(value, profile, field))
            continue
        kind = GM_EXTENSION_OIDS.get(dotted)
        if kind is None or kind not in profile.gm_extensions:
            raise Refused(f"the profile does not allow extension {dotted}", code="extension_policy", field=field)
        extensions.append(Extension(dotted, False, gm_extensions.normalise(dotted, value.public_bytes(), field)))
    return Grant(subject, tuple(sorted(extensions, key=lambda extension: extension.oid)))


def _alternative_names(value: x509.SubjectAlternativeName, profile: Profile, field: str) -> Extension:
    wanted = list(value)
    if not 1 <= len(wanted) <= _MAX_ALTERNATIVE_NAMES:
        raise Refused(
            f"a certificate has 1 to {_MAX_ALTERNATIVE_NAMES} alternative names", code="extension_value", field=field
        )
    for name in wanted:
        kind = _ALTERNATIVES.get(type(name))
        if kind is None or kind not in profile.alternative_names:
            raise Refused(
                "the profile does not allow that kind of alternative name", code="extension_policy", field=field
            )
        if isinstance(name, x509.DNSName) and not _HOST.fullmatch(name.value):
            raise Refused("an alternative name is not a host name", code="extension_value", field=field)
    return Extension.of(x509.SubjectAlternativeName(wanted))
