"""`[hsm]`: which devices there are, and how patient the pool is with them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from core.settings import Settings


class SdfDeviceSettings(Settings):
    """One entry of `[[hsm.devices]]`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")
    """The device's name in logs, metrics and commands."""
    library: str = Field(min_length=1)
    """The vendor's GM/T 0018 library: a path (relative to the settings file), or a bare name that the dynamic loader
    finds. Devices may share a library where the vendor has one handle per device."""
    sessions: int | None = Field(default=None, ge=1, le=256)
    """Sessions on this device; without it `hsm.sessions_per_device`."""
    password_file: str | None = None
    """Password file for this device; without it `hsm.password_file`."""
    thread_safe: bool = True
    """Whether different sessions may be used at the same time. With false every call into this library is made alone,
    which is slow: for libraries whose vendor does not promise it."""
    handles: Literal["shared", "per_session"] = "shared"
    """Whether SDF_OpenDevice is called once for all sessions, or once for each: for libraries that allow one thread or
    one session on a device handle."""


class SdfSettings(Settings):
    """`[hsm]`: keys in hardware modules behind GM/T 0018 (SDF) libraries. Without devices there is no pool."""

    devices: tuple[SdfDeviceSettings, ...] = ()
    """The devices; each holds the same keys at the same indexes."""
    sessions_per_device: int = Field(default=8, ge=1, le=256)
    """Sessions (and threads) per device: how many signatures it makes at once."""
    password_file: str | None = None
    """File whose first line is the access code of the keys; mode 0600. Read when a right is asked for, then wiped."""
    key_password_files: dict[int, str] = Field(default_factory=dict)
    """Password files of single keys, by key index, where they differ."""
    call_timeout_ms: int = Field(default=2_000, ge=20, le=600_000)
    """A call that has not returned by then is given up, its device taken out and its work moved."""
    request_timeout_ms: int = Field(default=8_000, ge=40, le=3_600_000)
    """How long a batch may take with all moving about; also how long it waits for a device when all are out."""
    open_timeout_ms: int = Field(default=10_000, ge=100, le=600_000)
    """How long opening a device, its sessions and the proof of its keys may take."""
    backoff_min_ms: int = Field(default=200, ge=10, le=600_000)
    """The pause before the first attempt to take a failed device back; it doubles with each attempt."""
    backoff_max_ms: int = Field(default=3_000, ge=10, le=3_600_000)
    """The longest pause between attempts. Each pause is shortened at random by up to half."""
    health_interval_s: float = Field(default=10.0, gt=0, le=86_400)
    """How often a device in service makes a signature that is verified, whether or not there is work."""
    verify_one_in: int = Field(default=50, ge=1)
    """Every so many signatures of a session one is verified before it leaves; 1 verifies all (40 µs each)."""
    abandoned_max: int = Field(default=64, ge=1)
    """How many calls of one device may be stuck for good. Past it the device stays out until some return."""
    parallel_batches: int = Field(default=4, ge=1, le=64)
    """How many batches are with the devices at once, so that one that waits for a stalled call holds up no other."""

    @model_validator(mode="after")
    def _consistent(self) -> SdfSettings:
        names = [device.name for device in self.devices]
        if len(set(names)) != len(names):
            raise ValueError("two devices have the same name")
        if self.request_timeout_ms < 2 * self.call_timeout_ms:
            raise ValueError("request_timeout_ms must be at least twice call_timeout_ms, so that work can be moved")
        if self.backoff_max_ms < self.backoff_min_ms:
            raise ValueError("backoff_max_ms must not be less than backoff_min_ms")
        return self
