# Part of sm2.pyx: hooks for known-answer and failure tests. Each refuses to run
# unless QIANYAN_NATIVE_TESTING=1 was in the environment when this module was
# imported: a nonce that is known or used twice gives the private key away.

cdef object entropy_source = None


cdef int need_testing() except -1:
    if not testing:
        raise RuntimeError("only under QIANYAN_NATIVE_TESTING=1, set before the import")
    return 0


def _testing_sign_digest_with_nonce(PrivateKey key not None, const uint8_t[::1] e not None,
                                    const uint8_t[::1] k not None) -> bytes:
    """sign_digest with the nonce k; ValueError where the standard asks for another one."""
    need_testing()
    cdef const uint8_t *digest = exactly(e, 32, "digest")
    cdef const uint8_t *nonce = exactly(k, 32, "nonce")
    cdef uint8_t[64] out
    cdef int status
    key.begin()
    status = sm2_sign_with_nonce(out, key.key, digest, nonce)
    key.end()
    check(status)
    return out[:64]


def _testing_encrypt_with_nonce(PublicKey key not None, const uint8_t[::1] plaintext not None,
                                k not None, *, str encoding="der") -> bytes:
    """encrypt with the nonce k; ValueError where the standard asks for another one."""
    need_testing()
    return encrypt_with(key, plaintext, encoding, k)


cdef int entropy_from_python(void *ctx, uint8_t *out, size_t n) noexcept with gil:
    cdef bytes data
    try:
        data = entropy_source(n)
        if <size_t>len(data) != n:
            return -1
        memcpy(out, PyBytes_AS_STRING(data), n)
        return 0
    except BaseException:
        return -1


def _testing_set_entropy(source) -> None:
    """Draw random bytes from source(n) -> bytes from now on; None: from the system again.

    A source that raises, or gives another number of bytes, is one that failed.
    """
    global entropy_source
    need_testing()
    entropy_source = source
    sm2_set_entropy(NULL if source is None else <sm2_entropy_fn>entropy_from_python, NULL)
