"""Object identifiers that an RA meets (GB/T 33560-2017 Annex A; GM/T 0010-2012; RFC 2986, 5208, 8018, 7914)."""

from __future__ import annotations

from typing import Final

from qianyan_ra import _der as der

EC_PUBLIC_KEY: Final = der.oid("1.2.840.10045.2.1")
SM2_CURVE: Final = der.oid("1.2.156.10197.1.301")
SM2_SIGN: Final = der.oid("1.2.156.10197.1.301.1")
SM3: Final = der.oid("1.2.156.10197.1.401")
SM3_KEYLESS: Final = der.oid("1.2.156.10197.1.401.1")
HMAC_SM3: Final = der.oid("1.2.156.10197.1.401.2")
SM3_WITH_SM2: Final = der.oid("1.2.156.10197.1.501")
SM4: Final = der.oid("1.2.156.10197.1.104")
SM4_ECB: Final = der.oid("1.2.156.10197.1.104.1")
SM4_CBC: Final = der.oid("1.2.156.10197.1.104.2")
AES_CBC: Final = {
    der.oid("2.16.840.1.101.3.4.1.2"): 16,
    der.oid("2.16.840.1.101.3.4.1.22"): 24,
    der.oid("2.16.840.1.101.3.4.1.42"): 32,
}
GM_DATA: Final = der.oid("1.2.156.10197.6.1.4.2.1")
GM_SIGNED_DATA: Final = der.oid("1.2.156.10197.6.1.4.2.2")
CONTENT_TYPE: Final = der.oid("1.2.840.113549.1.9.3")
MESSAGE_DIGEST: Final = der.oid("1.2.840.113549.1.9.4")
SIGNING_TIME: Final = der.oid("1.2.840.113549.1.9.5")
PBES2: Final = der.oid("1.2.840.113549.1.5.13")
PBKDF2: Final = der.oid("1.2.840.113549.1.5.12")
SCRYPT: Final = der.oid("1.3.6.1.4.1.11591.4.11")
HMAC_SHA1: Final = der.oid("1.2.840.113549.2.7")
HMAC_SHA256: Final = der.oid("1.2.840.113549.2.9")

SPKI_ALGORITHM: Final = der.sequence(EC_PUBLIC_KEY, SM2_CURVE)
"""AlgorithmIdentifier of every SM2 key."""

SIGNATURE_ALGORITHM: Final = der.sequence(SM3_WITH_SM2)
"""SM2 with SM3, parameters absent, as most write it."""
