"""ASN.1: a strict DER reader and writer, and the X.509 structures built on `cryptography`."""
