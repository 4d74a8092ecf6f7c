"""The `qianyan` command.

Every command reads one settings file, does one thing, and exits 0; or exits non-zero with one line on standard error
that says what is wrong and what to do. `--json` prints for machines. Errors: 1 for a failure that has a name, 2 for a
wrong call, 3 for a check that found something.

A command's module is imported when the command is called for: help, completion and mistyped names cost nothing else.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from core.errors import QianyanError
from service.version import VERSION

#: By what a person wants to do: the command, where it is (module of service.commands, attribute), and what it is.
SECTIONS: Final[dict[str, dict[str, tuple[str, str, str]]]] = {
    "Start and serve": {
        "init": ("init_command", "init", "Make an installation: keys, store, authorities, settings."),
        "serve": ("serve_command", "serve", "Serve until SIGTERM or SIGINT; requests under way are answered."),
        "worker": ("serve_command", "worker", ""),
        "demo": ("demo_command", "demo", "Make a demonstration authority, serve it, walk the main job."),
        "config": ("config_command", "config", "Check, list and explain the settings."),
    },
    "Certificates": {
        "issue": ("certificate_command", "issue", "Issue certificates for a PKCS#10 request."),
        "bulk": ("bulk_command", "bulk", "Issue certificates for a file of holders."),
        "revoke": ("certificate_command", "revoke", "Revoke a certificate and the other one of its pair."),
        "resume": ("certificate_command", "resume", "End the hold of a certificate and its pair."),
        "status": ("certificate_command", "status", "Say where a certificate and its pair stand."),
        "renew": ("lifecycle_command", "renew", "Renew a certificate from its old end."),
        "change": ("lifecycle_command", "change", "Change the subject of a certificate and its pair."),
        "reissue": ("lifecycle_command", "reissue", "New keys for a holder; the old pair is revoked."),
        "suspend": ("lifecycle_command", "suspend", "Hold a certificate and its pair for a time."),
        "unlock": ("lifecycle_command", "unlock", "Permit the medium of a certificate to be unlocked."),
        "holder": ("holder_command", "holder", "Holders of certificates and what they have had."),
        "recovery": ("recovery_command", "recovery", "Recover encryption keys: asked for by one, approved by others."),
        "import": ("import_command", "import_group", "Take over what another authority issued."),
    },
    "Authorities and keys": {
        "ca": ("ca_command", "ca", "Authorities and their certificates."),
        "key": ("key_command", "key", "Signing keys: what they are for, and whether they may sign."),
        "kmc": ("kmc_command", "kmc", "Key management: stores of encryption keys, other authorities' requests."),
        "hsm": ("hsm_command", "hsm", "Hardware modules: how they stand, taking them out for maintenance."),
    },
    "Status and publication": {
        "ocsp": ("ocsp_command", "ocsp", "OCSP answers: make them in advance."),
        "crl": ("crl_command", "crl", "Certificate revocation lists: state, build, check, estimate."),
        "set": ("set_command", "set_group", "Status sets: every certificate's status in one small signed file."),
        "directory": ("directory_command", "directory", "Publication to LDAP directories and object stores."),
    },
    "Who may ask": {
        "token": ("token_command", "token", "Tokens that admit callers to the private listener."),
        "caller": ("caller_command", "caller", "Callers: who they are, what they may do and did."),
        "ra": ("ra_command", "ra", "Registration authorities, and their signed requests."),
        "person": ("ra_command", "person", "People of registration authorities: who enters, who approves."),
        "openapi": ("openapi_command", "openapi", "Print the OpenAPI description of both listeners."),
    },
    "Records and operation": {
        "audit": ("audit_command", "audit", "The audit record: verify, prove, export, archive, search."),
        "report": ("report_command", "report", "Signed reports of what was verified."),
        "stats": ("stats_command", "stats", "What was issued and done, by kind, place, authority and time."),
        "plan": ("plan_command", "plan", "How large an installation has to be, and what breaks first."),
        "store": ("store_command", "store", "The store: upgrade, back up, restore, move, retire."),
    },
}
_PLACES: Final = {name: place[:2] for section in SECTIONS.values() for name, place in section.items()}


class _Commands(click.Group):
    """Imports a command when it is asked for by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name, by section."""
        return list(_PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command; None for a name that there is not."""
        place = _PLACES.get(cmd_name)
        if place is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"service.commands.{place[0]}"), place[1])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections; what is for the service's own use has no words and is left out."""
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, words) for name, (_, _, words) in section.items() if words], col_max=12)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="qianyan", message="%(prog)s %(version)s")
def cli() -> None:
    """SM2 signing and certificate-status service."""


def main() -> None:
    """Runs the command line; the process's exit status is the answer."""
    try:
        cli.main(prog_name="qianyan", standalone_mode=False)
    except click.exceptions.Exit as exit_request:
        sys.exit(exit_request.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("qianyan: stopped", err=True)
        sys.exit(130)
    except QianyanError as error:
        click.echo(f"qianyan: {error.detail}", err=True)
        sys.exit(1)
