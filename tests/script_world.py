"""Shell scripts of the documentation, run by bash as they stand, with the command `qianyan` answered in this process.

Starting Python and importing the service for each of a script's commands takes longer than all that they do. What
stands in the script's PATH as `qianyan` is a few lines that hand over arguments, directory, environment and umask, and
give back what the command wrote and its exit status; the command itself is the real one.
"""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from click.testing import CliRunner

from core.errors import QianyanError
from service.cli import cli

_STUB = """#!{python} -SE
import json, os, socket, sys
umask = os.umask(0)
os.umask(umask)
line = socket.socket(socket.AF_UNIX)
line.connect({path!r})
asked = {{"args": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "umask": umask}}
with line.makefile("rwb") as stream:
    stream.write(json.dumps(asked).encode() + b"\\n")
    stream.flush()
    answer = json.loads(stream.readline())
sys.stdout.write(answer["stdout"])
sys.stderr.write(answer["stderr"])
sys.exit(answer["status"])
"""


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    directory, umask = Path.cwd(), os.umask(asked["umask"])
    os.chdir(asked["cwd"])
    try:
        result = CliRunner(env=dict(asked["env"])).invoke(cli, asked["args"])
    finally:
        os.chdir(directory)
        os.umask(umask)
    told = result.stderr
    if isinstance(result.exception, QianyanError):  # as service.cli.main has it
        told += f"qianyan: {result.exception.detail}\n"
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        told += f"{result.exception!r}\n"
    return {"stdout": result.stdout, "stderr": told, "status": result.exit_code}


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(json.dumps(_answer(json.loads(self.rfile.readline()))).encode() + b"\n")


@contextmanager
def _commands(directory: Path) -> Iterator[Path]:
    """A directory for the PATH, with `qianyan` in it, while the context lasts."""
    path = directory / "commands"
    stub = directory / "qianyan"
    stub.write_text(_STUB.format(python=sys.executable, path=str(path)))
    stub.chmod(0o755)
    with socketserver.UnixStreamServer(str(path), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield directory
        server.shutdown()
        thread.join()


def run_script(script: str, cwd: Path, tools: Path, env: Mapping[str, str]) -> str:
    """Runs a script to its end, which every command of it must reach; what it wrote. `tools`: an empty directory."""
    with _commands(tools) as commands:
        environment = {**os.environ, **env, "PATH": f"{commands}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
        ran = subprocess.run(
            ["bash", "-c", f"set -eu\n{script}"],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=170,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return cast(str, ran.stdout)
