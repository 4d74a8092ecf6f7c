"""Holders of certificates: who they are, kept sealed; found by number; masked where shown; checked with a register."""
