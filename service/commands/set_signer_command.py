"""`qianyan ca set-signer`: who signs an authority's status sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from core.asn1.x509 import load_certificate
from core.errors import NotFound, Refused
from core.model import KeyPurpose
from core.store import authorities, keys
from service.commands.shared import actor, config_option, json_option, print_result, run, with_node
from signer.issuance.hierarchy import set_key_id
from signer.issuance.set_signer import certify_set_signer, remove_set_signer

if TYPE_CHECKING:
    from service.node import Node


@click.command("set-signer")
@click.option("--authority", "authority_id", default="issuing", show_default=True)
@click.option("--name", default="Status set signer", show_default=True, help="CN of the signer.")
@click.option("--days", default=365, show_default=True, type=click.IntRange(1, 3650), help="How long it may sign.")
@click.option("--remove", is_flag=True, help="The authority signs its sets itself again.")
@config_option
@json_option
def set_signer(authority_id: str, name: str, days: int, remove: bool, config_file: str | None, as_json: bool) -> None:
    """Have an authority's status sets signed by a key of their own, so that the authority's need not be here for them.

    Makes the key where there is none, and a new certificate for it; running services take it up with their next set.
    A running service that has the authority's key renews it by itself, 30 days before its end. Its certificate is in
    every set: systems that read them need nothing new.
    """

    async def work() -> bytes | None:
        async with with_node(config_file) as node:
            if remove:
                await remove_set_signer(node.database, node.clock, actor(), authority_id=authority_id)
                return None
            return await _certify(node, authority_id, name, days)

    made = run(work())
    until = None if made is None else load_certificate(made).not_valid_after_utc.isoformat()
    said = f"authority {authority_id} signs its status sets itself"
    if made is not None:
        said = f"the status sets of authority {authority_id} are signed by key {set_key_id(authority_id)} until {until}"
    key = None if made is None else set_key_id(authority_id)
    print_result({"authority": authority_id, "key": key, "not_after": until}, as_json, lambda: said)


async def _certify(node: Node, authority_id: str, name: str, days: int) -> bytes:
    key_id = set_key_id(authority_id)
    async with node.database.read() as connection:
        authority = await authorities.get(connection, authority_id)
        try:
            known = await keys.get(connection, key_id)
        except NotFound:
            known = None
    if authority.key_id is None:
        raise Refused(f"the key of authority {authority_id!r} is not here", code="key_elsewhere")
    signer = node.engine.signer(authority.key_id, KeyPurpose.CERTIFICATE)
    if known is None:
        await node.engine.create_key(key_id, KeyPurpose.STATUS_SET, "authority", actor())
    return await certify_set_signer(
        node.database,
        signer,
        node.clock,
        actor(),
        authority_id=authority_id,
        name={"CN": name},
        days=days,
        status_index_oid=node.loaded.settings.issuance.status_index_oid,
    )
