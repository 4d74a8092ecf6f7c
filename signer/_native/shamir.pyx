"""Sharing a secret so that any m of n shares give it back, and fewer give nothing.

Knows bytearrays, which their owner wipes; not what the secret is, nor how a
share is written down. Random octets come from the operating system into memory
that is cleared here.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from libc.stdint cimport uint8_t

cdef extern from "sys/random.h":
    ssize_t getrandom(void *, size_t, unsigned int) noexcept

cdef extern from "shamir.h" nogil:
    void shamir_share(uint8_t *, uint8_t, const uint8_t *, const uint8_t *, size_t, size_t) noexcept
    void shamir_combine(uint8_t *, const uint8_t *, const uint8_t *, size_t, size_t) noexcept

cdef extern from "sm2_common.h" nogil:
    void sm2_wipe(void *, size_t) noexcept

SHARES_MAX = 255
cdef enum:
    SECRET_MAX = 64


cdef uint8_t *octets(bytearray data) noexcept:
    return <uint8_t *>PyByteArray_AS_STRING(data)


def fill_random(bytearray out not None) -> None:
    """Fill out with random octets, in place. Raise RuntimeError where there are none."""
    cdef Py_ssize_t done = 0, n = PyByteArray_GET_SIZE(out), got
    while done < n:
        got = getrandom(octets(out) + done, min(n - done, 256), 0)  # so few are given whole
        if got <= 0:
            raise RuntimeError("the random source failed")
        done += got


def split(bytearray secret not None, int threshold, int shares) -> list[bytearray]:
    """The shares for x = 1, 2, ..., each as long as the secret; the caller wipes them."""
    cdef Py_ssize_t n = PyByteArray_GET_SIZE(secret)
    cdef bytearray rows, share
    cdef int x
    if not 1 <= n <= SECRET_MAX:
        raise ValueError(f"a secret of 1 to {SECRET_MAX} octets can be shared")
    if not 1 <= threshold <= shares <= SHARES_MAX:
        raise ValueError(f"1 <= threshold <= shares <= {SHARES_MAX} does not hold")
    rows = bytearray((threshold - 1) * n)
    made = []
    try:
        fill_random(rows)
        for x in range(1, shares + 1):
            share = bytearray(n)
            shamir_share(octets(share), <uint8_t>x, octets(secret), octets(rows), n, threshold)
            made.append(share)
    finally:
        sm2_wipe(octets(rows), PyByteArray_GET_SIZE(rows))
    return made


def combine(shares not None, bytearray out not None) -> None:
    """Write into out what the shares, a mapping of x to octets, were made of.

    Shares that do not belong together give a wrong secret, not an error.
    """
    cdef Py_ssize_t n = PyByteArray_GET_SIZE(out), at = 0
    cdef bytearray ys, xs, y
    if not 1 <= n <= SECRET_MAX or not 1 <= len(shares) <= SHARES_MAX:
        raise ValueError("there are no shares, or they are too long")
    xs, ys = bytearray(len(shares)), bytearray(n * len(shares))
    try:
        for x, y in shares.items():
            if not 1 <= x <= SHARES_MAX or PyByteArray_GET_SIZE(y) != n:
                raise ValueError("a share has a wrong number or length")
            xs[at] = x
            ys[at * n:(at + 1) * n] = y
            at += 1
        shamir_combine(octets(out), octets(xs), octets(ys), n, at)
    finally:
        sm2_wipe(octets(ys), PyByteArray_GET_SIZE(ys))
