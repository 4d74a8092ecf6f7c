"""The command line as a whole: every command is there under its name, and asking for help costs nothing else."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from service.cli import SECTIONS, cli

COMMANDS = {name: words for section in SECTIONS.values() for name, (_, _, words) in section.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_where_it_is_said_to_be(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.hidden == (not COMMANDS[name]), "what is hidden has no words in the help, and nothing else"


def test_help_names_every_command() -> None:
    ran = CliRunner().invoke(cli, ["--help"])
    assert ran.exit_code == 0
    for name, words in COMMANDS.items():
        assert (f"  {name} " in ran.stdout) == bool(words)
        assert words in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 100


def test_a_name_that_there_is_not() -> None:
    ran = CliRunner().invoke(cli, ["isue"])
    assert ran.exit_code == 2
    assert "isue" in ran.output


def test_help_loads_no_part_of_the_service() -> None:
    """Nor does a command of the store alone load the node: both are asked for by people who wait."""
    code = "import sys; from service.cli import cli; cli.main(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    for arguments, absent in (
        (["--help"], {"sqlalchemy", "aiohttp", "pydantic", "signer", "status"}),
        (["token", "--help"], {"service.node", "signer.issuance.issuer", "crl.service"}),
    ):
        ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert absent & set(ran.stdout.splitlines()[-1].split()) == set()
