"""The SM3 hash (GB/T 32905): whole messages, batches of them, and piece by piece."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t


from signer._native.capi cimport sm2_backend, sm2_wipe, sm3_ctx, sm3_final, sm3_hash, sm3_init, sm3_update, sm3_use
from signer._native.cpu cimport active_backend

cdef const sm2_backend *backend = active_backend()
cdef size_t RELEASE_FROM = 4096  # bytes from which letting other threads run is worth its price

sm3_use(backend.sm3_blocks)


cdef inline const uint8_t *start(const uint8_t[::1] data) noexcept:
    return &data[0] if data.shape[0] else NULL


def sm3(const uint8_t[::1] data not None) -> bytes:
    """The hash of data, 32 bytes."""
    cdef const uint8_t *p = start(data)
    cdef size_t n = data.shape[0]
    cdef uint8_t[32] out
    if n < RELEASE_FROM:
        sm3_hash(out, p, n)
    else:
        with nogil:
            sm3_hash(out, p, n)
    return out[:32]


def sm3_many(messages) -> bytes:
    """The hashes of all messages, 32 bytes each, one after the other."""
    cdef list held = list(messages)
    cdef size_t n = len(held), i
    cdef const uint8_t **message = NULL
    cdef size_t *length = NULL
    for item in held:
        if type(item) is not bytes:
            raise TypeError("every message must be bytes")
    out = PyBytes_FromStringAndSize(NULL, 32 * n)
    cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(out)
    try:
        message = <const uint8_t **>PyMem_Malloc(n * sizeof(void *))
        length = <size_t *>PyMem_Malloc(n * sizeof(size_t))
        if message == NULL or length == NULL:
            raise MemoryError
        for i in range(n):
            message[i] = <const uint8_t *>PyBytes_AS_STRING(held[i])
            length[i] = len(<bytes>held[i])
        with nogil:
            backend.sm3_many(to, message, length, n)
    finally:
        PyMem_Free(message)
        PyMem_Free(length)
    return out


@cython.final
cdef class SM3:
    """SM3 with the interface of hashlib's objects. One thread at a time."""

    cdef sm3_ctx c

    def __cinit__(self, data=b""):
        sm3_init(&self.c)
        self.update(data)

    def __dealloc__(self):
        sm2_wipe(&self.c, sizeof(sm3_ctx))

    @property
    def name(self) -> str:
        return "sm3"

    @property
    def digest_size(self) -> int:
        return 32

    @property
    def block_size(self) -> int:
        return 64

    cpdef update(self, const uint8_t[::1] data):
        """Append data."""
        if data is None:
            raise TypeError("data must be bytes, not None")
        sm3_update(&self.c, start(data), data.shape[0])

    def digest(self) -> bytes:
        """The hash of all data so far; more may be appended afterwards."""
        cdef sm3_ctx c = self.c
        cdef uint8_t[32] out
        sm3_final(&c, out)
        return out[:32]

    def hexdigest(self) -> str:
        """The hash of all data so far, in hexadecimal."""
        return self.digest().hex()

    def copy(self):
        """An independent object in the same state."""
        cdef SM3 other = SM3.__new__(SM3)
        other.c = self.c
        return other

    def __reduce__(self):
        raise TypeError("cannot pickle an SM3 object")


# GB/T 32905 Annex A, alone and in every lane; and messages that end at different times, one by one and together.
ABC = bytes.fromhex("66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0")
ABCD = bytes.fromhex("debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732")
UNEVEN = [b"\xa5" * (37 * i % 300) for i in range(71)]
LONG = bytes(range(256)) * 41 + b"\xa5" * 7
if (
    sm3(b"abc") != ABC
    or SM3(b"a" + b"bc").digest() != ABC
    or sm3_many([b"abc"] * 33) != ABC * 33
    or sm3_many([b"abcd" * 16] * 33) != ABCD * 33
    or sm3_many(UNEVEN) != b"".join([sm3(message) for message in UNEVEN])
    or sm3(LONG) != sm3_many([LONG])
):
    raise ImportError("SM3 does not meet its known answer")
