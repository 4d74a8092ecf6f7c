"""One session with a device: access rights, exported keys, signatures. Used by the one thread that owns it.

Owns the native handle and the buffers a call writes to, so that a call that never returns writes nowhere else. Knows
the ABI and passwords; not threads, other devices or the pool. `since` tells an onlooker how long a call has been out.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from core.errors import SettingsError
from signer._native import sm2, sm3
from signer.engine.sdf import abi
from signer.engine.sdf.abi import DeviceFault, DeviceMistake

_ORDER: Final = bytes.fromhex("fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54123")
_ZEROS: Final = bytes(32)
_CLEAR: Final = bytes(ctypes.sizeof(abi.Signature))
#: What proofs are signatures of: a digest that nobody can mean anything by.
_PROOF_LABEL: Final = b"qianyan: proof of a device key, signs nothing else\x00"

#: Gives the password of a key index, to be wiped by who asked. Raises SettingsError.
PasswordSource = Callable[[int], bytearray]


class DeviceKey:
    """A key in the devices: the same index in each of them, and the public key it must have there."""

    __slots__ = ("__weakref__", "index", "public", "public_key")

    def __init__(self, index: int, public_key: bytes) -> None:
        self.index = index
        self.public_key = public_key
        self.public = sm2.PublicKey.from_bytes(public_key)


class Session:
    """An open session. `rights_known` is the device's memory of indexes whose password was right once."""

    def __init__(
        self, library: abi.Library, device: ctypes.c_void_p, passwords: PasswordSource, rights_known: set[int]
    ) -> None:
        self._library = library
        self._passwords = passwords
        self._rights_known = rights_known
        self._rights: set[int] = set()
        self._digest = (ctypes.c_ubyte * 32)()
        self._digest_view = memoryview(self._digest).cast("B")
        self._signature = abi.Signature()
        self._signature_view = memoryview(self._signature).cast("B")
        self._digest_at = ctypes.addressof(self._digest)
        self._signature_at = ctypes.addressof(self._signature)
        #: When the call that is out began (time.monotonic), or None.
        self.since: float | None = None
        self._handle = ctypes.c_void_p()
        code = self._call(library.open_session, device, ctypes.byref(self._handle))
        if code != abi.OK:
            raise abi.judge("SDF_OpenSession", code)

    def close(self) -> None:
        """Gives the session back to the device, whatever the device says to that."""
        self._call(self._library.close_session, self._handle)

    def describe(self) -> str:
        """Issuer, name and serial number of the device. Raises DeviceFault, DeviceMistake."""
        info = abi.DeviceInfo()
        code = self._call(self._library.get_device_info, self._handle, ctypes.byref(info))
        if code != abi.OK:
            raise abi.judge("SDF_GetDeviceInfo", code)
        parts: tuple[bytes, ...] = (info.issuer_name, info.device_name, info.device_serial)
        return " ".join(part.decode("ascii", "replace").strip() for part in parts)

    def export(self, index: int) -> bytes:
        """The public key of the signing key at `index`, 65 bytes. Raises DeviceFault, DeviceMistake."""
        out = abi.PublicKey()
        code = self._call(self._library.export_public_key, self._handle, index, ctypes.byref(out))
        if code != abi.OK:
            raise abi.judge("SDF_ExportSignPublicKey_ECC", code, index)
        x, y = bytes(out.x), bytes(out.y)
        if out.bits != 256 or x[:32] != _ZEROS or y[:32] != _ZEROS:
            raise DeviceMistake(
                "hsm_layout", f"the key at index {index} is not 256 bits, right-aligned in 64 bytes: another interface"
            )
        try:
            return sm2.PublicKey.from_bytes(b"\x04" + x[32:] + y[32:]).to_bytes()
        except sm2.InvalidKey as error:
            raise DeviceMistake("hsm_layout", f"the key at index {index} is not a point of the SM2 curve") from error

    def check(self, key: DeviceKey) -> None:
        """Returns where the device has this key and signs with it. Raises DeviceFault, DeviceMistake."""
        if self.export(key.index) != key.public_key:
            raise DeviceMistake(
                "hsm_key_mismatch",
                f"key index {key.index} holds another key than the one registered; copy the right key to this device",
            )
        self.prove(key)

    def prove(self, key: DeviceKey) -> None:
        """Makes a signature and verifies it. Raises DeviceFault, DeviceMistake."""
        digest = sm3.sm3(_PROOF_LABEL + os.urandom(32))
        self.verify(key, digest, self.sign(key.index, digest))

    def verify(self, key: DeviceKey, digest: bytes, signature: bytes) -> None:
        """Raises DeviceFault where the signature is not the key's."""
        try:
            key.public.verify_digest(digest, signature)
        except sm2.InvalidSignature as error:
            raise DeviceFault("signature", f"a signature of key index {key.index} does not verify") from error

    def sign(self, index: int, digest: bytes) -> bytes:
        """64 bytes r ‖ s over a digest of 32. Raises DeviceFault, DeviceMistake."""
        if index not in self._rights:
            self._gain(index)
        code = self._ask(index, digest)
        if code in abi.RIGHT_CODES:  # a device forgets rights when it restarts or somebody logs out
            self._gain(index)
            code = self._ask(index, digest)
            if code in abi.RIGHT_CODES:
                raise DeviceMistake(
                    "hsm_access_right",
                    f"SDF_InternalSign_ECC answered {abi.name_of(code)} although the access right for key index "
                    f"{index} was granted; look at the key's permissions in the device",
                )
        if code != abi.OK:
            raise abi.judge("SDF_InternalSign_ECC", code, index)
        raw = bytes(self._signature_view)
        r, s = raw[32:64], raw[96:]
        if raw[:32] != _ZEROS or raw[64:96] != _ZEROS or not (_ZEROS < r < _ORDER and _ZEROS < s < _ORDER):
            raise DeviceFault("encoding", "r or s is not a number below the order, right-aligned in 64 bytes")
        return r + s

    def _ask(self, index: int, digest: bytes) -> int:
        """The call that signs, written out: it is the one that is made tens of thousands of times a second."""
        self._digest_view[:] = digest  # a device may write to its arguments; bytes objects are not for that
        self._signature_view[:] = _CLEAR
        self.since = time.monotonic()
        code = self._library.sign(self._handle, index, self._digest_at, 32, self._signature_at)
        self.since = None
        return code

    def _gain(self, index: int) -> None:
        """Asks for the access right. The password is read for it and wiped."""
        self._rights.discard(index)
        try:
            password = self._passwords(index)
        except SettingsError as error:
            raise DeviceMistake("hsm_password_file", error.detail) from error
        length = len(password)
        password += b"\0"  # some libraries look for an end in spite of the length
        try:
            buffer = (ctypes.c_char * len(password)).from_buffer(password)
            code = self._call(self._library.get_right, self._handle, index, buffer, length)
        finally:
            password[:] = bytes(length + 1)
        if code != abi.OK:
            raise abi.judge_right(code, index, gained_before=index in self._rights_known)
        self._rights.add(index)
        self._rights_known.add(index)

    def _call(self, function: abi.Function, *arguments: object) -> int:
        self.since = time.monotonic()
        try:
            return function(*arguments)
        finally:
            self.since = None


class Connection:
    """An open device handle; closed by whoever lets go of the last session on it."""

    def __init__(self, library: abi.Library) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._users = 1
        self.handle = ctypes.c_void_p()
        code = library.open_device(ctypes.byref(self.handle))
        if code != abi.OK:
            raise abi.judge("SDF_OpenDevice", code)

    def open_session(self, passwords: PasswordSource, rights_known: set[int]) -> Session:
        """Raises DeviceFault, DeviceMistake."""
        session = Session(self._library, self.handle, passwords, rights_known)
        with self._lock:
            self._users += 1
        return session

    def release(self) -> None:
        """One user less: a session was closed, or who opened the connection is done with it."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        self._library.close_device(self.handle)
