"""SM2 on the curve sm2p256v1 (GB/T 32918): keys, signatures, encryption, key agreement.

Owns the memory of private keys: a key lives in a locked slot from import to
wipe() or the end of its object, and leaves it only through export_into().
Knows bytes, not certificates, names or policy. Every operation lets other
Python threads run while it computes.
"""

import os

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from signer._native.capi cimport *
from signer._native.cpu cimport active_backend

DEFAULT_ID = b"1234567812345678"
cdef bytes default_id = DEFAULT_ID
cdef object making = object()  # who does not hold it makes no PublicKey
cdef bint testing = os.environ.get("QIANYAN_NATIVE_TESTING") == "1"


class InvalidSignature(Exception):
    """The signature does not verify."""


class InvalidKey(ValueError):
    """The bytes are no usable key, or the key has been wiped."""


class InvalidEncoding(ValueError):
    """The bytes are not a strictly encoded signature or ciphertext."""


class DecryptionError(Exception):
    """The ciphertext cannot be decrypted with this key, or has been altered."""


class EntropyError(RuntimeError):
    """The operating system gave no random bytes; nothing was signed or made."""


cdef int check(int status) except -1:
    """Raise what a status of the C core stands for."""
    if status == SM2_OK:
        return 0
    if status == SM2_ERR_KEY:
        raise InvalidKey("not a valid SM2 key")
    if status == SM2_ERR_ENTROPY:
        raise EntropyError("the random source failed")
    if status == SM2_ERR_SIGNATURE:
        raise InvalidSignature("the signature is not valid")
    if status == SM2_ERR_ENCODING:
        raise InvalidEncoding("not a well-formed SM2 signature or ciphertext")
    if status == SM2_ERR_DECRYPT:
        raise DecryptionError("the ciphertext cannot be decrypted")
    if status == SM2_ERR_LENGTH:
        raise ValueError("a length is outside what SM2 allows")
    if status == SM2_ERR_NONCE:
        raise ValueError("this nonce gives no result")
    if status == SM2_ERR_AGREEMENT:
        raise InvalidKey("the keys agree on the point at infinity")
    raise RuntimeError("a key pair failed its consistency test")


cdef inline const uint8_t *start(const uint8_t[::1] data) noexcept:
    return &data[0] if data.shape[0] else NULL


cdef const uint8_t *exactly(const uint8_t[::1] data, Py_ssize_t n, str what) except NULL:
    if data.shape[0] != n:
        raise ValueError(f"{what} must be {n} bytes, not {data.shape[0]}")
    return &data[0]


cdef bytes new_bytes(size_t n, uint8_t **p):
    """A bytes object of n bytes still to be filled, and where."""
    out = PyBytes_FromStringAndSize(NULL, n)
    p[0] = <uint8_t *>PyBytes_AS_STRING(out)
    return out


@cython.final
@cython.no_gc  # nothing it holds can lead back to it
cdef class PublicKey:
    """A point on the curve, fit to verify and to encrypt for."""

    cdef sm2_point q
    cdef bytes z  # Z for the default identifier, once it has been asked for
    cdef KeyTable table  # if it is used often

    def __cinit__(self, token=None):
        if token is not making:
            raise TypeError("use PublicKey.from_bytes")

    @staticmethod
    def from_bytes(const uint8_t[::1] data not None):
        """The key in 65 bytes (04||x||y) or 33 (02 or 03||x)."""
        cdef PublicKey key = PublicKey.__new__(PublicKey, making)
        check(sm2_public_import(&key.q, start(data), data.shape[0]))
        return key

    def to_bytes(self) -> bytes:
        """The key as 04||x||y, 65 bytes."""
        cdef uint8_t[65] out
        sm2_public_export(out, &self.q)
        return out[:65]

    cdef bytes z_of(self, user_id):
        """Z of GB/T 32918.2 section 5.5 for user_id."""
        cdef const uint8_t[::1] id_
        cdef uint8_t[32] out
        cdef bint default = user_id is default_id
        if default and self.z is not None:
            return self.z
        if user_id is None:
            raise TypeError("user_id must be bytes, not None")
        id_ = user_id
        if sm2_z(out, start(id_), id_.shape[0], &self.q) != SM2_OK:
            raise ValueError(f"user_id is longer than {SM2_ID_MAX} bytes")
        z = out[:32]
        if default:
            self.z = z
        return z

    def digest(self, const uint8_t[::1] message not None, *, user_id=DEFAULT_ID) -> bytes:
        """e = SM3(Z || message), what signatures of message under this key are made of."""
        cdef bytes z = self.z_of(user_id)
        cdef const uint8_t *p = start(message)
        cdef size_t n = message.shape[0]
        cdef uint8_t[32] out
        cdef sm3_ctx c
        sm3_init(&c)
        sm3_update(&c, PyBytes_AS_STRING(z), 32)
        if n < 4096:
            sm3_update(&c, p, n)
        else:
            with nogil:
                sm3_update(&c, p, n)
        sm3_final(&c, out)
        return out[:32]

    def verify(self, message not None, signature not None, *, user_id=DEFAULT_ID) -> None:
        """Raise InvalidSignature unless signature (r||s, 64 bytes) is one of message."""
        self.verify_digest(self.digest(message, user_id=user_id), signature)

    def verify_digest(self, const uint8_t[::1] e not None, const uint8_t[::1] signature not None) -> None:
        """Raise InvalidSignature unless signature (r||s, 64 bytes) is one of the digest e."""
        cdef const uint8_t *digest = exactly(e, 32, "digest")
        cdef uint8_t valid = 0
        if signature.shape[0] == 64:
            verify_lanes(&valid, (self,), 0, digest, &signature[0], 1)
        if valid != 1:
            raise InvalidSignature("the signature is not valid")

    def encrypt(self, const uint8_t[::1] plaintext not None, *, str encoding="der") -> bytes:
        """The ciphertext, as GM/T 0009 DER or as C1||C3||C2. Empty plaintext is refused."""
        return encrypt_with(self, plaintext, encoding, None)

    def __eq__(self, other):
        if type(other) is not PublicKey:
            return NotImplemented
        return memcmp(&self.q, &(<PublicKey>other).q, sizeof(sm2_point)) == 0

    def __hash__(self):
        return hash((<const char *>&self.q)[:sizeof(sm2_point)])

    def __repr__(self) -> str:
        return f"<PublicKey {self.to_bytes().hex()}>"

    def __reduce__(self):
        return _public_key, (self.to_bytes(),)


def _public_key(data) -> PublicKey:
    """PublicKey.from_bytes, under a name that pickle can write down."""
    return PublicKey.from_bytes(data)


cdef bytes encrypt_with(PublicKey key, const uint8_t[::1] plaintext, str encoding, nonce):
    """Encrypt with a fresh nonce, or with the given one (for known-answer tests)."""
    cdef bint der = is_der(encoding)
    cdef size_t n = plaintext.shape[0]
    cdef const uint8_t *p = start(plaintext)
    cdef const uint8_t[::1] k
    cdef const uint8_t *kp = NULL
    cdef uint8_t *to
    cdef int status
    if not 0 < n <= SM2_PLAINTEXT_MAX:
        raise ValueError("plaintext must not be empty, nor longer than 1 GiB")
    if nonce is not None:
        k = nonce
        kp = exactly(k, 32, "nonce")
    raw = new_bytes(SM2_CIPHERTEXT_OVERHEAD + n, &to)
    with nogil:
        if kp == NULL:
            status = sm2_encrypt(to, &key.q, p, n)
        else:
            status = sm2_encrypt_with_nonce(to, &key.q, p, n, kp)
    check(status)
    return ciphertext_to_der(raw) if der else raw


cdef bint is_der(str encoding) except -1:
    if encoding == "der":
        return True
    if encoding == "c1c3c2":
        return False
    raise ValueError(f"encoding must be 'der' or 'c1c3c2', not {encoding!r}")


@cython.final
@cython.no_gc  # nothing it holds can lead back to it
cdef class PrivateKey:
    """A private key in locked memory. Not to be copied, pickled or shown."""

    cdef sm2_private *key
    cdef Py_ssize_t users  # operations under way, in any thread
    cdef bint wiped
    cdef bint has_point  # q is the public key
    cdef sm2_point q
    cdef PublicKey public  # once it has been asked for

    def __cinit__(self):
        self.wiped = True  # until there is a key in the slot
        self.has_point = False
        self.key = <sm2_private *>sm2_secmem_get()
        if self.key == NULL:
            raise MemoryError("no memory for a private key")

    def __init__(self):
        raise TypeError("use PrivateKey.generate or PrivateKey.from_bytes")

    def __dealloc__(self):
        if self.key != NULL:
            sm2_secmem_put(self.key)
            self.key = NULL

    cdef int begin(self) except -1:
        """Enter an operation: from here to end(), wipe() leaves the memory alone."""
        if self.wiped:
            raise InvalidKey("the private key has been wiped")
        self.users += 1
        return 0

    cdef void end(self) noexcept:
        self.users -= 1
        if self.wiped and self.users == 0:
            sm2_wipe(self.key, sizeof(sm2_private))

    @staticmethod
    def generate():
        """A fresh key, its pair checked by a signature made and verified."""
        return generate_many(1)[0]

    @staticmethod
    def from_bytes(const uint8_t[::1] data not None):
        """The key whose 32 bytes, big-endian, are data: an integer in [1, n-2]."""
        cdef PrivateKey self = PrivateKey.__new__(PrivateKey)
        if data.shape[0] != 32:
            raise InvalidKey("a private key has 32 bytes")
        check(sm2_private_import(self.key, &data[0]))
        self.wiped = False
        return self

    def export_into(self, bytearray out not None) -> None:
        """Write the key's 32 bytes into out; the caller wipes it."""
        if PyByteArray_GET_SIZE(out) != 32:
            raise ValueError("out must be 32 bytes")
        self.begin()
        sm2_private_export(<uint8_t *>PyByteArray_AS_STRING(out), self.key)
        self.end()

    @property
    def public_key(self) -> PublicKey:
        """The public key; still there after wipe() if the key was generated, or it was asked for before."""
        cdef PublicKey made
        if self.public is None:
            if not self.has_point:
                self.begin()
                sm2_private_to_public(&self.q, self.key)
                self.end()
                self.has_point = True
            made = PublicKey.__new__(PublicKey, making)
            made.q = self.q
            self.public = made
        return self.public

    def sign(self, message not None, *, user_id=DEFAULT_ID) -> bytes:
        """The signature r||s, 64 bytes, of message for the holder user_id."""
        return self.sign_digest(self.public_key.digest(message, user_id=user_id))

    def sign_digest(self, const uint8_t[::1] e not None) -> bytes:
        """The signature r||s, 64 bytes, of the digest e (32 bytes)."""
        cdef const uint8_t *digest = exactly(e, 32, "digest")
        cdef const sm2_private *key = self.key
        cdef uint8_t[64] out
        cdef int status
        self.begin()
        with nogil:
            status = sm2_sign_many(out, &key, 0, digest, 1)
        self.end()
        check(status)
        return out[:64]

    def decrypt(self, const uint8_t[::1] ciphertext not None, *, str encoding="der") -> bytes:
        """The plaintext. Nothing of it is released where C3 does not match."""
        cdef uint8_t *to
        raw = unwrap(ciphertext, encoding)
        out = new_bytes(plain_size(raw), &to)
        self.decrypt_raw(to, raw)
        return out

    def decrypt_into(self, const uint8_t[::1] ciphertext not None, bytearray out not None, *,
                     str encoding="der") -> int:
        """Write the plaintext to the beginning of out; the length is returned."""
        raw = unwrap(ciphertext, encoding)
        cdef Py_ssize_t n = plain_size(raw)
        cdef uint8_t[::1] to = out  # holds out at its size and place
        if to.shape[0] < n:
            raise ValueError(f"out must hold {n} bytes")
        self.decrypt_raw(&to[0], raw)
        return n

    cdef int decrypt_raw(self, uint8_t *to, bytes raw) except -1:
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(raw)
        cdef size_t n = len(raw)
        cdef int status
        self.begin()
        with nogil:
            status = sm2_decrypt(to, self.key, p, n)
        self.end()
        return check(status)

    def wipe(self) -> None:
        """Clear the key, at once or when the last operation under way ends; it is unusable from now."""
        self.wiped = True
        if self.users == 0:
            sm2_wipe(self.key, sizeof(sm2_private))

    def __repr__(self) -> str:
        return "<PrivateKey>"

    def __reduce__(self):
        raise TypeError("a PrivateKey cannot be pickled or copied")

    def __copy__(self):
        raise TypeError("a PrivateKey cannot be pickled or copied")

    def __deepcopy__(self, memo):
        raise TypeError("a PrivateKey cannot be pickled or copied")


cdef bytes unwrap(const uint8_t[::1] ciphertext, str encoding):
    """The ciphertext as C1||C3||C2, as a private copy that nobody changes meanwhile."""
    if is_der(encoding):
        return ciphertext_from_der(ciphertext)
    return bytes(ciphertext)


cdef Py_ssize_t plain_size(bytes raw) except -1:
    if len(raw) <= SM2_CIPHERTEXT_OVERHEAD:
        raise InvalidEncoding("not a well-formed SM2 signature or ciphertext")
    return len(raw) - SM2_CIPHERTEXT_OVERHEAD


def locked_memory() -> dict:
    """How private keys are kept: bytes mapped for them, locked into RAM, left out of core dumps."""
    cdef sm2_secmem_state state
    sm2_secmem_query(&state)
    return {"mapped": state.mapped, "locked": state.locked, "undumped": state.undumped}


include "sm2_keytable.pxi"
include "sm2_batch.pxi"
include "sm2_codec.pxi"
include "sm2_agree.pxi"
include "sm2_testing.pxi"

if sm2_selftest(active_backend()) != SM2_OK:
    raise ImportError("SM2 does not meet its known answers")
