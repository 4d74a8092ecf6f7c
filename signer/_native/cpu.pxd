from signer._native.capi cimport sm2_backend

cdef const sm2_backend *active_backend() noexcept
