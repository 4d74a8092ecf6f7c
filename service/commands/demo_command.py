"""`qianyan demo`: what `make run` calls."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from pathlib import Path

import click

from core.errors import SettingsError
from service.commands.shared import actor
from service.demo import Step, Walk
from service.installation import InstallOptions, install
from service.logs import configure_logs
from service.settings import DEFAULT_FILE, Loaded, load, read_secret_file


@click.command()
@click.option("--dir", "directory", default="var", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--public-port", default=8080, show_default=True, type=click.IntRange(1, 65535))
@click.option("--private-port", default=8443, show_default=True, type=click.IntRange(1, 65535))
@click.option("--once", is_flag=True, help="Stop after the walk in place of serving on.")
def demo(directory: Path, public_port: int, private_port: int, once: bool) -> None:
    """Make a demonstration authority (or find the one that is there), serve it, and walk the main job once."""
    configure_logs(level="warning", style="console")
    sys.exit(asyncio.run(_demo(directory, public_port, private_port, once)))


async def _demo(directory: Path, public_port: int, private_port: int, once: bool) -> int:
    file = directory / DEFAULT_FILE
    if file.exists():
        click.echo(f"found the demonstration authority in {directory}/")
    else:
        options = InstallOptions(directory, demo=True, public_port=public_port, private_port=private_port)
        await install(options, None, actor())
        click.echo(f"made a demonstration authority in {directory}/")
    loaded = load(str(file))
    if not (directory / "demo-token").exists():
        raise SettingsError(f"{directory} is not a demonstration: it has no demo-token", code="demo_token")
    log_file = directory / "service.log"
    with log_file.open("ab") as log:
        began_at = log.tell()
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service", "serve", "--config", str(file), stdout=asyncio.subprocess.PIPE, stderr=log
        )
    try:
        urls = await _listening(server)
        if urls is None:
            said = log_file.read_bytes()[began_at:].decode(errors="replace").rstrip()
            click.echo(f"{said.rpartition(chr(10))[2]}  [log: {log_file}]", err=True)
            return server.returncode or 1
        return await _walk(server, loaded, urls, once)
    finally:
        if server.returncode is None:
            server.terminate()
            await server.wait()


async def _listening(server: asyncio.subprocess.Process) -> dict[str, str] | None:
    """Where the service listens, by listener; None where it ended instead."""
    assert server.stdout is not None
    urls = {}
    for _ in range(2):
        name, _, url = (await server.stdout.readline()).decode().strip().partition(" ")
        if not url:
            await server.wait()
            return None
        urls[name] = url.strip()
    return urls


async def _walk(server: asyncio.subprocess.Process, loaded: Loaded, urls: dict[str, str], once: bool) -> int:
    click.echo(f"serving: public {urls['public']}, private {urls['private']}\n")
    token = read_secret_file(loaded.directory / "demo-token", "token file").decode()
    tls = None
    if loaded.settings.private.tls == "on":
        tls = ssl.create_default_context(cafile=str(loaded.directory / "tls-ca.pem"))
    await Walk(urls["public"], urls["private"], token, tls, _print_step).run()
    if once:
        return 0
    click.echo("\n" + _try_next(loaded, urls))
    return await _until_stopped(server)


async def _until_stopped(server: asyncio.subprocess.Process) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ended = asyncio.create_task(server.wait())
    asked = asyncio.create_task(stop.wait())
    await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not ended.done():
        click.echo("stopping")
        server.terminate()
    return await ended


def _print_step(step: Step) -> None:
    click.echo(f"  {step.name:28} {step.result:60} {step.milliseconds:8.1f} ms")


def _try_next(loaded: Loaded, urls: dict[str, str]) -> str:
    directory = loaded.directory
    trusted = f"--cacert {directory}/tls-ca.pem " if urls["private"].startswith("https") else ""
    return f"""\
Try next, in another terminal:
  curl {trusted}-H "Authorization: Bearer $(cat {directory}/demo-token)" -H 'Content-Type: application/json' \\
       -d '{{"key": "demo", "data": "aGVsbG8="}}' {urls["private"]}/v1/sign
  curl {urls["public"]}/readyz
  .venv/bin/qianyan key list --config {loaded.file}
  .venv/bin/qianyan audit verify --config {loaded.file}
The service's log is {directory}/service.log. Stop with Ctrl-C."""
