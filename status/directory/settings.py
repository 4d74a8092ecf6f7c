"""`[directory]`: LDAP directories and object stores that certificates and CRLs are published to.

Owns names, defaults and cross-checks; how a template is filled is status.directory.naming's.
"""

from __future__ import annotations

from typing import Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from core.settings import Settings
from status.directory.naming import Template

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_NAME: Final = r"^[a-z0-9][a-z0-9_-]{0,31}$"


class LdapTargetSettings(Settings):
    """One entry of `[[directory.targets]]`.

    Templates hold `{base}`, `{authority}`, and, where it makes sense, `{serial}` (hex), `{usage}`, `{partition}`,
    `{subject.CN}` and its like (C, ST, L, O, OU, CN, SERIALNUMBER).
    """

    name: str = Field(pattern=_NAME)
    """The target's name in logs, metrics and commands; its position is kept under it."""
    url: str = Field(pattern=r"^ldaps?://[^/?#\s]+/?$")
    """`ldap://HOST:PORT` or `ldaps://HOST:PORT`."""
    start_tls: bool = False
    """Whether an `ldap://` connection is turned into TLS before anything is said."""
    ca_file: str | None = None
    """PEM file: the authorities that the server's TLS certificate may be of; without it the system's."""
    bind_dn: str = ""
    """Who the publisher is to the directory."""
    password_file: str | None = None
    """File whose first line is that one's password; mode 0600."""
    base: str = Field(min_length=1)
    """The entry under which everything is published; made where it is missing."""
    certificate_dn: str = "cn={serial},ou=certificates,{base}"
    """Where a certificate goes. Without `{serial}`, certificates of one name share an entry."""
    authority_dn: str = "cn={authority},ou=authorities,{base}"
    """Where an authority's certificate goes."""
    crl_dn: str = "cn={authority}-{partition},ou=crls,{base}"
    """Where a partition's CRLs go; the same as `authority_dn` for authorities of one partition, if you like."""
    structural_class: str = "qianyanEntry"
    """Structural object class of entries that are made for certificates and authorities."""
    attributes: dict[str, str] = Field(
        default_factory=lambda: {
            "cn": "{subject.CN}",
            "o": "{subject.O}",
            "ou": "{subject.OU}",
            "serialNumber": "{subject.SERIALNUMBER}",
        }
    )
    """Attributes of a certificate's entry, each with its template; one whose field the subject lacks is left out."""
    usages: tuple[Literal["sign", "encrypt"], ...] = ("sign", "encrypt")
    """Which of a holder's certificates are published."""
    revoked: Literal["remove", "mark"] = "remove"
    """What happens to a certificate that is revoked or on hold: it goes, or it stays and is marked
    (`qianyanRevokedSerial`, `qianyanHeldSerial`)."""
    expired: Literal["keep", "remove"] = "keep"
    """What `qianyan directory check --repair` does with certificates that have expired."""
    batch: int = Field(default=128, ge=1, le=2_000)
    """How many outbox rows are taken at once; so many operations are on their way to the server at most."""
    operation_timeout_s: float = Field(default=10.0, ge=0.2, le=300)
    """How long an answer of the server may take; then the connection is given up."""
    settle_s: float = Field(default=2.0, ge=0, le=60)
    """After a connection that broke, how long the server gets to finish what it may still have of it."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        parts = urlsplit(self.url)
        if self.start_tls and parts.scheme == "ldaps":
            raise ValueError("start_tls goes with ldap://, not with ldaps://")
        plain = parts.scheme == "ldap" and not self.start_tls
        if plain and self.password_file and parts.hostname not in _LOOPBACK:
            raise ValueError("a password goes over TLS only: use ldaps://, or start_tls = true")
        if bool(self.bind_dn) != bool(self.password_file):
            raise ValueError("bind_dn and password_file go together")
        subject = {"authority", "serial", "usage", "subject"}
        Template(self.certificate_dn, subject, name="certificate_dn", is_dn=True)
        Template(self.authority_dn, {"authority"}, name="authority_dn", is_dn=True)
        Template(self.crl_dn, {"authority", "partition"}, name="crl_dn", is_dn=True)
        for attribute, template in self.attributes.items():
            Template(template, subject, name=f"attributes.{attribute}")
        return self


class ObjectTargetSettings(Settings):
    """One entry of `[[directory.objects]]`: an S3-compatible bucket that gets CRLs and authorities' certificates, under
    the paths that the public listener has."""

    name: str = Field(pattern=_NAME)
    """The target's name in logs, metrics and commands; its position is kept under it."""
    endpoint: str = Field(pattern=r"^https?://[^?#\s]+$")
    """The service, e.g. `https://s3.example.cn`."""
    bucket: str = Field(min_length=3, max_length=63)
    """The bucket; it has to exist."""
    region: str = "us-east-1"
    """Its region."""
    prefix: str = ""
    """What stands before each object's name."""
    access_key_id: str = ""
    """Who the publisher is to the service."""
    secret_key_file: str | None = None
    """File whose first line is the secret key; mode 0600."""
    path_style: bool = True
    """Whether the bucket stands in the path (most services of one's own) or in the host's name."""
    operation_timeout_s: float = Field(default=30.0, ge=0.2, le=600)
    """How long a request may take."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        parts = urlsplit(self.endpoint)
        if parts.scheme == "http" and self.secret_key_file and parts.hostname not in _LOOPBACK:
            raise ValueError("the endpoint has to be https://")
        return self


class DirectorySettings(Settings):
    """`[directory]`: publication to LDAP directories and object stores."""

    targets: tuple[LdapTargetSettings, ...] = ()
    """The directories."""
    objects: tuple[ObjectTargetSettings, ...] = ()
    """The buckets."""
    poll_s: float = Field(default=0.2, gt=0, le=60)
    """How often the outbox is looked at."""
    look_s: float = Field(default=30.0, gt=0, le=3600)
    """How often it is seen, while there is nothing to deliver, whether a target still has what it took."""
    lease_s: float = Field(default=15.0, ge=1, le=600)
    """How long a publisher that died keeps others from taking over its target."""
    back_off_first_s: float = Field(default=0.5, gt=0)
    """The wait after a first failure; it doubles with each one that follows, and is spread at random."""
    back_off_max_s: float = Field(default=30.0, gt=0, le=3600)
    """The longest wait after a failure."""
    keep_days: int = Field(default=30, ge=1)
    """How long outbox rows are kept that every target has taken, for directories that are restored from a backup."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [target.name for target in self.targets] + [target.name for target in self.objects]
        if len(set(names)) != len(names):
            raise ValueError("two targets have the same name")
        if self.back_off_first_s > self.back_off_max_s:
            raise ValueError("back_off_first_s must not be more than back_off_max_s")
        return self
