"""Signing and verification for applications."""
