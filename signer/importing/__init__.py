"""Certificates and revocations of an authority that issued elsewhere, checked and taken over."""
