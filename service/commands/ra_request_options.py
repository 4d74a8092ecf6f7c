"""What `qianyan ra request …` shares: where the service is, who signs, and how an answer is shown.

Speaks HTTP through `qianyan_ra` only: these commands are for an RA's machine, and need no store and no settings file.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from qianyan_ra import Answer, Client, NoAnswer, Person, Problem, RaError, Unfit, tls_context
from service.commands.shared import print_json
from service.files import write_new
from service.settings import read_secret_file

P = ParamSpec("P")
R = TypeVar("R")

#: sysexits.h EX_TEMPFAIL: nothing has to be put right; the same command again may do.
TEMPORARY: Final = 75

in_file = click.Path(exists=True, dir_okay=False, path_type=Path, allow_dash=True)
key_path = click.Path(exists=True, dir_okay=False, path_type=Path)
out_file = click.Path(dir_okay=False, path_type=Path)
out_dir_option = click.option(
    "--out-dir", type=click.Path(file_okay=False, path_type=Path), help="Where new certificates and keys are written."
)
ra_option = click.option("--ra", required=True, metavar="RA", help="The id under which the RA is registered.")
out_option = click.option("--out", type=out_file, help="Where it is written.  [default: standard output]")


def told(command: Callable[P, R]) -> Callable[P, R]:
    """Errors of the client as one line and an exit status: 75 where the same command again may do, else 1."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except RaError as error:
            click.echo(f"qianyan: {error}", err=True)
            again = isinstance(error, NoAnswer) or (isinstance(error, Problem) and error.retryable)
            raise SystemExit(TEMPORARY if again else 1) from error

    return wrapped


def service_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--url` and what belongs to it; the command is handed a `client`."""

    @click.option("--url", envvar="QIANYAN_RA_URL", required=True, help="https://HOST:PORT.  [env: QIANYAN_RA_URL]")
    @click.option("--tls-ca", type=key_path, help="The CA of the service's TLS certificate.  [default: the system's]")
    @click.option("--tls-certificate", type=key_path, help="A client certificate, where the service asks for one.")
    @click.option("--tls-key", type=key_path, help="Its key.")
    @click.option("--token-file", type=key_path, help="A token with the scope requests:read; needed to look.")
    @click.option("--attempts", type=click.IntRange(1, 20), default=5, show_default=True, help="Tries at most.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        url: str,
        tls_ca: Path | None,
        tls_certificate: Path | None,
        tls_key: Path | None,
        token_file: Path | None,
        attempts: int,
        **kwargs: Any,
    ) -> Any:
        named = [None if path is None else str(path) for path in (tls_ca, tls_certificate, tls_key)]
        tls = tls_context(ca_file=named[0], certificate_file=named[1], key_file=named[2]) if any(named) else None
        token = None if token_file is None else read_secret_file(token_file, "token file").decode("latin-1")
        with Client(url, token=token, tls=tls, attempts=attempts) as client:
            return command(*args, client=client, **kwargs)

    return wrapped


def person_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--certificate` and `--key`; the command is handed a `person`."""

    @click.option("--certificate", type=key_path, required=True, help="Of the operator or approver; PEM or DER.")
    @click.option("--key", type=key_path, required=True, help="Its private key; PKCS#8, PEM.")
    @click.option("--passphrase-file", type=key_path, help="The key's passphrase.  [default: asked for]")
    @functools.wraps(command)
    def wrapped(*args: Any, certificate: Path, key: Path, passphrase_file: Path | None, **kwargs: Any) -> Any:
        person = Person.load(certificate, key, read_passphrase(key, passphrase_file))
        return command(*args, person=person, **kwargs)

    return wrapped


def read_passphrase(key: Path, passphrase_file: Path | None) -> bytes | None:
    """From the file, or asked for at the terminal where the key is under one; None where it is not."""
    if passphrase_file is not None:
        return bytes(read_secret_file(passphrase_file, "passphrase file"))
    if b"ENCRYPTED" not in key.read_bytes():
        return None
    text: str = click.prompt(f"Passphrase of {key}", hide_input=True, err=True)
    return text.encode()


def new_passphrase(passphrase_file: Path | None) -> bytes:
    """For a new key: from the file, or asked for twice at the terminal. Raises Unfit where it is empty."""
    if passphrase_file is not None:
        return bytes(read_secret_file(passphrase_file, "passphrase file"))
    text: str = click.prompt("Passphrase for the key", hide_input=True, confirmation_prompt=True, err=True)
    if not text:
        raise Unfit("a key in a file is under a passphrase", code="passphrase_missing")
    return text.encode()


def read_input(path: Path) -> bytes:
    """A file, or standard input for `-`."""
    return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()


def write_output(data: bytes, out: Path | None, *, secret: bool = False) -> None:
    """To a file that is not there yet, or to standard output."""
    if out is None:
        click.echo(data, nl=False)
    elif out.exists():
        raise Unfit(f"{out} is there already; name another file", code="file_exists")
    else:
        write_new(out, data, mode=0o600 if secret else 0o644)


def show_answer(answer: Answer, out_dir: Path | None, as_json: bool) -> None:
    """For people: where it stands and what to do next; for machines: the service's own members."""
    written = [] if out_dir is None else _write_result(answer, out_dir)
    if as_json:
        print_json({**answer.members, "files": [str(path) for path in written]})
        return
    click.echo(f"{answer.request_id}  {answer.kind}  {answer.state}")
    if answer.entered_by:
        click.echo(f"entered by {answer.entered_by} at {answer.members.get('entered_at')}")
    if answer.decided_by:
        click.echo(f"decided by {answer.decided_by} at {answer.members.get('decided_at')}")
    if answer.reason:
        click.echo(f"reason: {answer.reason}")
    if answer.waiting:
        click.echo(f"another person approves it: qianyan ra request approve {answer.request_id} --ra {answer.ra} …")
    for one in answer.result.get("certificates") or ():
        click.echo(f"{one.get('usage', '')}  {one.get('serial', '')}  {one.get('status', '')}".rstrip())
    if token := answer.result.get("token"):
        click.echo(f"unlock token, good once until {answer.result.get('expires_at')}: {token}")
    for path in written:
        click.echo(f"wrote {path}")


def _write_result(answer: Answer, out_dir: Path) -> list[Path]:
    """sign.pem, enc.pem, chain.pem and enc-key.der, as `qianyan issue` names them."""
    names = {"sign": "sign.pem", "encrypt": "enc.pem"}
    contents = {out_dir / names[one.usage]: certificate_pem(one.certificate) for one in answer.certificates}
    if answer.chain:
        contents[out_dir / "chain.pem"] = b"".join(map(certificate_pem, answer.chain))
    if answer.enveloped_key is not None:
        contents[out_dir / "enc-key.der"] = answer.enveloped_key
    if contents:
        out_dir.mkdir(parents=True, exist_ok=True)
    for path, data in contents.items():
        write_new(path, data, mode=0o600 if path.suffix == ".der" else 0o644, replace=True)
    return list(contents)


def certificate_pem(encoded: bytes) -> bytes:
    """A certificate as PEM."""
    return x509.load_der_x509_certificate(encoded).public_bytes(Encoding.PEM)
