"""`qianyan init`."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import ValidationError

from core.errors import SettingsError
from core.oids import STATUS_INDEX_DEFAULT
from core.settings import explain
from service.commands.shared import actor, json_option, print_result, prompt_passphrase, run
from service.installation import Installed, InstallOptions, install, refuse_existing
from service.logs import configure_logs
from service.settings import KeysSettings, passphrase_from_environment, read_secret_file


@click.command()
@click.option(
    "--dir",
    "directory",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the installation goes; made where it is missing.",
)
@click.option("--demo", is_flag=True, help="A demonstration: own passphrase file, a key 'demo' and a token for it.")
@click.option("--external-root", is_flag=True, help="The root is elsewhere: write a request instead (see: qianyan ca).")
@click.option("--organization", default="qianyan", show_default=True, help="O of the authorities' names.")
@click.option("--country", default="CN", show_default=True, help="C of the authorities' names.")
@click.option("--public-host", default="127.0.0.1", show_default=True)
@click.option("--public-port", default=8080, show_default=True, type=click.IntRange(1, 65535))
@click.option("--private-host", default="127.0.0.1", show_default=True)
@click.option("--private-port", default=8443, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--private-tls",
    default="on",
    show_default=True,
    type=click.Choice(["on", "off"]),
    help="'off' on a loopback address only.",
)
@click.option("--public-url", metavar="URL", help="Written into certificates.  [default: the public listener]")
@click.option(
    "--store-url",
    metavar="URL",
    help="PostgreSQL instead of a file: postgresql+asyncpg://USER@HOST:PORT/NAME, an empty database, no password.",
)
@click.option(
    "--store-password-file",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    help="The database password: first line, mode 0600.  [default: $QIANYAN_STORE_PASSWORD, else ~/.pgpass]",
)
@click.option("--partitions", default=1, show_default=True, type=click.IntRange(1, 4096), help="CRLs per authority.")
@click.option(
    "--status-index-oid",
    default=STATUS_INDEX_DEFAULT,
    metavar="OID",
    help="Extension that carries the status index; register one of your own where readers cannot take long arcs.",
)
@click.option(
    "--passphrase-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="First line, mode 0600."
)
@json_option
def init(directory: Path, demo: bool, passphrase_file: Path | None, as_json: bool, **choices: object) -> None:
    """Make an installation: keys, store, authorities and qianyan.toml.

    Refuses a directory that holds one. The passphrase of the key store comes from --passphrase-file, the variable
    QIANYAN_PASSPHRASE, or a prompt; --demo makes one and keeps it beside the keys.
    """
    configure_logs(level="warning", style="console")
    options = InstallOptions(directory=directory, demo=demo, **choices)  # type: ignore[arg-type]
    refuse_existing(directory)
    passphrase = None
    if passphrase_file is not None:
        passphrase = read_secret_file(passphrase_file, "passphrase file")
    elif not demo:
        variable = KeysSettings().passphrase_env
        passphrase = passphrase_from_environment(variable) or prompt_passphrase(variable, confirm=True)
    try:
        done = run(install(options, passphrase, actor()))
    except ValidationError as error:
        field, message = explain(error)
        raise SettingsError(f"{field}: {message}", code="settings_value", field=field) from error
    value = {
        "directory": str(done.directory),
        "settings": str(done.settings_file),
        "issuing_csr": None if done.issuing_csr is None else str(done.issuing_csr),
    }
    print_result(value, as_json, lambda: _what_next(done))


def _what_next(done: Installed) -> str:
    if done.issuing_csr is not None:
        return (
            f"made {done.directory}; have the root sign {done.issuing_csr}, then: qianyan ca install "
            f"--config {done.settings_file} --certificate FILE --chain ROOT"
        )
    return f"made {done.directory}; start it with: qianyan serve --config {done.settings_file}"
