# Part of sm2.pyx: the DER forms of GM/T 0009.


def signature_to_der(const uint8_t[::1] signature not None) -> bytes:
    """SM2Signature of r||s (64 bytes); r and s must be in [1, n-1]."""
    cdef uint8_t[80] out
    cdef int n
    if signature.shape[0] != 64:
        raise InvalidEncoding("a signature has 64 bytes")
    n = sm2_signature_to_der(out, &signature[0])
    if n < 0:
        raise InvalidEncoding("r and s must be in [1, n-1]")
    return out[:n]


def signature_from_der(const uint8_t[::1] der not None) -> bytes:
    """r||s (64 bytes) of an SM2Signature in strict DER, r and s in [1, n-1]."""
    cdef uint8_t[64] out
    check(sm2_signature_from_der(out, start(der), der.shape[0]))
    return out[:64]


def ciphertext_to_der(const uint8_t[::1] c1c3c2 not None) -> bytes:
    """SM2Cipher of C1||C3||C2."""
    cdef size_t n = c1c3c2.shape[0]
    cdef uint8_t *to
    cdef long used
    out = new_bytes(n + SM2_CIPHERTEXT_DER_OVERHEAD - SM2_CIPHERTEXT_OVERHEAD, &to)
    used = sm2_ciphertext_to_der(to, start(c1c3c2), n)
    if used < 0:
        check(<int>used)
    return out[:used]


def ciphertext_from_der(const uint8_t[::1] der not None) -> bytes:
    """C1||C3||C2 of an SM2Cipher in strict DER with coordinates < p."""
    cdef size_t n = der.shape[0]
    cdef uint8_t *to
    cdef long used
    out = new_bytes(n + SM2_CIPHERTEXT_OVERHEAD, &to)
    used = sm2_ciphertext_from_der(to, start(der), n)
    if used < 0:
        check(<int>used)
    return out[:used]
