# The C core as Cython sees it; see the headers in csrc/ for what each function promises.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "sm2_backend.h" nogil:
    enum:
        SM2_LANES_MAX
        SM2_BACKEND_OK
        SM2_BACKEND_UNKNOWN
        SM2_BACKEND_UNSUPPORTED
    ctypedef struct sm2_u256:
        uint64_t v[4]
    ctypedef struct sm2_point:
        sm2_u256 x
        sm2_u256 y
    ctypedef struct sm2_backend:
        const char *name
        int (*is_supported)() noexcept nogil
        void (*sm3_many)(uint8_t *, const uint8_t *const *, const size_t *, size_t) noexcept nogil
        void (*sm3_blocks)(uint32_t *, const uint8_t *, size_t) noexcept nogil
    const sm2_backend *const sm2_backends[]
    int sm2_backend_choose(const sm2_backend **, const char *) noexcept

cdef extern from "sm2_common.h" nogil:
    void sm2_wipe(void *, size_t) noexcept

cdef extern from "sm2_cpu.h":
    ctypedef struct sm2_cpu:
        int bmi2
        int adx
        int avx2
        int avx512f
        int avx512dq
        int avx512bw
        int avx512vl
        int avx512ifma
    void sm2_cpu_detect(sm2_cpu *) noexcept

cdef extern from "sm3.h" nogil:
    ctypedef struct sm3_ctx:
        pass
    void sm3_use(void (*)(uint32_t *, const uint8_t *, size_t) noexcept nogil) noexcept
    void sm3_init(sm3_ctx *) noexcept
    void sm3_update(sm3_ctx *, const void *, size_t) noexcept
    void sm3_final(sm3_ctx *, uint8_t *) noexcept
    void sm3_hash(uint8_t *, const void *, size_t) noexcept

cdef extern from "sm2_secmem.h":
    ctypedef struct sm2_secmem_state:
        size_t mapped
        size_t locked
        size_t undumped
    void *sm2_secmem_get() noexcept
    void sm2_secmem_put(void *) noexcept
    void sm2_secmem_query(sm2_secmem_state *) noexcept

cdef extern from "sm2.h" nogil:
    enum:
        SM2_OK
        SM2_ERR_KEY
        SM2_ERR_ENTROPY
        SM2_ERR_SIGNATURE
        SM2_ERR_ENCODING
        SM2_ERR_DECRYPT
        SM2_ERR_LENGTH
        SM2_ERR_NONCE
        SM2_ERR_AGREEMENT
        SM2_ERR_SELFTEST
        SM2_ID_MAX
        SM2_SIGNATURE_DER_MAX
        SM2_CIPHERTEXT_OVERHEAD
        SM2_CIPHERTEXT_DER_OVERHEAD
        SM2_PLAINTEXT_MAX
    ctypedef struct sm2_private:
        pass
    ctypedef int (*sm2_entropy_fn)(void *, uint8_t *, size_t) noexcept nogil
    void sm2_use_backend(const sm2_backend *) noexcept
    void sm2_set_entropy(sm2_entropy_fn, void *) noexcept
    int sm2_selftest(const sm2_backend *) noexcept
    int sm2_private_import(sm2_private *, const uint8_t *) noexcept
    void sm2_private_export(uint8_t *, const sm2_private *) noexcept
    void sm2_private_to_public(sm2_point *, const sm2_private *) noexcept
    int sm2_generate_many(sm2_private *const *, sm2_point *, size_t) noexcept
    int sm2_public_import(sm2_point *, const uint8_t *, size_t) noexcept
    void sm2_public_export(uint8_t *, const sm2_point *) noexcept
    int sm2_z(uint8_t *, const uint8_t *, size_t, const sm2_point *) noexcept
    int sm2_z_many(uint8_t *, const uint8_t *, size_t, const sm2_point *const *, size_t) noexcept
    void sm2_digest_many(uint8_t *, const uint8_t *, size_t, const uint8_t *const *, const size_t *,
                         size_t, uint8_t *, size_t) noexcept
    int sm2_sign_many(uint8_t *, const sm2_private *const *, size_t, const uint8_t *, size_t) noexcept
    int sm2_sign_with_nonce(uint8_t *, const sm2_private *, const uint8_t *, const uint8_t *) noexcept
    void sm2_verify_many(uint8_t *, const sm2_point *const *, size_t, const uint8_t *,
                         const uint8_t *, size_t) noexcept
    size_t sm2_key_table_size() noexcept
    void sm2_key_table_build(void *, const sm2_point *) noexcept
    void sm2_verify_prepared_many(uint8_t *, const sm2_point *const *, const void *const *, size_t,
                                  const uint8_t *, const uint8_t *, size_t) noexcept
    int sm2_signature_to_der(uint8_t *, const uint8_t *) noexcept
    int sm2_signature_from_der(uint8_t *, const uint8_t *, size_t) noexcept
    int sm2_encrypt(uint8_t *, const sm2_point *, const uint8_t *, size_t) noexcept
    int sm2_encrypt_with_nonce(uint8_t *, const sm2_point *, const uint8_t *, size_t,
                               const uint8_t *) noexcept
    int sm2_decrypt(uint8_t *, const sm2_private *, const uint8_t *, size_t) noexcept
    long sm2_ciphertext_to_der(uint8_t *, const uint8_t *, size_t) noexcept
    long sm2_ciphertext_from_der(uint8_t *, const uint8_t *, size_t) noexcept
    ctypedef struct sm2_agreement:
        const sm2_private *own
        const sm2_private *own_ephemeral
        const sm2_point *own_public
        const sm2_point *own_ephemeral_public
        const sm2_point *peer_public
        const sm2_point *peer_ephemeral_public
        const uint8_t *own_z
        const uint8_t *peer_z
        int initiator
    int sm2_agree(uint8_t *, size_t, uint8_t *, uint8_t *, const sm2_agreement *) noexcept
