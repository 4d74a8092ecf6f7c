"""When CRLs are built and how long they live, checked before anything starts (rule 5).

Owns defaults and bounds; knows nothing of stores, clocks or keys.
"""

from __future__ import annotations

from typing import Final, Self

from pydantic import Field, model_validator

from core.settings import Settings

#: No CRL lives longer, and none is built less often, whatever the settings say (rule 5).
DAY_S: Final = 86_400


class CrlSettings(Settings):
    """The `[crl]` table. A setting that would let a CRL grow older than a day fails the start."""

    period_s: int = Field(default=3_600, ge=1)
    """A new CRL of each partition is built this often; less than a day."""

    life_s: int = Field(default=DAY_S, ge=2)
    """How long a CRL may be used, counting its first and its last second: nextUpdate = thisUpdate + life_s - 1.
    More than `period_s`, at most a day."""

    debounce_s: float = Field(default=2.0, ge=0)
    """After a revocation, hold or release, how long to wait for more of them before the CRL is built ahead of its
    period; less than `period_s`."""

    poll_s: float = Field(default=0.2, gt=0, le=60)
    """How often the builder asks the store whether anything changed."""

    timeout_s: int = Field(default=300, ge=1)
    """How long one build may take before it is given up and tried again; less than `period_s`."""

    back_off_first_s: float = Field(default=1.0, gt=0)
    """The wait after a first failure; it doubles with each one that follows, and is spread at random."""

    back_off_max_s: float = Field(default=60.0, gt=0)
    """The longest wait after a failure."""

    delta: bool = True
    """Whether each CRL after the first comes with a delta CRL: what changed since a full CRL of up to `life_s` ago."""

    lease_s: float = Field(default=15.0, ge=1, le=600)
    """How long a builder may show no life before another one takes over what it builds."""

    alarm_s: int | None = Field(default=None, ge=1)
    """With how much of its life left a CRL turns readiness and alerts red. Left out: half of `life_s`, or half of what
    remains of it when the next CRL is due, whichever is less."""

    directory: str | None = None
    """A directory that every CRL, delta and authority certificate is written to as well, for a web server or a CDN to
    serve: `crl/AUTHORITY/PARTITION.crl`, `ca/AUTHORITY.cer`. Relative to the settings file; left out: none."""

    second_parser_max_bytes: int = Field(default=64 << 20, ge=0)
    """Up to which size a CRL is also read by a second parser before it is published; the strict one reads every CRL."""

    keep_bytes: int = Field(default=4 << 30, ge=1 << 20)
    """How much the CRLs kept of one partition may have together; older ones go first, the newest two never."""

    keep: int = Field(default=168, ge=2)
    """How many CRLs of each partition the store keeps; older ones are removed as new ones come (their numbers and
    digests stay in the audit record)."""

    @property
    def alarm_left_s(self) -> int:
        """With how many seconds left a CRL is late: `alarm_s`, or what its docstring says."""
        return self.alarm_s or max(1, min(self.life_s // 2, (self.life_s - self.period_s) // 2))

    @model_validator(mode="after")
    def _freshness(self) -> Self:
        if self.period_s >= DAY_S:
            raise ValueError(f"period_s is {self.period_s}; CRLs must be built more often than every {DAY_S} seconds")
        if self.life_s > DAY_S:
            raise ValueError(f"life_s is {self.life_s}; a CRL may live at most {DAY_S} seconds")
        for name, value, bound in (
            ("period_s", self.period_s, "life_s"),
            ("debounce_s", self.debounce_s, "period_s"),
            ("timeout_s", self.timeout_s, "period_s"),
            ("back_off_max_s", self.back_off_max_s, "period_s"),
        ):
            if value >= getattr(self, bound):
                raise ValueError(f"{name} is {value}; it must be less than {bound} ({getattr(self, bound)})")
        if self.alarm_s is not None and self.alarm_s >= self.life_s - self.period_s:
            left_s = self.life_s - self.period_s
            raise ValueError(f"alarm_s is {self.alarm_s}; every CRL is that old when the next is due ({left_s} s left)")
        if self.back_off_first_s > self.back_off_max_s:
            raise ValueError("back_off_first_s must not be more than back_off_max_s")
        return self
