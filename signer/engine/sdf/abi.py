"""The C interface of GM/T 0018 (SDF) libraries: structures, prototypes, error codes and what they mean.

Knows ctypes and the standard; not sessions, threads or the pool. Only the functions that signing needs are asked for,
and of those two may be missing, so that any vendor's library will do. ctypes releases the interpreter's lock during a
call; the call that signs is made in C (csrc/sdf_lane.c), which gets its address from here.

Numbers stand right-aligned in fields of 64 bytes (ECCref_MAX_LEN), integers are in native order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

from core.errors import SettingsError
from signer.engine.sdf._lane import Gate

FIELD_BYTES: Final = 64
SGD_SM2_1: Final = 0x00020200
SGD_SM4_ECB: Final = 0x00000401
OK: Final = 0

_BASE: Final = 0x01000000
_NAMES: Final = (
    *("UNKNOWERR", "NOTSUPPORT", "COMMFAIL", "HARDFAIL", "OPENDEVICE", "OPENSESSION", "PARDENY", "KEYNOTEXIST"),
    *("ALGNOTSUPPORT", "ALGMODNOTSUPPORT", "PKOPERR", "SKOPERR", "SIGNERR", "VERIFYERR", "SYMOPERR", "STEPERR"),
    *("FILESIZEERR", "FILENOEXIST", "FILEOFSERR", "KEYTYPEERR", "KEYERR", "ENCDATAERR", "RANDERR", "PRKRERR"),
    *("MACERR", "FILEEXISTS", "FILEWERR", "NOBUFFER", "INARGERR", "OUTARGERR"),
)
#: GM/T 0018 annex A, by name without SDR_.
CODES: Final = {name: _BASE + at for at, name in enumerate(_NAMES, start=1)}
_BY_CODE: Final = {code: name for name, code in CODES.items()}

#: The device or the way to it failed, whatever was asked: worth another try, elsewhere and later.
_FAULTS: Final = {
    CODES["UNKNOWERR"]: "unknown",
    CODES["COMMFAIL"]: "communication",
    CODES["HARDFAIL"]: "hardware",
    CODES["OPENDEVICE"]: "open",
    CODES["OPENSESSION"]: "open",
    CODES["NOBUFFER"]: "memory",
    CODES["RANDERR"]: "random",
    CODES["STEPERR"]: "step",
}
#: What a device says of a signature whose access right it does not know (any more).
RIGHT_CODES: Final = frozenset(CODES[name] for name in ("PARDENY", "PRKRERR", "INARGERR"))
#: Settings that do not fit the device: trying again changes nothing, and a wrong password may lock the key.
_KEY_MISTAKES: Final = frozenset(CODES[name] for name in ("KEYNOTEXIST", "KEYTYPEERR", "KEYERR", "FILENOEXIST"))
_UNSUPPORTED: Final = frozenset(CODES[name] for name in ("NOTSUPPORT", "ALGNOTSUPPORT", "ALGMODNOTSUPPORT"))


class DeviceInfo(ctypes.Structure):
    """DEVICEINFO, 100 bytes."""

    _fields_ = (
        ("issuer_name", ctypes.c_char * 40),
        ("device_name", ctypes.c_char * 16),
        ("device_serial", ctypes.c_char * 16),
        ("device_version", ctypes.c_uint),
        ("standard_version", ctypes.c_uint),
        ("asymmetric", ctypes.c_uint * 2),
        ("symmetric", ctypes.c_uint),
        ("hash", ctypes.c_uint),
        ("buffer_size", ctypes.c_uint),
    )


class PublicKey(ctypes.Structure):
    """ECCrefPublicKey, 132 bytes."""

    _fields_ = (
        ("bits", ctypes.c_uint),
        ("x", ctypes.c_ubyte * FIELD_BYTES),
        ("y", ctypes.c_ubyte * FIELD_BYTES),
    )


_HANDLE = ctypes.c_void_p
_OUT_HANDLE = ctypes.POINTER(ctypes.c_void_p)
_BYTES = ctypes.c_void_p
_OUT_LENGTH = ctypes.POINTER(ctypes.c_uint)
_PROTOTYPES: Final[dict[str, tuple[Any, ...]]] = {
    "SDF_OpenDevice": (_OUT_HANDLE,),
    "SDF_CloseDevice": (_HANDLE,),
    "SDF_OpenSession": (_HANDLE, _OUT_HANDLE),
    "SDF_CloseSession": (_HANDLE,),
    "SDF_GetDeviceInfo": (_HANDLE, ctypes.POINTER(DeviceInfo)),
    "SDF_GetPrivateKeyAccessRight": (_HANDLE, ctypes.c_uint, _BYTES, ctypes.c_uint),
    "SDF_ExportSignPublicKey_ECC": (_HANDLE, ctypes.c_uint, ctypes.POINTER(PublicKey)),
    "SDF_GenerateKeyWithKEK": (_HANDLE, *[ctypes.c_uint] * 3, _BYTES, _OUT_LENGTH, _OUT_HANDLE),
    "SDF_ImportKeyWithKEK": (_HANDLE, ctypes.c_uint, ctypes.c_uint, _BYTES, ctypes.c_uint, _OUT_HANDLE),
    "SDF_DestroyKey": (_HANDLE, _HANDLE),
    "SDF_Encrypt": (_HANDLE, _HANDLE, ctypes.c_uint, *[_BYTES] * 2, ctypes.c_uint, _BYTES, _OUT_LENGTH),
    "SDF_Decrypt": (_HANDLE, _HANDLE, ctypes.c_uint, *[_BYTES] * 2, ctypes.c_uint, _BYTES, _OUT_LENGTH),
}

Function = Callable[..., int]


class Library:
    """A loaded library: its functions as attributes. Raises SettingsError where it is not one of the kind.

    Where it is not `thread_safe`, one call is made at a time, through `gate`. `get_device_info` and `get_right` are
    None where the library lacks them: the device has no description, its keys need no password. So are the five for
    keys under a key-encryption key, which only a master key in the device needs (signer.engine.sdf.kek).
    """

    def __init__(self, path: str, *, thread_safe: bool = True) -> None:
        self.path = path
        self.gate = None if thread_safe else Gate()
        try:
            native = ctypes.CDLL(path)  # RTLD_LOCAL: libraries of several vendors have the same names inside
        except OSError as error:
            raise SettingsError(
                f"the device library cannot be loaded ({error}); check hsm.devices.library", code="hsm_library"
            ) from error
        self.open_device = self._function(native, "SDF_OpenDevice")
        self.close_device = self._function(native, "SDF_CloseDevice")
        self.open_session = self._function(native, "SDF_OpenSession")
        self.close_session = self._function(native, "SDF_CloseSession")
        self.export_public_key = self._function(native, "SDF_ExportSignPublicKey_ECC")
        self.get_device_info = self._optional(native, "SDF_GetDeviceInfo")
        self.get_right = self._optional(native, "SDF_GetPrivateKeyAccessRight")
        self.generate_with_kek = self._optional(native, "SDF_GenerateKeyWithKEK")
        self.import_with_kek = self._optional(native, "SDF_ImportKeyWithKEK")
        self.destroy_key = self._optional(native, "SDF_DestroyKey")
        self.encrypt = self._optional(native, "SDF_Encrypt")
        self.decrypt = self._optional(native, "SDF_Decrypt")
        #: The address of SDF_InternalSign_ECC; the library is never unloaded.
        self.sign_address = ctypes.cast(self._symbol(native, "SDF_InternalSign_ECC"), ctypes.c_void_p).value or 0

    def _symbol(self, native: ctypes.CDLL, name: str) -> Any:
        try:
            return getattr(native, name)
        except AttributeError as error:
            raise SettingsError(
                f"{self.path} has no function {name}: it is not a GM/T 0018 library", code="hsm_library"
            ) from error

    def _optional(self, native: ctypes.CDLL, name: str) -> Function | None:
        return self._function(native, name) if hasattr(native, name) else None

    def _function(self, native: ctypes.CDLL, name: str) -> Function:
        function: Any = self._symbol(native, name)
        function.argtypes = _PROTOTYPES[name]
        function.restype = ctypes.c_uint  # codes are compared unsigned, whatever a header calls them
        return function if self.gate is None else _one_at_a_time(function, self.gate)


def _one_at_a_time(function: Function, gate: Gate) -> Function:
    def call(*arguments: object) -> int:
        with gate:
            return function(*arguments)

    return call


class DeviceFault(Exception):
    """The device failed. `kind` is a metric label."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


class DeviceMistake(Exception):
    """The device works and is asked for something it never does: a setting is wrong. Not to be tried again."""

    def __init__(self, code: str, advice: str) -> None:
        super().__init__(advice)
        self.code = code
        self.advice = advice


def name_of(code: int) -> str:
    """The code as the standard names it, or as a number: vendors have their own."""
    name = _BY_CODE.get(code)
    return f"0x{code:08x}" if name is None else f"SDR_{name} (0x{code:08x})"


def judge(function: str, code: int, index: int | None = None) -> DeviceFault | DeviceMistake:
    """What a code other than OK means for the pool, where access rights are not the matter."""
    said = f"{function} answered {name_of(code)}"
    if code in _FAULTS:
        return DeviceFault(_FAULTS[code], said)
    if code in _KEY_MISTAKES:
        return DeviceMistake("hsm_key_missing", f"{said}: there is no SM2 signing key at index {index}")
    if code in _UNSUPPORTED:
        return DeviceMistake("hsm_unsupported", f"{said}: the device does not do SM2 signatures this way")
    return DeviceFault("operation", said)


def judge_kek(function: str, code: int, index: int) -> DeviceFault | DeviceMistake:
    """What a code means of a call with the key-encryption key at an index."""
    said = f"{function} answered {name_of(code)}"
    if code in _KEY_MISTAKES:
        return DeviceMistake(
            "hsm_master_missing", f"{said}: there is no key-encryption key at index {index}; restore it to this device"
        )
    if code in _UNSUPPORTED:
        return DeviceMistake("hsm_unsupported", f"{said}: the device does not wrap keys by SM4 in ECB")
    return judge(function, code, index)


def judge_right(code: int, index: int, *, gained_before: bool) -> DeviceFault | DeviceMistake:
    """What a refused access right means. A vendor's own code speaks of the password, unless that was right before."""
    said = f"SDF_GetPrivateKeyAccessRight answered {name_of(code)}"
    if code in _FAULTS or code in _KEY_MISTAKES or code in _UNSUPPORTED:
        return judge("SDF_GetPrivateKeyAccessRight", code, index)
    if gained_before and code not in _BY_CODE:
        return DeviceFault("operation", said)
    return DeviceMistake(
        "hsm_password",
        f"{said}: the password for key index {index} is refused; correct the password file (a few more attempts may "
        "lock the key)",
    )
