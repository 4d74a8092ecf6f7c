# Part of sm2.pyx: operations on many lanes, each one call into C without the lock.


cdef const uint8_t *lanes_of(const uint8_t[::1] data, size_t n, size_t size, str what) except? NULL:
    if <size_t>data.shape[0] != n * size:
        raise ValueError(f"{what} must be {size} bytes for each of {n} lanes, not {data.shape[0]} in all")
    return start(data)


cdef size_t count_digests(const uint8_t[::1] digests) except? 0:
    if digests.shape[0] % 32 != 0:
        raise ValueError("digests must be a whole number of 32-byte digests")
    return <size_t>digests.shape[0] // 32


cdef void **pointers(size_t n) except NULL:
    cdef void **p = <void **>PyMem_Malloc((n + 1) * sizeof(void *))
    if p == NULL:
        raise MemoryError
    return p


def sign_many(keys, const uint8_t[::1] digests not None) -> bytes:
    """The signatures r||s, 64 bytes each, of the digests, 32 bytes each.

    keys is one PrivateKey for all, or a sequence with one for each digest.
    Either every digest is signed or an exception is raised.
    """
    cdef size_t n = count_digests(digests), i, begun = 0, step = 1
    cdef const uint8_t *digest = start(digests)
    cdef uint8_t *to
    cdef void **key
    cdef int status
    cdef tuple held
    if type(keys) is PrivateKey:
        held, step = (keys,), 0
    else:
        held = tuple(keys)
        if <size_t>len(held) != n:
            raise ValueError(f"{len(held)} keys for {n} digests")
        for item in held:
            if type(item) is not PrivateKey:
                raise TypeError("keys must be one PrivateKey or a sequence of them")
    out = new_bytes(64 * n, &to)
    key = pointers(len(held))
    try:
        for item in held:
            (<PrivateKey>item).begin()
            key[begun] = (<PrivateKey>item).key
            begun += 1
        with nogil:
            status = sm2_sign_many(to, <const sm2_private *const *>key, step, digest, n)
    finally:
        for i in range(begun):
            (<PrivateKey>held[i]).end()
        PyMem_Free(key)
    check(status)
    return out


def verify_many(public_keys, const uint8_t[::1] digests not None,
                const uint8_t[::1] signatures not None) -> bytes:
    """One byte for each digest: 1 if its signature is valid, else 0.

    public_keys is one PublicKey for all, or a sequence with one for each
    digest. A signature that is wrong in any way spoils its own lane only.
    """
    cdef size_t n = count_digests(digests), i, step = 1
    cdef const uint8_t *digest = start(digests)
    cdef const uint8_t *signature = lanes_of(signatures, n, 64, "signatures")
    cdef uint8_t *to
    cdef void **key
    cdef tuple held
    if type(public_keys) is PublicKey:
        held, step = (public_keys,), 0
    else:
        held = tuple(public_keys)
        if <size_t>len(held) != n:
            raise ValueError(f"{len(held)} public keys for {n} digests")
        for item in held:
            if type(item) is not PublicKey:
                raise TypeError("public_keys must be one PublicKey or a sequence of them")
    out = new_bytes(n, &to)
    key = pointers(len(held))
    try:
        for i in range(<size_t>len(held)):
            key[i] = &(<PublicKey>held[i]).q
        with nogil:
            sm2_verify_many(to, <const sm2_point *const *>key, step, digest, signature, n)
    finally:
        PyMem_Free(key)
    return out


def generate_many(Py_ssize_t n) -> list:
    """n fresh keys, each pair checked by a signature made and verified."""
    cdef list made = []
    cdef void **key
    cdef sm2_point *q = NULL
    cdef PrivateKey one
    cdef PublicKey public
    cdef Py_ssize_t i
    cdef int status
    if n < 0:
        raise ValueError("n must not be negative")
    key = pointers(n)
    try:
        q = <sm2_point *>PyMem_Malloc((n + 1) * sizeof(sm2_point))
        if q == NULL:
            raise MemoryError
        for i in range(n):
            one = PrivateKey.__new__(PrivateKey)
            key[i] = one.key
            made.append(one)
        with nogil:
            status = sm2_generate_many(<sm2_private *const *>key, q, n)
        check(status)
        for i in range(n):
            one = made[i]
            public = PublicKey.__new__(PublicKey, making)
            public.q = q[i]
            one.public = public
            one.wiped = False
    finally:
        PyMem_Free(q)
        PyMem_Free(key)
    return made
