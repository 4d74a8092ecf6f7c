"""Certificate profiles: what a request may ask for, and what the certificate then says.

Read from TOML (`profiles.toml` beside this file, or a file of the operator's own) into frozen models. Knows names of
things; not requests, DER or the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from core import oids
from core.asn1.names import build_name
from core.errors import QianyanError, Refused
from core.settings import Settings, load_toml
from signer.issuance.settings import check_oid
from signer.issuance.template import SET_SIGNING

SubjectField = Literal["C", "ST", "L", "O", "OU", "CN", "SERIALNUMBER"]
GmExtension = Literal[
    "identify_code", "insurance_number", "ic_registration_number", "organization_code", "taxation_number"
]
AlternativeName = Literal["dns", "ip"]
Medium = Literal["usb-key", "sim", "sd", "software"]
SignKeyUsage = Literal["digital_signature", "content_commitment"]
EncryptKeyUsage = Literal["key_encipherment", "data_encipherment", "key_agreement"]

#: Extended key usages by the names a profile may use; a dotted OID is taken as it is.
EXTENDED_KEY_USAGES: Final[Mapping[str, str]] = {
    "server_auth": "1.3.6.1.5.5.7.3.1",
    "client_auth": "1.3.6.1.5.5.7.3.2",
    "code_signing": "1.3.6.1.5.5.7.3.3",
    "email_protection": "1.3.6.1.5.5.7.3.4",
}
#: What would turn an end entity into an authority's delegate: OCSPSigning, status sets, timeStamping,
#: anyExtendedKeyUsage.
_RESERVED_EXTENDED_KEY_USAGES: Final = frozenset({"1.3.6.1.5.5.7.3.9", SET_SIGNING, "1.3.6.1.5.5.7.3.8", "2.5.29.37.0"})

GM_EXTENSION_OIDS: Final[Mapping[str, GmExtension]] = {
    oids.IDENTIFY_CODE: "identify_code",
    oids.INSURANCE_NUMBER: "insurance_number",
    oids.IC_REGISTRATION_NUMBER: "ic_registration_number",
    oids.ORGANIZATION_CODE: "organization_code",
    oids.TAXATION_NUMBER: "taxation_number",
}


class SubjectRules(Settings):
    """Which subject fields a request may carry, must carry, and which are the profile's own."""

    allowed: frozenset[SubjectField]
    """Fields that a request may carry."""

    required: frozenset[SubjectField] = frozenset({"CN"})
    """Fields that a request must carry."""

    fixed: Annotated[dict[SubjectField, str], Field(default_factory=dict)]
    """Fields with one value; added where the request leaves them out, refused where it says otherwise."""

    @model_validator(mode="after")
    def _consistent(self) -> SubjectRules:
        if missing := sorted(self.required - self.allowed - set(self.fixed)):
            raise ValueError(f"{missing[0]} is required and not allowed")
        if not self.required and not self.fixed:
            raise ValueError("an empty subject would be acceptable; require a field")
        if self.fixed:
            try:
                build_name({label: [value] for label, value in self.fixed.items()})
            except QianyanError as error:
                raise ValueError(f"fixed: {error.detail}") from error
        return self

    def apply(self, requested: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """The certificate's subject fields for the requested ones. Raises Refused naming the field."""
        fields = {label: list(values) for label, values in requested.items()}
        for label in fields:
            if label not in self.allowed and label not in self.fixed:
                raise _subject(f"the profile does not allow {label}", label)
        for fixed, value in self.fixed.items():
            if fields.setdefault(fixed, [value]) != [value]:
                raise _subject(f"the profile sets {fixed} to {value!r}", fixed)
        for label in sorted(self.required):
            if label not in fields:
                raise _subject(f"the profile requires {label}", label)
        return fields


def _subject(detail: str, label: str) -> Refused:
    return Refused(detail, code="subject_policy", field=f"subject.{label}")


class Profile(Settings):
    """One kind of certificate, or pair of certificates."""

    subject: SubjectRules
    """Rules for the subject."""

    validity_days: Annotated[int, Field(ge=1, le=3650)] = 365
    """How long the certificate is valid."""

    dual: bool = True
    """Whether an encryption certificate belongs to the signing certificate (R-11)."""

    medium: Medium = "software"
    """Where the holder keeps the signing key; recorded with the issuance (R-12)."""

    sign_key_usage: Annotated[frozenset[SignKeyUsage], Field(min_length=1)] = frozenset(
        {"digital_signature", "content_commitment"}
    )
    """Key usage of the signing certificate."""

    encrypt_key_usage: Annotated[frozenset[EncryptKeyUsage], Field(min_length=1)] = frozenset(
        {"key_encipherment", "data_encipherment", "key_agreement"}
    )
    """Key usage of the encryption certificate."""

    extended_key_usage: tuple[str, ...] = ()
    """Extended key usages of both: server_auth, client_auth, code_signing, email_protection or dotted OIDs."""

    policies: tuple[str, ...] = ()
    """Certificate policy OIDs of both."""

    gm_extensions: frozenset[GmExtension] = frozenset()
    """GM private extensions that a request may ask for."""

    alternative_names: frozenset[AlternativeName] = frozenset()
    """Kinds of subjectAltName that a request may ask for."""

    @field_validator("extended_key_usage")
    @classmethod
    def _usages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        resolved = tuple(check_oid(EXTENDED_KEY_USAGES.get(name, name)) for name in value)
        if reserved := [dotted for dotted in resolved if dotted in _RESERVED_EXTENDED_KEY_USAGES]:
            raise ValueError(f"{reserved[0]} is not given to holders")
        if len(set(resolved)) != len(resolved):
            raise ValueError("an extended key usage appears twice")
        return resolved

    @field_validator("policies")
    @classmethod
    def _policies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a policy appears twice")
        return tuple(check_oid(dotted) for dotted in value)


class Profiles(Settings):
    """A profile file."""

    profiles: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")], Profile], Field(min_length=1)
    ]
    """The profiles by name."""

    def get(self, name: str) -> Profile:
        """Raises Refused (code "profile_unknown")."""
        profile = self.profiles.get(name)
        if profile is None:
            known = ", ".join(sorted(self.profiles))
            raise Refused(f"there is no such profile; one of: {known}", code="profile_unknown", field="profile")
        return profile


def load_profiles(path: Path | None = None) -> Profiles:
    """The profiles in `path`, or the shipped ones. Raises SettingsError with the file, the key and what is wrong."""
    if path is not None:
        return load_toml(path, Profiles)
    with resources.as_file(resources.files("signer.issuance") / "profiles.toml") as shipped:
        return load_toml(shipped, Profiles)
