"""What `qianyan token` and `qianyan caller` share: names, scopes, limits, and how a caller is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any, Final, TypeVar

import click

from core.clock import rfc3339
from core.store.callers import CallerRecord, Limits
from service.tokens import SCOPES

F = TypeVar("F", bound=Callable[..., Any])

#: Option, member of Limits, meaning.
_LIMITS: Final = (
    ("--requests-per-second", "requests_per_s", "Requests a second."),
    ("--requests-burst", "requests_burst", "Requests at once, after a quiet time.  [default: one second's]"),
    ("--signatures-per-second", "signatures_per_s", "Signatures a second."),
    ("--signatures-burst", "signatures_burst", "Signatures at once, after a quiet time.  [default: one second's]"),
    ("--concurrent", "concurrent", "Requests under way."),
    ("--signatures-per-day", "signatures_per_day", "Signatures a day."),
)

scope_option = click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(sorted(SCOPES)),
    help="What the caller is admitted to; give it several times for several.",
)


class LimitValue(click.ParamType[int]):
    """A number, or `none`."""

    name = "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """0 stands for none."""
        if isinstance(value, int) or value == "none":
            return 0 if value == "none" else int(value)
        try:
            number = int(value)
        except ValueError:
            number = 0
        if not 1 <= number <= 1_000_000_000:
            self.fail("a number from 1 to 1000000000, or none", param, ctx)
        return number


def limit_options(command: F) -> F:
    """Adds an option for each limit."""
    for option, member, meaning in reversed(_LIMITS):
        command = click.option(option, member, type=LimitValue(), help=meaning)(command)
    return command


def changed_limits(before: Limits, given: dict[str, int | None]) -> Limits:
    """The limits with what was given in place; `none` takes one away.

    Raises BadParameter for a burst without a rate.
    """
    limits = replace(before, **{name: value or None for name, value in given.items() if value is not None})
    for what in ("requests", "signatures"):
        if getattr(limits, f"{what}_burst") is not None and getattr(limits, f"{what}_per_s") is None:
            raise click.BadParameter(f"a burst needs a rate: --{what}-per-second", param_hint=f"--{what}-burst")
    return limits


def check_name(name: str, hint: str) -> None:
    """Raises BadParameter."""
    if not 1 <= len(name) <= 48 or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise click.BadParameter("1 to 48 letters, digits, - and _", param_hint=hint)


def moment(at_ms: int | None) -> str | None:
    """A time as it is shown; None where there is none."""
    return None if at_ms is None else rfc3339(at_ms)


def state(record: CallerRecord, now_ms: int) -> str:
    """`in force`, `withdrawn` or `expired`."""
    if record.withdrawn:
        return "withdrawn"
    return "expired" if record.expires_at_ms is not None and record.expires_at_ms <= now_ms else "in force"


def limits_text(limits: Limits) -> str:
    """The limits that there are, in a few words."""
    known = {field.name: getattr(limits, field.name) for field in fields(limits)}
    return ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)


def as_json(record: CallerRecord, now_ms: int) -> dict[str, Any]:
    """A caller without what tells it: neither a token nor a digest of one."""
    return {
        "id": record.id,
        "kind": "token" if record.matched_by is None else "certificate",
        "state": state(record, now_ms),
        "scopes": sorted(record.scopes),
        "created_at": moment(record.created_at_ms),
        "expires_at": moment(record.expires_at_ms),
        "last_used_at": moment(record.seen_ms),
        "limits": {name: value for name, value in asdict(record.limits).items() if value is not None},
    }
