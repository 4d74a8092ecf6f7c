"""SM2 and SM3 in C.

Importing `sm2` or `sm3` runs their known-answer tests and fails with
ImportError where an answer is not met, or where the backend asked for by
QIANYAN_NATIVE_BACKEND cannot be had. There is nothing to fall back on.
"""
