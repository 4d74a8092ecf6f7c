"""One session with a device: access rights, exported keys, signatures. Used by the one thread that owns it.

Owns the native handle, and through its lane the buffers that a signature is written to, so that a call that never
returns writes nowhere else. Knows the ABI and passwords; not threads, other devices or the pool. `since` tells an
onlooker how long a call has been out.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Final

from core.errors import SettingsError
from signer._native import sm2, sm3
from signer.engine.sdf import _lane, abi
from signer.engine.sdf._lane import Lane
from signer.engine.sdf.abi import DeviceFault, DeviceMistake
from signer.engine.sdf.rights import Rights

_ZEROS: Final = bytes(32)
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
    """An open session on a connection, which is released with it. `rights` are the device's."""

    def __init__(self, connection: Connection, passwords: PasswordSource, rights: Rights) -> None:
        self._connection = connection
        self._library = connection.library
        self._passwords = passwords
        self._all_rights = rights
        self._rights: set[int] = set()
        self._handle = ctypes.c_void_p()
        self.lane = Lane()
        #: Symmetric keys that were brought into the session, by what they were brought from (signer.engine.sdf.kek).
        self.symmetric: dict[tuple[int, bytes], ctypes.c_void_p] = {}
        code = self._call(self._library.open_session, connection.handle, ctypes.byref(self._handle))
        if code != abi.OK:
            raise abi.judge("SDF_OpenSession", code)
        connection.acquire()
        self.lane.attach(self._handle.value or 0, self._library.sign_address, self._library.gate)

    @property
    def since(self) -> float | None:
        """When the call that is out began (time.monotonic), or None."""
        return self.lane.since

    @property
    def library(self) -> abi.Library:
        """The device's functions, to be used by `call`."""
        return self._library

    def call(self, function: abi.Function, *arguments: object) -> int:
        """The code of a call with this session's handle."""
        return self._call(function, self._handle, *arguments)

    def close(self) -> None:
        """Gives the session back to the device, whatever the device says to that."""
        self._call(self._library.close_session, self._handle)
        self._connection.release()

    def describe(self) -> str:
        """Issuer, name and serial number of the device; empty where its library tells none.

        Raises DeviceFault, DeviceMistake.
        """
        if self._library.get_device_info is None:
            return ""
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

    def ready(self, index: int) -> None:
        """Returns with the access right for the key. Raises DeviceFault, DeviceMistake."""
        if index not in self._rights and self._library.get_right is not None:
            self._all_rights.gain(index, lambda: self._gain(index))
            self._rights.add(index)

    def sign(self, index: int, digest: bytes) -> bytes:
        """64 bytes r ‖ s over a digest of 32. Raises DeviceFault, DeviceMistake."""
        self.ready(index)
        outcome = self.lane.ask(index, digest)
        if outcome == _lane.FAILED and self.lane.code in abi.RIGHT_CODES:
            return self.sign_anew(index, digest)
        return self.result(outcome, index)

    def sign_anew(self, index: int, digest: bytes) -> bytes:
        """As `sign`, after a lost right: a device forgets them when it restarts or somebody logs out."""
        self._rights.discard(index)
        self.ready(index)
        outcome = self.lane.ask(index, digest)
        if outcome == _lane.FAILED and self.lane.code in abi.RIGHT_CODES:
            mistake = DeviceMistake(
                "hsm_access_right",
                f"SDF_InternalSign_ECC answered {abi.name_of(self.lane.code)} although the access right for key index "
                f"{index} was granted; look at the key's permissions in the device",
            )
            self._rights.discard(index)
            self._all_rights.refuse(index, mistake)
            raise mistake
        return self.result(outcome, index)

    def result(self, outcome: int, index: int) -> bytes:
        """What the lane's last call brought. Raises DeviceFault, DeviceMistake where that is no signature."""
        if outcome == _lane.FAILED:
            raise abi.judge("SDF_InternalSign_ECC", self.lane.code, index)
        if outcome == _lane.ENCODING:
            raise DeviceFault("encoding", "r or s is not a number below the order, right-aligned in 64 bytes")
        return self.lane.raw

    def _gain(self, index: int) -> None:
        """Asks for the access right. The password is read for it and wiped."""
        assert self._library.get_right is not None
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
            raise abi.judge_right(code, index, gained_before=index in self._all_rights.known)

    def _call(self, function: abi.Function, *arguments: object) -> int:
        self.lane.begin()
        try:
            return function(*arguments)
        finally:
            self.lane.end()


class Connection:
    """An open device handle; closed by whoever lets go of it last. Who opened it is its first user."""

    def __init__(self, library: abi.Library) -> None:
        self.library = library
        self._lock = threading.Lock()
        self._users = 1
        self.handle = ctypes.c_void_p()
        code = library.open_device(ctypes.byref(self.handle))
        if code != abi.OK:
            raise abi.judge("SDF_OpenDevice", code)

    def acquire(self) -> None:
        """One user more."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """One user less."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        self.library.close_device(self.handle)
