"""When status sets are built and how long they live: the `[status_set]` table, checked before anything starts."""

from __future__ import annotations

from typing import Final, Self

from pydantic import Field, model_validator

from core.settings import Settings

_DAY_S: Final = 86_400


class StatusSetSettings(Settings):
    """The `[status_set]` table."""

    enabled: bool = True
    """Whether status sets are built; what is published already is served either way, until its nextUpdate."""

    debounce_s: float = Field(default=1.0, ge=0, le=3_600)
    """After a revocation, hold or release, how long to wait for more of them before a delta is made."""

    issued_s: float = Field(default=60.0, ge=0, le=86_400)
    """After an issuance, how long until a delta covers the new certificate (it is for OCSP until then)."""

    period_s: int = Field(default=900, ge=1)
    """A delta is made at least this often, changes or not; less than `life_s`."""

    life_s: int = Field(default=21_600, ge=2, le=_DAY_S)
    """From thisUpdate to nextUpdate. What is past it says `good` of nothing any more; at most 24 hours."""

    set_period_s: int = Field(default=7 * _DAY_S, ge=60)
    """A whole new set at least this often; in between, one comes when the delta has grown too large."""

    delta_share: float = Field(default=0.25, gt=0, le=1)
    """A delta larger than this share of its set makes a new set due."""

    delta_least_bytes: int = Field(default=4_096, ge=0)
    """A delta up to this size never does."""

    load_share: float = Field(default=0.25, gt=0, le=1)
    """Most of the time that may go into building: after a build of t seconds the next waits for t / load_share."""

    poll_s: float = Field(default=0.2, gt=0, le=60)
    """How often the builder asks the store whether anything changed."""

    timeout_s: int = Field(default=300, ge=1)
    """How long one build may take before it is given up and tried again."""

    lease_s: float = Field(default=15.0, ge=1, le=600)
    """How long a builder may be silent before another one, of another worker or node, takes over."""

    back_off_first_s: float = Field(default=1.0, gt=0)
    """The wait after a first failure; it doubles with each one that follows."""

    back_off_max_s: float = Field(default=60.0, gt=0)
    """The longest wait after a failure."""

    keep: int = Field(default=24, ge=1)
    """How many deltas of each authority the store keeps, with the sets they belong to."""

    @model_validator(mode="after")
    def _freshness(self) -> Self:
        if self.period_s >= self.life_s:
            raise ValueError(f"period_s is {self.period_s}; it must be less than life_s ({self.life_s})")
        if self.back_off_first_s > self.back_off_max_s:
            raise ValueError("back_off_first_s must not be more than back_off_max_s")
        return self
