"""What the directory has to say of a certificate, an authority or a CRL, and what has to change for that.

Pure: from content and an entry as it was read, to the modifications of one LDAP operation. Knows attributes and object
classes (RFC 4523, deploy/ldap/qianyan.schema), no connection. What others wrote into an entry stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from cryptography import x509

from core.errors import Malformed, Refused
from core.model import CertificateState, serial_to_hex
from core.store.directory import PublicCertificate
from status.directory import crl_facts
from status.directory.naming import Template, first_part, normalised, subject_fields
from status.directory.settings import LdapTargetSettings
from status.directory.sinks import AuthorityContent, CertificateContent, Content, CrlContent, Mark, OrphanContent

USER_CERTIFICATE: Final = "userCertificate;binary"
CA_CERTIFICATE: Final = "cACertificate;binary"
CRL: Final = "certificateRevocationList;binary"
ARL: Final = "authorityRevocationList;binary"
DELTA: Final = "deltaRevocationList;binary"
SERIAL: Final = "qianyanSerial"
REVOKED: Final = "qianyanRevokedSerial"
HELD: Final = "qianyanHeldSerial"
AUTHORITY: Final = "qianyanAuthority"
CRL_NUMBER: Final = "qianyanCrlNumber"
DELTA_NUMBER: Final = "qianyanDeltaNumber"
MARK_ID: Final = "qianyanTarget"
MARK_POSITION: Final = "qianyanPosition"
#: Set as a whole: the first has no matching rule by which one value could be taken out (RFC 4523 §2.4).
_WHOLE: Final = {name.lower() for name in (CRL, ARL, DELTA)}
#: An entry of ours without any of these is of no use.
_CONTENT: Final = {name.lower() for name in (USER_CERTIFICATE, CA_CERTIFICATE, CRL, ARL)}


@dataclass(frozen=True, slots=True)
class Part:
    """What one content asks of one entry. `wanted`: the entry is made where it is missing."""

    dn: str
    structural: str
    auxiliary: tuple[str, ...]
    present: dict[str, list[bytes]] = field(default_factory=dict)
    absent: dict[str, list[bytes]] = field(default_factory=dict)
    owned: dict[str, list[bytes]] = field(default_factory=dict)
    wanted: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """One operation: `attributes` for "add"; (code, attribute, values) for "modify", codes as in RFC 4511 §4.6.

    instead: what to do where a "delete" is refused because something is below the entry.
    """

    kind: Literal["add", "modify", "delete"]
    dn: str
    attributes: list[tuple[str, list[bytes]]] = field(default_factory=list)
    modifications: list[tuple[int, str, list[bytes] | None]] = field(default_factory=list)
    instead: Change | None = None

    @property
    def size(self) -> int:
        """About how many bytes it sends."""
        values = [v for _, vs in self.attributes for v in vs] + [v for _, _, vs in self.modifications for v in vs or ()]
        return sum(map(len, values)) + 200


_ADD, _DELETE, _REPLACE = 0, 1, 2

#: An entry as it was read: attribute (lower case) → values.
Entry = dict[str, list[bytes]]


def as_entry(attributes: dict[str, list[bytes]]) -> Entry:
    """The attributes of a search result."""
    return {name.lower(): list(values) for name, values in attributes.items()}


class Mapper:
    """Contents to parts, by the settings of one target. `clock`: milliseconds since the epoch."""

    def __init__(self, settings: LdapTargetSettings, clock: Callable[[], int]) -> None:
        self._settings = settings
        self._clock = clock
        subject = {"authority", "serial", "usage", "subject"}
        self._certificate_dn = Template(settings.certificate_dn, subject, name="certificate_dn", is_dn=True)
        self._authority_dn = Template(settings.authority_dn, {"authority"}, name="authority_dn", is_dn=True)
        self._crl_dn = Template(settings.crl_dn, {"authority", "partition"}, name="crl_dn", is_dn=True)
        self._attributes = {
            name: Template(text, subject, name=f"attributes.{name}") for name, text in settings.attributes.items()
        }

    def part(self, content: Content) -> Part | None:
        """What `content` asks for; None where it is not published here. Raises Refused (code "directory_field",
        "directory_crl")."""
        if isinstance(content, CertificateContent):
            return self.of_certificate(content.record)
        if isinstance(content, AuthorityContent):
            return self._of_authority(content)
        if isinstance(content, CrlContent):
            return self._of_crl(content)
        return _of_orphan(content, self._settings.structural_class)

    def dn_of(self, record: PublicCertificate) -> str:
        """Where a certificate goes. Raises Refused (code "directory_field")."""
        return self._certificate_dn.fill(self._values(record), self._settings.base)

    def shown(self, record: PublicCertificate) -> bool:
        """Whether the certificate itself is in the directory."""
        if self._settings.expired == "remove" and record.not_after_ms < self._clock():
            return False
        return self._settings.revoked == "mark" or record.state == CertificateState.GOOD.value

    def publishes(self, record: PublicCertificate) -> bool:
        """Whether certificates of its kind are published here at all."""
        return record.usage in self._settings.usages

    def _values(self, record: PublicCertificate) -> dict[str, str]:
        return {
            "authority": record.authority_id,
            "serial": serial_to_hex(record.serial),
            "usage": record.usage,
            **subject_fields(record.subject),
        }

    def of_certificate(self, record: PublicCertificate) -> Part | None:
        """What a certificate asks for."""
        if not self.publishes(record):
            return None
        values = self._values(record)
        dn = self._certificate_dn.fill(values, self._settings.base)
        serial = [serial_to_hex(record.serial).encode()]
        marks = {
            REVOKED: serial if record.state == CertificateState.REVOKED.value else [],
            HELD: serial if record.state == CertificateState.HELD.value else [],
        }
        classes = (self._settings.structural_class, ("pkiUser", "qianyanCertified"))
        if not self.shown(record):
            gone = {USER_CERTIFICATE: [record.certificate], SERIAL: serial, REVOKED: serial, HELD: serial}
            return Part(dn, *classes, absent=gone, wanted=False)
        present = {USER_CERTIFICATE: [record.certificate], SERIAL: serial, AUTHORITY: [record.authority_id.encode()]}
        for name, template in self._attributes.items():
            if all(values.get(one) for one in template.fields - {"base"}):
                present[name] = [template.fill(values, self._settings.base).encode()]
        present |= {name: marked for name, marked in marks.items() if marked}
        return Part(dn, *classes, present=present, absent={name: serial for name, on in marks.items() if not on})

    def _of_authority(self, content: AuthorityContent) -> Part:
        dn = self._authority_dn.fill({"authority": content.authority_id}, self._settings.base)
        shown = [] if content.certificate is None else [content.certificate]
        present = {AUTHORITY: [content.authority_id.encode()]}
        name = subject_fields(content.subject).get("subject.CN")
        if name is not None:
            present["cn"] = [name.encode()]
        classes = ("pkiCA", "qianyanAuthorityInfo")
        owned = {CA_CERTIFICATE: shown}
        return Part(dn, self._settings.structural_class, classes, present=present, owned=owned, wanted=bool(shown))

    def _of_crl(self, content: CrlContent) -> Part:
        values = {"authority": content.authority_id, "partition": str(content.partition)}
        dn = self._crl_dn.fill(values, self._settings.base)
        with_authority = normalised(dn) == normalised(
            self._authority_dn.fill({"authority": content.authority_id}, self._settings.base)
        )
        structural = self._settings.structural_class if with_authority else "cRLDistributionPoint"
        auxiliary = ("pkiCA", "deltaCRL", "qianyanAuthorityInfo") if with_authority else ()
        lists = [content.full.body]
        only = _only_authorities(content.full.body)
        return Part(
            dn,
            structural,
            (*auxiliary, "qianyanCrl"),
            present={AUTHORITY: [content.authority_id.encode()]},
            owned={
                CRL: [] if only else lists,
                ARL: lists if only or content.of_authorities else [],
                DELTA: [] if content.delta is None else [content.delta.body],
                CRL_NUMBER: [b"%d" % content.full.number],
                DELTA_NUMBER: [] if content.delta is None else [b"%d" % content.delta.number],
            },
        )


def _only_authorities(crl: bytes) -> bool:
    try:
        return crl_facts.only_authorities(crl)
    except Malformed as error:
        raise Refused(f"the CRL cannot be read: {error.detail}", code="directory_crl") from error


def _of_orphan(content: OrphanContent, structural: str) -> Part | None:
    digest, _, dn = content.reference.partition(" ")
    return Part(dn, structural, (), absent={"sha256": [digest.encode()]}, wanted=False)


def _key(name: str) -> Callable[[bytes], object]:
    """By what two values of an attribute are the same: bytes, or text without case and spaces (caseIgnoreMatch)."""
    if name.lower().endswith(";binary"):
        return lambda value: value
    return lambda value: " ".join(value.decode("utf-8", "replace").casefold().split())


def _orphan_values(entry: Entry, digest: bytes) -> dict[str, list[bytes]]:
    """What goes with the certificate of that SHA-256."""
    for value in entry.get(USER_CERTIFICATE.lower(), ()):
        if hashlib.sha256(value).hexdigest().encode() == digest:
            gone = {USER_CERTIFICATE: [value]}
            try:
                serial = serial_to_hex(x509.load_der_x509_certificate(value).serial_number).encode()
            except ValueError:  # not ours to judge what it was: it goes
                return gone
            return {**gone, SERIAL: [serial], REVOKED: [serial], HELD: [serial]}
    return {}


def _new(before: Entry | None, parts: Sequence[Part]) -> tuple[dict[str, list[bytes]], bool]:
    """(the entry as it has to be, with names as we write them; whether anyone wants it)."""
    names = {name: name for name in before or {}}
    after: dict[str, list[bytes]] = {name: list(values) for name, values in (before or {}).items()}

    def values_of(name: str) -> list[bytes]:
        names[name.lower()] = name
        return after.setdefault(name.lower(), [])

    for part in parts:
        absent = part.absent
        if "sha256" in absent:
            absent = _orphan_values(before or {}, absent["sha256"][0])
        for name, values in absent.items():
            gone = {_key(name)(value) for value in values}
            after[name.lower()] = [v for v in values_of(name) if _key(name)(v) not in gone]
        if not part.wanted and before is None:
            continue
        for name, values in part.owned.items():
            values_of(name)[:] = values
        if not part.wanted:
            continue
        wanted = {**part.present, "objectClass": [c.encode() for c in part.auxiliary]}
        for name, values in wanted.items():
            have = {_key(name)(value) for value in values_of(name)}
            values_of(name).extend(value for value in values if _key(name)(value) not in have)
    return {names[name]: values for name, values in after.items()}, any(part.wanted for part in parts)


def plan(dn: str, before: Entry | None, parts: Sequence[Part]) -> Change | None:
    """What brings the entry to what all of `parts`, in order, ask for; None where it is there already.

    Raises Refused (code "directory_newer") rather than put an older CRL in the place of a newer one.
    """
    after, wanted = _new(before, parts)
    if before is None:
        return _addition(dn, after, parts) if wanted else None
    _refuse_older(before, after)
    modifications = _difference(before, after)
    if not modifications:
        return None
    change = Change("modify", dn, modifications=modifications)
    structural = {part.structural.lower().encode() for part in parts}
    classes = {value.lower() for value in before.get("objectclass", ())}
    left = any(values and name.lower() in _CONTENT for name, values in after.items())
    if not wanted and structural <= classes and not left:
        return Change("delete", dn, instead=change)
    return change


def _addition(dn: str, after: dict[str, list[bytes]], parts: Sequence[Part]) -> Change:
    structural = next(part.structural for part in parts if part.wanted)
    classes = [b"top", structural.encode(), *after.pop("objectClass", [])]
    kind, value = first_part(dn)
    names = {name.lower(): name for name in after}
    own = after.setdefault(names.get(kind.lower(), kind), [])
    if _key(kind)(value.encode()) not in {_key(kind)(one) for one in own}:
        own.append(value.encode())
    attributes = [("objectClass", classes), *((name, values) for name, values in after.items() if values)]
    return Change("add", dn, attributes=attributes)


def _refuse_older(before: Entry, after: dict[str, list[bytes]]) -> None:
    for name in (CRL_NUMBER, DELTA_NUMBER):
        there, given = before.get(name.lower()), after.get(name)
        if there and given and int(there[0]) > int(given[0]):
            raise Refused(
                f"the directory has CRL number {int(there[0])}, the store's newest is {int(given[0])}: an older one is "
                "never put in a newer one's place",
                code="directory_newer",
            )


def _difference(before: Entry, after: dict[str, list[bytes]]) -> list[tuple[int, str, list[bytes] | None]]:
    """The modifications. Values are taken out by name, so that one that changed meanwhile fails the whole operation."""
    modifications: list[tuple[int, str, list[bytes] | None]] = []
    for name, values in after.items():
        there = before.get(name.lower(), [])
        key = _key(name)
        have, want = {key(v) for v in there}, {key(v) for v in values}
        if have == want:
            continue
        if name.lower() in _WHOLE:
            modifications.append((_REPLACE, name, list(values) or None))
            continue
        gone = [value for value in there if key(value) not in want]
        new = [value for value in values if key(value) not in have]
        modifications += [(_DELETE, name, gone)] if gone else []
        modifications += [(_ADD, name, new)] if new else []
    return modifications


def mark_dn(base: str) -> str:
    """Where the publisher's mark is."""
    return f"cn=qianyan publication,{base}"


def mark_entry(base: str, mark: Mark) -> Change:
    """The entry of a mark."""
    classes = [b"top", b"qianyanEntry", b"qianyanPublication"]
    attributes = [("objectClass", classes), ("cn", [b"qianyan publication"])]
    attributes += [(MARK_ID, [mark.identity.encode()]), (MARK_POSITION, [b"%d" % mark.position])]
    return Change("add", mark_dn(base), attributes=attributes)
