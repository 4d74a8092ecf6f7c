"""Whom to trust beside our own authorities: anchors and intermediates, read from files at the start.

Owns the reading of those files and what is looked up in them; knows nothing of time, status or the store. A file that
cannot be read stops the start: an anchor that is silently missing makes every certificate under it fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509

from core.asn1.x509 import certificate_der
from core.errors import QianyanError, SettingsError
from signer.signing.parsed import Parsed, holds, parse

_FILE_MAX_BYTES: Final = 1 << 20
_FILES_MAX: Final = 1_000
_SUFFIXES: Final = frozenset({".pem", ".crt", ".cer", ".der"})


@dataclass(frozen=True, slots=True)
class Trust:
    """Anchors and intermediates, by subject."""

    anchors: tuple[Parsed, ...] = ()
    intermediates: tuple[Parsed, ...] = ()
    _by_name: dict[bytes, tuple[Parsed, ...]] = field(default_factory=dict)
    _anchor_bytes: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, anchors: Iterable[Parsed], intermediates: Iterable[Parsed] = ()) -> Trust:
        """From certificates; anchors come first wherever one is looked for."""
        trusted, helping = tuple(anchors), tuple(intermediates)
        by_name: dict[bytes, tuple[Parsed, ...]] = {}
        for parsed in (*trusted, *helping):
            by_name[parsed.subject] = (*by_name.get(parsed.subject, ()), parsed)
        return cls(trusted, helping, by_name, frozenset(parsed.encoded for parsed in trusted))

    def named(self, subject: bytes) -> tuple[Parsed, ...]:
        """Those with that subject."""
        return self._by_name.get(subject, ())

    def is_anchor(self, parsed: Parsed) -> bool:
        """Whether this very certificate is an anchor."""
        return parsed.encoded in self._anchor_bytes


def load_trust(anchors: Sequence[str], intermediates: Sequence[str], resolve: Callable[[str], Path]) -> Trust:
    """From the settings' files and directories. Raises SettingsError naming the file and what to do."""
    trusted = [parsed for name in anchors for parsed in read_certificates(resolve(name), "an anchor")]
    helping = [parsed for name in intermediates for parsed in read_certificates(resolve(name), "an intermediate")]
    return Trust.of(trusted, helping)


def read_certificates(where: Path, what: str) -> list[Parsed]:
    """Every authority's certificate in a file, or in the .pem, .crt, .cer and .der files of a directory.

    Raises SettingsError: none there, not readable, not that of an SM2 authority, or self-signed and broken.
    """
    try:
        names = [where]
        if where.is_dir():
            names = sorted(path for path in where.iterdir() if path.suffix in _SUFFIXES and path.is_file())
        if not names or len(names) > _FILES_MAX:
            raise SettingsError(f"{where} has no certificates (.pem, .crt, .cer, .der), or too many", code="trust_file")
        return [parsed for name in names for parsed in _read_file(name, what)]
    except OSError as error:
        raise SettingsError(f"{where}, {what}, cannot be read: {error.strerror}", code="trust_file") from error


def _read_file(path: Path, what: str) -> list[Parsed]:
    with path.open("rb") as file:
        content = file.read(_FILE_MAX_BYTES + 1)
    if len(content) > _FILE_MAX_BYTES:
        raise SettingsError(f"{path} has more than {_FILE_MAX_BYTES} bytes", code="trust_file")
    try:
        if b"-----BEGIN" in content:
            encoded = [certificate_der(found) for found in x509.load_pem_x509_certificates(content)]
        else:
            encoded = [content]
        found = [parse(one) for one in encoded]
    except (ValueError, QianyanError) as error:
        raise SettingsError(f"{path}, {what}, is not an SM2 certificate: {error}", code="trust_file") from error
    for parsed in found:
        if not parsed.is_authority:
            raise SettingsError(
                f"{path}, {what}: {parsed.text_of(parsed.subject)} is not the certificate of an authority (CA flag, "
                "keyCertSign, no name constraints, nothing critical that is not processed)",
                code="trust_file",
            )
        if parsed.is_self_issued and not holds(parsed.public_key, parsed.signed) and what == "an anchor":
            raise SettingsError(f"{path}, {what}: its own signature does not verify", code="trust_file")
    return found
