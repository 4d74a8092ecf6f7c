"""Object identifiers, as dotted text and, where a hot path needs them, as DER.

SM2/SM3: GB/T 33560-2017 Annex A; X.509: RFC 5280; OCSP: RFC 6960; GM private extensions: GM/T 0015-2012.
"""

from __future__ import annotations

from typing import Final

SM2_CURVE: Final = "1.2.156.10197.1.301"
SM2_SIGN: Final = "1.2.156.10197.1.301.1"
SM2_EXCHANGE: Final = "1.2.156.10197.1.301.2"
SM2_ENCRYPT: Final = "1.2.156.10197.1.301.3"
SM3: Final = "1.2.156.10197.1.401"
SM3_KEYLESS: Final = "1.2.156.10197.1.401.1"
HMAC_SM3: Final = "1.2.156.10197.1.401.2"
SM3_WITH_SM2: Final = "1.2.156.10197.1.501"
SM4: Final = "1.2.156.10197.1.104"
SM4_ECB: Final = "1.2.156.10197.1.104.1"
SM4_CBC: Final = "1.2.156.10197.1.104.2"

# Content types of GM/T 0010-2012 (GB/T 35275-2017), and those of PKCS #7 that some write around SM2 signatures.
GM_DATA: Final = "1.2.156.10197.6.1.4.2.1"
GM_SIGNED_DATA: Final = "1.2.156.10197.6.1.4.2.2"
GM_ENVELOPED_DATA: Final = "1.2.156.10197.6.1.4.2.3"
GM_SIGNED_AND_ENVELOPED_DATA: Final = "1.2.156.10197.6.1.4.2.4"
PKCS7_DATA: Final = "1.2.840.113549.1.7.1"
PKCS7_SIGNED_DATA: Final = "1.2.840.113549.1.7.2"
PKCS7_ENVELOPED_DATA: Final = "1.2.840.113549.1.7.3"
PKCS7_SIGNED_AND_ENVELOPED_DATA: Final = "1.2.840.113549.1.7.4"
CONTENT_TYPE: Final = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST: Final = "1.2.840.113549.1.9.4"
SIGNING_TIME: Final = "1.2.840.113549.1.9.5"

EC_PUBLIC_KEY: Final = "1.2.840.10045.2.1"
SHA1: Final = "1.3.14.3.2.26"
SHA256: Final = "2.16.840.1.101.3.4.2.1"
SHA384: Final = "2.16.840.1.101.3.4.2.2"
SHA512: Final = "2.16.840.1.101.3.4.2.3"

PBES2: Final = "1.2.840.113549.1.5.13"
PBKDF2: Final = "1.2.840.113549.1.5.12"
SCRYPT: Final = "1.3.6.1.4.1.11591.4.11"

AUTHORITY_KEY_IDENTIFIER: Final = "2.5.29.35"
CRL_DISTRIBUTION_POINTS: Final = "2.5.29.31"
ISSUING_DISTRIBUTION_POINT: Final = "2.5.29.28"
CRL_NUMBER: Final = "2.5.29.20"
DELTA_CRL_INDICATOR: Final = "2.5.29.27"
FRESHEST_CRL: Final = "2.5.29.46"
CRL_REASON: Final = "2.5.29.21"
INVALIDITY_DATE: Final = "2.5.29.24"

COUNTRY: Final = "2.5.4.6"
STATE: Final = "2.5.4.8"
LOCALITY: Final = "2.5.4.7"
ORGANIZATION: Final = "2.5.4.10"
ORGANIZATIONAL_UNIT: Final = "2.5.4.11"
COMMON_NAME: Final = "2.5.4.3"
SERIAL_NUMBER: Final = "2.5.4.5"

# GM/T 0015-2012 private extensions (GM-wide arc 1.2.156.10260.4.1).
IDENTIFY_CODE: Final = "1.2.156.10260.4.1.1"
INSURANCE_NUMBER: Final = "1.2.156.10260.4.1.2"
IC_REGISTRATION_NUMBER: Final = "1.2.156.10260.4.1.3"
ORGANIZATION_CODE: Final = "1.2.156.10260.4.1.4"
TAXATION_NUMBER: Final = "1.2.156.10260.4.1.5"

OCSP_BASIC: Final = "1.3.6.1.5.5.7.48.1.1"
OCSP_NONCE: Final = "1.3.6.1.5.5.7.48.1.2"
OCSP_NOCHECK: Final = "1.3.6.1.5.5.7.48.1.5"
OCSP_ARCHIVE_CUTOFF: Final = "1.3.6.1.5.5.7.48.1.6"

#: Default of the `status_index_oid` setting: where a certificate carries its dense status index. Under the UUID arc,
#: so that no registration is needed, and with an arc below 2^28: a whole UUID is past what widespread decoders take
#: (Go's crypto/x509 refuses the certificate, golang/go#30757; pyasn1's fast decoder stops at 32 bits). Who wants an
#: arc of their own sets one before the first certificate is issued.
STATUS_INDEX_DEFAULT: Final = "2.25.160735196"
