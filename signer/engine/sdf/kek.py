"""Symmetric keys under a device's key-encryption key (KEK): made there, brought back in, used there.

A key never leaves the devices in the clear: outside there is only what SDF_GenerateKeyWithKEK gave. A session brings it
in once, checks by a known block that it is the right one, and keeps its handle. Data is whole SM4 blocks in ECB: what
is encrypted here are random keys, for which that is all that is needed. Knows sessions; not what the keys are for.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Final

from signer.engine.sdf import abi
from signer.engine.sdf.abi import DeviceFault, DeviceMistake
from signer.engine.sdf.session import Session

BLOCK_BYTES: Final = 16
_KEY_BITS: Final = 128
#: What a device may write as a wrapped key of 16 octets: more than any is known to.
_WRAPPED_MAX: Final = 256
#: Blocks of one call: a device's buffer may be no more than 8 KiB (DEVICEINFO.BufferSize).
_BLOCKS_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class KekKey:
    """A key as it is kept outside: under the KEK at `kek_index`; `check_cipher` is what it makes of `check_plain`."""

    kek_index: int
    wrapped: bytes
    check_plain: bytes
    check_cipher: bytes


def generate(session: Session, kek_index: int) -> KekKey:
    """A new key. Raises DeviceFault, DeviceMistake (code "hsm_master_missing" where there is no KEK at that index)."""
    make = _needed(session.library.generate_with_kek, "SDF_GenerateKeyWithKEK")
    out, length, handle = (ctypes.c_ubyte * _WRAPPED_MAX)(), ctypes.c_uint(_WRAPPED_MAX), ctypes.c_void_p()
    code = session.call(make, _KEY_BITS, abi.SGD_SM4_ECB, kek_index, out, ctypes.byref(length), ctypes.byref(handle))
    if code != abi.OK:
        raise abi.judge_kek("SDF_GenerateKeyWithKEK", code, kek_index)
    if not 0 < length.value <= _WRAPPED_MAX:
        raise DeviceFault("encoding", "SDF_GenerateKeyWithKEK gave a key of an impossible length")
    wrapped = bytes(out[: length.value])
    plain = os.urandom(BLOCK_BYTES)
    try:
        check = _run(session, "SDF_Encrypt", handle, plain, kek_index)
    finally:
        _destroy(session, handle)
    return KekKey(kek_index, wrapped, plain, check)


def encrypt(session: Session, key: KekKey, blocks: bytes) -> bytes:
    """`blocks`, whole blocks, under the key. Raises DeviceFault, DeviceMistake."""
    return _cipher(session, "SDF_Encrypt", key, blocks)


def decrypt(session: Session, key: KekKey, blocks: bytes) -> bytes:
    """What `encrypt` made. Raises DeviceFault, DeviceMistake."""
    return _cipher(session, "SDF_Decrypt", key, blocks)


def prove(session: Session, key: KekKey) -> None:
    """Returns where this device has the key. Raises DeviceFault, DeviceMistake."""
    if encrypt(session, key, key.check_plain) != key.check_cipher:
        raise _mismatch(key)


def _cipher(session: Session, function: str, key: KekKey, blocks: bytes) -> bytes:
    name = (key.kek_index, key.wrapped)
    out = bytearray()
    for at in range(0, len(blocks), BLOCK_BYTES * _BLOCKS_AT_ONCE):
        part = blocks[at : at + BLOCK_BYTES * _BLOCKS_AT_ONCE]
        known = name in session.symmetric
        handle = session.symmetric[name] if known else _bring_in(session, key)
        try:
            out += _run(session, function, handle, part, key.kek_index)
        except (DeviceFault, DeviceMistake):
            del session.symmetric[name]
            if not known:
                raise
            out += _run(session, function, _bring_in(session, key), part, key.kek_index)  # the device forgot it
    return bytes(out)


def _bring_in(session: Session, key: KekKey) -> ctypes.c_void_p:
    """The handle of the key in this session, checked."""
    bring = _needed(session.library.import_with_kek, "SDF_ImportKeyWithKEK")
    handle = ctypes.c_void_p()
    wrapped = (ctypes.c_ubyte * len(key.wrapped)).from_buffer_copy(key.wrapped)
    code = session.call(bring, abi.SGD_SM4_ECB, key.kek_index, wrapped, len(key.wrapped), ctypes.byref(handle))
    if code != abi.OK:
        raise abi.judge_kek("SDF_ImportKeyWithKEK", code, key.kek_index)
    if _run(session, "SDF_Encrypt", handle, key.check_plain, key.kek_index) != key.check_cipher:
        _destroy(session, handle)
        raise _mismatch(key)
    session.symmetric[key.kek_index, key.wrapped] = handle
    return handle


def _run(session: Session, function: str, handle: ctypes.c_void_p, blocks: bytes, kek_index: int) -> bytes:
    library = session.library
    call = _needed(library.encrypt if function == "SDF_Encrypt" else library.decrypt, function)
    data = (ctypes.c_ubyte * len(blocks)).from_buffer_copy(blocks)
    iv = (ctypes.c_ubyte * BLOCK_BYTES)()  # none in ECB; some libraries look at it
    out, length = (ctypes.c_ubyte * (len(blocks) + BLOCK_BYTES))(), ctypes.c_uint(len(blocks) + BLOCK_BYTES)
    try:
        code = session.call(call, handle, abi.SGD_SM4_ECB, iv, data, len(blocks), out, ctypes.byref(length))
        if code != abi.OK:
            raise abi.judge_kek(function, code, kek_index)
        if length.value != len(blocks):
            raise DeviceFault("encoding", f"{function} gave {length.value} octets for {len(blocks)}")
        return bytes(out[: length.value])
    finally:
        ctypes.memset(data, 0, len(data))
        ctypes.memset(out, 0, len(out))


def _destroy(session: Session, handle: ctypes.c_void_p) -> None:
    """Lets go of a key; a session that is closed lets go of what is left."""
    if session.library.destroy_key is not None:
        session.call(session.library.destroy_key, handle)


def _needed(function: abi.Function | None, name: str) -> abi.Function:
    if function is None:
        raise DeviceMistake("hsm_unsupported", f"the device's library has no {name}: it cannot keep the master key")
    return function


def _mismatch(key: KekKey) -> DeviceMistake:
    return DeviceMistake(
        "hsm_master_mismatch",
        f"the key-encryption key at index {key.kek_index} is another than the one that the master key was made under; "
        "restore the right one to this device",
    )
