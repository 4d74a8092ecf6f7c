"""Slow, plain implementations of SM3 and SM2, written from the clauses, to hold the native core to."""
