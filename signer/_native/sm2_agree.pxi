# Part of sm2.pyx: key agreement.


def agree(PrivateKey private_key not None, PrivateKey ephemeral_private not None,
          PublicKey peer_public not None, PublicKey peer_ephemeral not None, *,
          bint initiator, user_id=DEFAULT_ID, peer_user_id=DEFAULT_ID, Py_ssize_t length=16) -> tuple:
    """The shared key and both confirmation hashes (GB/T 32918.3 section 6.1).

    Returns (key, s_responder, s_initiator), the same three values on both
    sides: key has `length` bytes; s_responder is S_1 = S_B, which the responder
    sends and the initiator compares (hmac.compare_digest); s_initiator is
    S_2 = S_A, which the initiator sends and the responder compares. Only after
    that comparison is the peer known to hold its private key.
    """
    cdef PublicKey own = private_key.public_key
    cdef PublicKey own_ephemeral = ephemeral_private.public_key
    cdef bytes own_z = own.z_of(user_id), peer_z = peer_public.z_of(peer_user_id)
    cdef uint8_t[32] s_responder, s_initiator
    cdef uint8_t *to
    cdef sm2_agreement a
    cdef int status
    if not 0 < length <= <Py_ssize_t>SM2_PLAINTEXT_MAX:
        raise ValueError("length must be at least 1 and at most 1 GiB")
    out = new_bytes(length, &to)
    a.own_public, a.own_ephemeral_public = &own.q, &own_ephemeral.q
    a.peer_public, a.peer_ephemeral_public = &peer_public.q, &peer_ephemeral.q
    a.own_z = <const uint8_t *>PyBytes_AS_STRING(own_z)
    a.peer_z = <const uint8_t *>PyBytes_AS_STRING(peer_z)
    a.initiator = initiator
    a.own, a.own_ephemeral = private_key.key, ephemeral_private.key
    private_key.begin()
    try:
        ephemeral_private.begin()
        try:
            with nogil:
                status = sm2_agree(to, length, s_responder, s_initiator, &a)
        finally:
            ephemeral_private.end()
    finally:
        private_key.end()
    check(status)
    return out, s_responder[:32], s_initiator[:32]
