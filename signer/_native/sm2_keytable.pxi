# Part of sm2.pyx: the tables of public keys that are used again and again.
#
# All of this is under the interpreter lock. A table is only read without it,
# by operations that are counted in its `users`; a table that is given up while
# it has users is freed by the last of them.

cdef enum:
    FILTER_SLOTS = 4096
    FILTER_FULL = 16  # lanes under a key before it is worth a table

cdef size_t key_table_limit = 64 << 20
cdef size_t key_table_bytes = 0
cdef unsigned long long key_table_clock = 0
cdef dict tables_by_point = {}  # the 64 bytes of a point: its KeyTable
cdef uint64_t[FILTER_SLOTS] filter_tag
cdef uint8_t[FILTER_SLOTS] filter_count


@cython.final
@cython.no_gc
cdef class KeyTable:
    """The table of one public key."""

    cdef void *memory
    cdef void *table  # within memory, on a multiple of 64
    cdef sm2_point q
    cdef Py_ssize_t users
    cdef unsigned long long used  # the clock of the last operation that wanted it
    cdef unsigned long long maker  # the clock of the operation that computes it
    cdef bint ready  # it has been computed
    cdef bint dropped  # it counts no more, and goes with its last user

    def __dealloc__(self):
        PyMem_RawFree(self.memory)

    cdef void release(self) noexcept:
        self.users -= 1
        if self.dropped and self.users == 0:
            PyMem_RawFree(self.memory)
            self.memory = self.table = NULL


cdef size_t filter_slot(const sm2_point *q) noexcept:
    """Where q is counted: its slot in its set of four, or the one with the least to forget."""
    cdef size_t first = 4 * (q.x.v[0] % (FILTER_SLOTS // 4)), i, least = first
    for i in range(first, first + 4):
        if filter_tag[i] == q.x.v[1]:
            return i
        if filter_count[i] < filter_count[least]:
            least = i
    filter_tag[least] = q.x.v[1]
    filter_count[least] = 0
    return least


cdef bint is_frequent(const sm2_point *q, size_t lanes) noexcept:
    """Count lanes more under q; whether it has been seen often enough, as far as is remembered."""
    cdef size_t i = filter_slot(q), seen = filter_count[i] + lanes
    filter_count[i] = <uint8_t>min(seen, <size_t>FILTER_FULL)
    return filter_count[i] == FILTER_FULL


cdef void forget_count(const sm2_point *q) noexcept:
    """Let q be counted from the beginning again."""
    filter_count[filter_slot(q)] = 0


cdef int drop_table(KeyTable oldest) except -1:
    global key_table_bytes
    del tables_by_point[point_bytes(&oldest.q)]
    key_table_bytes -= sm2_key_table_size()
    oldest.dropped = True
    forget_count(&oldest.q)
    oldest.users += 1
    oldest.release()
    return 0


cdef bint make_room(size_t limit) except -1:
    """Drop the tables that were wanted least lately, none of the operation under way, until `limit` holds."""
    cdef KeyTable oldest, other
    while key_table_bytes > limit:
        oldest = None
        for other in tables_by_point.values():
            if other.used < key_table_clock and (oldest is None or other.used < oldest.used):
                oldest = other
        if oldest is None:
            return False
        drop_table(oldest)
    return True


cdef inline bytes point_bytes(const sm2_point *q):
    return (<const char *>q)[:sizeof(sm2_point)]


cdef KeyTable find_table(PublicKey key):
    """The table of a key that is used often, new if need be; None where there is no room for one."""
    global key_table_bytes
    cdef KeyTable found = key.table
    cdef size_t size = sm2_key_table_size()
    if found is not None and not found.dropped:
        return found
    name = point_bytes(&key.q)
    found = tables_by_point.get(name)
    if found is None:
        if size > key_table_limit or not make_room(key_table_limit - size):
            forget_count(&key.q)
            return None
        found = KeyTable.__new__(KeyTable)
        found.memory = PyMem_RawMalloc(size + 63)
        if found.memory == NULL:
            return None
        found.table = <void *>((<size_t>found.memory + 63) & ~<size_t>63)
        found.q = key.q
        tables_by_point[name] = found
        key_table_bytes += size
    key.table = found
    return found


cdef int verify_lanes(uint8_t *valid, tuple keys, size_t step, const uint8_t *digest,
                      const uint8_t *signature, size_t n) except -1:
    """sm2_verify_many under keys, one for each lane (step 1) or one for all (step 0), with their tables."""
    global key_table_clock
    cdef size_t held = len(keys), i
    cdef list wanted = [], unmade = []
    cdef void **key = pointers(2 * held)
    cdef void **table = key + held
    cdef PublicKey one
    cdef KeyTable found
    cdef bint use = key_table_limit > 0 and sm2_key_table_size() > 0
    cdef unsigned long long now
    key_table_clock += 1
    now = key_table_clock
    try:
        for i in range(held):
            one = <PublicKey>keys[i]
            key[i] = &one.q
            table[i] = NULL
            if not use or not is_frequent(&one.q, 1 if step else n):
                continue
            found = find_table(one)
            if found is None:
                continue
            if found.used != now:
                found.used = now
                if not found.ready and found.users == 0:  # else another thread is at it
                    found.maker = now
                    unmade.append(found)
                found.users += 1
                wanted.append(found)
            if found.ready or found.maker == now:
                table[i] = found.table
        for found in unmade:
            with nogil:
                sm2_key_table_build(found.table, &found.q)
            found.ready = True
        with nogil:
            sm2_verify_prepared_many(valid, <const sm2_point *const *>key, <const void *const *>table, step,
                                     digest, signature, n)
    finally:
        for found in wanted:
            found.release()
        PyMem_Free(key)
    return 0


def set_key_table_limit(size_t size) -> None:
    """Keep at most size bytes of tables of public keys (64 MiB at first; 0: none).

    A key gets a table once it has been verified under often; the tables used
    least lately make way for new ones. Tables in use are freed when their
    operations end.
    """
    global key_table_limit, key_table_clock
    key_table_limit = size
    key_table_clock += 1
    make_room(size)


def key_tables() -> dict:
    """The limit, the bytes and the number of the tables of public keys, and the bytes of one (0: no use)."""
    return {
        "limit": key_table_limit,
        "bytes": key_table_bytes,
        "tables": len(tables_by_point),
        "table_bytes": sm2_key_table_size(),
    }
