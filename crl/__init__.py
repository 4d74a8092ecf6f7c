"""Builds, checks and publishes certificate revocation lists."""
