"""Authorities, certificates, key management: what the registration authority asks for."""
