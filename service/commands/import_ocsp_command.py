"""`qianyan import ocsp-request` and `ocsp-certificate`: the OCSP signer of an authority whose own key is elsewhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import system_clock
from core.errors import NotFound
from core.model import KeyPurpose
from core.store import counters, imports, keys
from core.store.database import Database
from service.commands.shared import actor, config_option, load_settings, passphrase_for, run, with_store
from service.files import write_new
from service.opening import open_keystore, open_store
from signer.importing import adopt as adopting
from signer.importing.checks import Issuer
from signer.issuance.ceremony import add_key
from signer.issuance.hierarchy import encode_name, ocsp_key_id
from signer.issuance.signing import LocalSigner

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)


async def issuer_of(database: Database, authority_id: str) -> Issuer:
    """The authority that is taken over. Raises NotFound where none is."""
    async with database.read() as connection:
        return Issuer.of(authority_id, (await imports.adopted(connection, authority_id)).certificate)


@click.command("ocsp-request")
@click.argument("authority_id", metavar="AUTHORITY")
@click.option("--out", required=True, type=_OUT, help="Where the request goes, PKCS#10 in DER.")
@click.option("--name", default="OCSP signer", show_default=True, help="CN that is asked for.")
@config_option
def ocsp_request(authority_id: str, out: Path, name: str, config_file: str | None) -> None:
    """Make an OCSP signer's key for an AUTHORITY whose own key is elsewhere, and the request to have it certified."""
    loaded = load_settings(config_file)
    passphrase = passphrase_for(loaded)

    async def make() -> bytes:
        key_id = ocsp_key_id(authority_id)
        async with open_store(loaded) as database:
            await issuer_of(database, authority_id)
            keystore = open_keystore(loaded, passphrase)
            try:
                async with database.read() as connection:
                    known = await _is_known(connection, key_id)
                key = await asyncio.to_thread(keystore.load if known else keystore.create, key_id)
                signer = LocalSigner(key_id, key)
                if not known:
                    async with database.write() as connection:
                        at_ms = await counters.advance_time(connection, system_clock())
                        await add_key(connection, key_id, signer.public_key, KeyPurpose.OCSP, at_ms)
                return await adopting.ocsp_request(signer, encode_name({"CN": name}))
            finally:
                keystore.close()

    write_new(out, run(make()), replace=True)
    click.echo(f"wrote {out}; when it is certified: qianyan import ocsp-certificate {authority_id} FILE")


async def _is_known(connection: AsyncConnection, key_id: str) -> bool:
    try:
        await keys.get(connection, key_id)
    except NotFound:
        return False
    return True


@click.command("ocsp-certificate")
@click.argument("authority_id", metavar="AUTHORITY")
@click.argument("file", type=_FILE)
@config_option
def ocsp_certificate(authority_id: str, file: Path, config_file: str | None) -> None:
    """Install the certificate that AUTHORITY made for the OCSP signer of 'import ocsp-request'; renew it so, too."""
    certificate = file.read_bytes()

    async def write() -> None:
        async with with_store(config_file) as database:
            await adopting.install_ocsp_signer(database, authority_id, certificate, system_clock, actor())

    run(write())
    click.echo(f"authority {authority_id} has its OCSP signer")
