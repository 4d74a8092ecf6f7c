"""Reads status sets: one small signed file tells the status of every unexpired certificate of an authority, off line.

Depends on the standard library and on the SM2 verification that it is handed, so that it can be shipped with any
system that relies on certificates. Owns decoding, the failure rules and look-ups; knows no network, no store and no
private key. The format is written down in docs/status-set.md. `qianyan_status._speed`, where it is compiled, does the
same look-ups in bulk, faster.

    loaded = load(set_bytes, delta_bytes, issuer=issuer_der, verify=verify, last_position=seen)
    answer = loaded.query(certificate_der)
"""

from __future__ import annotations

from qianyan_status._errors import DeltaMismatch, StatusSetError
from qianyan_status._lookup import RECORD_BYTES, Status
from qianyan_status._reader import Answer, StatusSet, Verify, load

__all__ = ["RECORD_BYTES", "Answer", "DeltaMismatch", "Status", "StatusSet", "StatusSetError", "Verify", "load"]
