"""Issuance: authorities, certificate requests, profiles, certificates, their life cycle, key management."""
