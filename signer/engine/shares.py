"""Shares of a backup's wrapping key: their printed form, and what is wrong with one.

A share is 52 letters and digits in groups of four, for paper or a file:

    QYS1-<base32 of: version 1 | set 8 | threshold 1 | shares 1 | number 1 | secret 16 | check 4 octets>

The check is the beginning of SM3 over what precedes it: it finds slips of the pen, not forgery. For that the backup
holds a digest of each share (`Share.digest`), which tells nothing of its 128 random bits. Secret octets are in
bytearrays that their owner wipes; text is made and read octet by octet, without tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from core.errors import Refused, SettingsError
from signer._native import shamir, sm3
from signer.engine.pbes2 import wipe

SECRET_BYTES: Final = 16
SET_BYTES: Final = 8
_MARK: Final = b"QYS1-"
_VERSION: Final = 1
_HEAD_BYTES: Final = 1 + SET_BYTES + 3
_CHECK_BYTES: Final = 4
_BYTES: Final = _HEAD_BYTES + SECRET_BYTES + _CHECK_BYTES
_CHARS: Final = 52
_FILE_MAX_BYTES: Final = 4_096
_CONTEXT: Final = b"qianyan share v1\0"


@dataclass(frozen=True, slots=True)
class Share:
    """One share. `wipe` it when done."""

    set_id: bytes
    threshold: int
    shares: int
    number: int
    secret: bytearray = field(repr=False)

    def wipe(self) -> None:
        """Clears the secret octets."""
        wipe(self.secret)

    def digest(self) -> bytes:
        """What the backup keeps to tell the share by: 32 octets."""
        plain = bytearray(_CONTEXT + self.set_id + bytes((self.number,))) + self.secret
        try:
            return sm3.sm3(plain)
        finally:
            wipe(plain)

    def encode(self) -> bytearray:
        """The printed form; the caller wipes it."""
        head = bytes((_VERSION,)) + self.set_id + bytes((self.threshold, self.shares, self.number))
        plain = bytearray(head) + self.secret
        try:
            plain += sm3.sm3(plain)[:_CHECK_BYTES]
            return bytearray(_MARK) + _to_base32(plain)
        finally:
            wipe(plain)

    @classmethod
    def decode(cls, text: bytearray, where: str) -> Share:
        """From the printed form. Raises Refused (code "share_damaged") naming `where` it was."""
        plain = _from_base32(text[len(_MARK) :]) if text[: len(_MARK)].upper() == _MARK else None
        if plain is None:
            raise _damaged(where, "it is not of the form QYS1-…")
        try:
            body, check = plain[:-_CHECK_BYTES], bytes(plain[-_CHECK_BYTES:])
            right = sm3.sm3(body)[:_CHECK_BYTES] == check
            secret = body[_HEAD_BYTES:]
            wipe(body)
            share = cls(bytes(plain[1 : 1 + SET_BYTES]), plain[9], plain[10], plain[11], secret)
            if not right or plain[0] != _VERSION or not 1 <= share.number <= share.shares:
                share.wipe()
                raise _damaged(where, "its check does not fit: a letter is wrong")
            return share
        finally:
            wipe(plain)


def split(secret: bytearray, set_id: bytes, threshold: int, shares: int) -> list[Share]:
    """The shares of `secret`, of which any `threshold` give it back."""
    made = shamir.split(secret, threshold, shares)
    return [Share(set_id, threshold, shares, number, octets) for number, octets in enumerate(made, 1)]


def combine(found: list[Share]) -> bytearray:
    """The secret that the shares were made of; the caller wipes it. They are known to belong together."""
    secret = bytearray(SECRET_BYTES)
    shamir.combine({share.number: share.secret for share in found}, secret)
    return secret


def read_file(path: Path) -> Share:
    """The share in a file, on a line of its own. Raises SettingsError, Refused (code "share_damaged")."""
    content = bytearray(_FILE_MAX_BYTES)
    try:
        with path.open("rb", buffering=0) as file:
            length = file.readinto(content) or 0
        for line in _lines(content, length):
            if line[: len(_MARK)].upper() == _MARK:
                return Share.decode(line, str(path))
    except OSError as error:
        raise SettingsError(f"share {path} cannot be read: {error.strerror}", code="share_unreadable") from error
    finally:
        wipe(content)
    raise _damaged(str(path), "no line of it begins with QYS1-")


def _lines(content: bytearray, length: int) -> list[bytearray]:
    return [line.strip() for line in content[:length].split(b"\n")]


def _damaged(where: str, why: str) -> Refused:
    return Refused(f"share {where} is damaged: {why}", code="share_damaged")


def _to_base32(plain: bytearray) -> bytearray:
    """RFC 4648 §6 without padding, in groups of four."""
    out = bytearray()
    bits = held = 0
    for octet in plain + b"\0":
        bits, held = (bits << 8) | octet, held + 8
        while held >= 5 and len(out) - out.count(b"-") < _CHARS:
            held -= 5
            value = (bits >> held) & 31
            bits &= (1 << held) - 1
            if len(out) % 5 == 4:
                out += b"-"
            out.append(65 + value - (((25 - value) >> 8) & 41))  # A to Z, 2 to 7
    return out


def _from_base32(text: bytearray) -> bytearray | None:
    """The octets; None where the text is not what `_to_base32` writes. Hyphens, spaces and case do not matter."""
    out = bytearray()
    bits = held = count = 0
    for char in text.upper():
        if char in b"- ":
            continue
        value = char - 65 if 65 <= char <= 90 else char - 24 if 50 <= char <= 55 else -1
        if value < 0:
            return None
        bits, held, count = (bits << 5) | value, held + 5, count + 1
        if held >= 8:
            held -= 8
            out.append((bits >> held) & 255)
            bits &= (1 << held) - 1
    if count != _CHARS or len(out) != _BYTES or bits:
        wipe(out)
        return None
    return out


def describe(share: Share) -> bytearray:
    """The content of a share's file; the caller wipes it."""
    text = (
        f"qianyan key backup {share.set_id.hex()}: share {share.number} of {share.shares}\n"
        f"Any {share.threshold} of them restore it: qianyan key restore BACKUP --share FILE ...\n"
        "Keep it apart from the other shares and from the backup.\n\n"
    )
    code = share.encode()
    try:
        return bytearray(text.encode()) + code + b"\n"
    finally:
        wipe(code)
