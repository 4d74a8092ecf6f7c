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
    digest. A signature that is wrong in any way spoils its own lane only. Keys
    that are used often are verified faster (see set_key_table_limit).
    """
    cdef size_t n = count_digests(digests), step = 1
    cdef const uint8_t *digest = start(digests)
    cdef const uint8_t *signature = lanes_of(signatures, n, 64, "signatures")
    cdef uint8_t *to
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
    verify_lanes(to, held, step, digest, signature, n)
    return out


cdef size_t SCRATCH = 1 << 20  # most bytes of messages that are copied at once


cdef int z_into(uint8_t *to, tuple held, user_id) except -1:
    """Write Z of every key for user_id, 32 bytes each; those of the default identifier are kept."""
    cdef const uint8_t[::1] id_
    cdef bint default = user_id is default_id
    cdef list lacking = []
    cdef PublicKey one
    cdef size_t i, n
    cdef void **key
    cdef uint8_t *made
    if user_id is None:
        raise TypeError("user_id must be bytes, not None")
    id_ = user_id
    for i in range(<size_t>len(held)):
        one = held[i]
        if default and one.z is not None:
            memcpy(to + 32 * i, PyBytes_AS_STRING(one.z), 32)
        else:
            lacking.append(i)
    n = len(lacking)
    zs = new_bytes(32 * n, &made)
    key = pointers(n)
    try:
        for i in range(n):
            key[i] = &(<PublicKey>held[<size_t>lacking[i]]).q
        if sm2_z_many(made, start(id_), id_.shape[0], <const sm2_point *const *>key, n) != SM2_OK:
            raise ValueError(f"user_id is longer than {SM2_ID_MAX} bytes")
    finally:
        PyMem_Free(key)
    for i in range(n):
        memcpy(to + 32 * <size_t>lacking[i], made + 32 * i, 32)
        if default:
            (<PublicKey>held[<size_t>lacking[i]]).z = zs[32 * i : 32 * i + 32]
    return 0


def digest_many(public_keys, messages, *, user_id=DEFAULT_ID) -> bytes:
    """The digests e = SM3(Z || message), 32 bytes each, as PublicKey.digest gives them.

    public_keys is one PublicKey for all, or a sequence with one for each
    message. user_id is that of every key.
    """
    cdef list held = list(messages)
    cdef size_t n = len(held), i, step = 1, room = 0
    cdef tuple keys
    cdef uint8_t *to
    cdef uint8_t *z
    cdef void **message = NULL
    cdef size_t *length = NULL
    cdef uint8_t *scratch = NULL
    if type(public_keys) is PublicKey:
        keys, step = (public_keys,), 0
    else:
        keys = tuple(public_keys)
        if <size_t>len(keys) != n:
            raise ValueError(f"{len(keys)} public keys for {n} messages")
        for item in keys:
            if type(item) is not PublicKey:
                raise TypeError("public_keys must be one PublicKey or a sequence of them")
    for item in held:
        if type(item) is not bytes:
            raise TypeError("every message must be bytes")
    out = new_bytes(32 * n, &to)
    zs = new_bytes(32 * <size_t>len(keys), &z)
    z_into(z, keys, user_id)
    try:
        message = pointers(n)
        length = <size_t *>PyMem_Malloc((n + 1) * sizeof(size_t))
        if length == NULL:
            raise MemoryError
        for i in range(n):
            message[i] = PyBytes_AS_STRING(held[i])
            length[i] = len(<bytes>held[i])
            room = min(SCRATCH, room + 32 + min(SCRATCH, length[i]))
        scratch = <uint8_t *>PyMem_Malloc(room + 1)
        if scratch == NULL:
            raise MemoryError
        with nogil:
            sm2_digest_many(to, z, step, <const uint8_t *const *>message, length, n, scratch, room)
            sm2_wipe(scratch, room)
    finally:
        PyMem_Free(scratch)
        PyMem_Free(length)
        PyMem_Free(message)
    return out


def generate_many(Py_ssize_t n) -> list:
    """n fresh keys, every pair checked before it is handed out (sm2_pairs.c says how)."""
    cdef list made = []
    cdef void **key
    cdef sm2_point *q = NULL
    cdef PrivateKey one
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
            one.q = q[i]
            one.has_point = True
            one.wiped = False
    finally:
        PyMem_Free(q)
        PyMem_Free(key)
    return made
