"""Commands that issue or change certificates on the host, where that takes signed requests by two people.

With `registration.required` such a command is refused, and that is on record. `--break-glass REASON` lets it through:
for the emergency in which the authority's people cannot sign, a revocation that must not wait above all. That it was
used, by whom and why, is on the audit record before anything is done, whatever becomes of the command then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import click

from core.audit import AuditEvent
from core.errors import Denied, Malformed
from core.store import audit
from service.commands.shared import actor, with_node

if TYPE_CHECKING:
    from service.node import Node

#: What the record says of a command that was let through, and of one that was not.
USED: Final = "break_glass.use"
REFUSED: Final = "break_glass.refuse"
_REASON_MAX: Final = 500

break_glass_option = click.option(
    "--break-glass",
    "why",
    metavar="REASON",
    help="Do it although registration.required asks for a signed request; who and why goes on the audit record.",
)


@asynccontextmanager
async def issuing_node(config_file: str | None, why: str | None, subject: str) -> AsyncIterator[Node]:
    """Every part, where this command may issue and change certificates here.

    why: of `--break-glass`; None without it. subject: what the command is about, for the record. Raises Denied (code
    "signed_request_required"), which is on record; Malformed (code "break_glass").
    """
    command = _command()
    if why is not None and (not why.strip() or len(why) > _REASON_MAX or not why.isprintable()):
        raise Malformed(f"--break-glass says why, in at most {_REASON_MAX} characters on one line", code="break_glass")
    async with with_node(config_file) as node:
        if why is not None:
            await _note(node, USED, subject, "ok", {"command": command, "reason": why.strip()})
        elif node.loaded.settings.registration.required:
            code = "signed_request_required"
            await _note(node, REFUSED, subject, code, {"command": command})
            raise Denied(
                f"certificates are issued and changed by signed requests here (registration.required): 'qianyan ra "
                f"request' makes one; in an emergency: 'qianyan {command} --break-glass REASON', which goes on record",
                code=code,
            )
        yield node


def _command() -> str:
    """The command as it was called, without what it was given: "bulk issue"."""
    path = click.get_current_context().command_path.split()
    return " ".join(path[1:]) or path[0]


async def _note(node: Node, action: str, subject: str, outcome: str, detail: dict[str, str | int]) -> None:
    async with node.database.write() as connection:
        event = AuditEvent(actor(), action, subject, outcome, detail)
        await audit.append(connection, event, at_ms=node.clock())
