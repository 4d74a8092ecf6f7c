"""The `qianyan` command.

Every command reads one settings file, does one thing, and exits 0; or exits non-zero with one line on standard error
that says what is wrong and what to do. `--json` prints for machines. Errors: 1 for a failure that has a name, 2 for a
wrong call, 3 for a check that found something.
"""

from __future__ import annotations

import sys

import click

from core.errors import QianyanError
from service.commands import (
    audit_command,
    ca_command,
    caller_command,
    certificate_command,
    config_command,
    crl_command,
    demo_command,
    directory_command,
    holder_command,
    hsm_command,
    init_command,
    key_command,
    lifecycle_command,
    ocsp_command,
    recovery_command,
    report_command,
    serve_command,
    set_command,
    store_command,
    token_command,
)
from service.version import VERSION


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="qianyan", message="%(prog)s %(version)s")
def cli() -> None:
    """SM2 signing and certificate-status service."""


for _command in (
    init_command.init,
    serve_command.serve,
    serve_command.worker,
    demo_command.demo,
    certificate_command.issue,
    certificate_command.revoke,
    certificate_command.resume,
    certificate_command.status,
    lifecycle_command.renew,
    lifecycle_command.change,
    lifecycle_command.reissue,
    lifecycle_command.suspend,
    lifecycle_command.unlock,
    recovery_command.recovery,
    recovery_command.kmc,
    holder_command.holder,
    ca_command.ca,
    key_command.key,
    hsm_command.hsm,
    crl_command.crl,
    directory_command.directory,
    ocsp_command.ocsp,
    set_command.set_group,
    token_command.token,
    caller_command.caller,
    report_command.report,
    audit_command.audit,
    store_command.store,
    config_command.config,
):
    cli.add_command(_command)


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
