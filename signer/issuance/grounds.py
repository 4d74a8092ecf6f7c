"""Why a certificate is revoked, in the words of the government process, and what of it a CRL can say.

The ground is kept with the business done; the certificate, CRL and OCSP carry RFC 5280's reason for it (§5.3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from core.model import RevocationReason


class Ground(StrEnum):
    """A reason for revocation as holders, registration authorities and courts give it."""

    DUTY_NOT_MET = "duty_not_met"
    HOLDER_GONE = "holder_gone"
    HOLDER_REQUEST = "holder_request"
    KEY_COMPROMISE = "key_compromise"
    DATA_CHANGED = "data_changed"
    PRACTICE_RULES_NOT_MET = "practice_rules_not_met"
    POST_LEFT = "post_left"
    LOST = "lost"
    DAMAGED = "damaged"
    DEPARTMENT_DEMAND = "department_demand"
    COURT_DEMAND = "court_demand"


#: A lost medium may be in other hands, so relying parties are told what they would be told of a compromised key.
REASONS: Final[Mapping[Ground, RevocationReason]] = {
    Ground.DUTY_NOT_MET: RevocationReason.PRIVILEGE_WITHDRAWN,
    Ground.HOLDER_GONE: RevocationReason.CESSATION_OF_OPERATION,
    Ground.HOLDER_REQUEST: RevocationReason.UNSPECIFIED,
    Ground.KEY_COMPROMISE: RevocationReason.KEY_COMPROMISE,
    Ground.DATA_CHANGED: RevocationReason.AFFILIATION_CHANGED,
    Ground.PRACTICE_RULES_NOT_MET: RevocationReason.PRIVILEGE_WITHDRAWN,
    Ground.POST_LEFT: RevocationReason.AFFILIATION_CHANGED,
    Ground.LOST: RevocationReason.KEY_COMPROMISE,
    Ground.DAMAGED: RevocationReason.SUPERSEDED,
    Ground.DEPARTMENT_DEMAND: RevocationReason.PRIVILEGE_WITHDRAWN,
    Ground.COURT_DEMAND: RevocationReason.PRIVILEGE_WITHDRAWN,
}
#: Why a certificate is reissued.
REISSUE_GROUNDS: Final = frozenset({Ground.LOST, Ground.DAMAGED, Ground.KEY_COMPROMISE})


def read_reason(label: str) -> tuple[RevocationReason, Ground | None]:
    """What a caller wrote, a ground or one of RFC 5280's reasons. ValueError naming both lists."""
    for ground in Ground:
        if ground.value == label.replace("-", "_").lower():
            return REASONS[ground], ground
    try:
        return RevocationReason.from_label(label), None
    except ValueError as error:
        raise ValueError(f"{error}; or a ground: {', '.join(Ground)}") from error
