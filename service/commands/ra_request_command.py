"""`qianyan ra request …`: an RA's requests from the command line, on the RA's own machine.

Knows `qianyan_ra` and files; no store, no settings. The group is mounted under `qianyan ra`.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from qianyan_ra import (
    GROUNDS,
    KINDS,
    REASONS,
    Client,
    Holder,
    Maker,
    Person,
    Request,
    SoftwareKey,
    Unfit,
    add_signature,
    csr_pem,
    make_csr,
    name_of,
    open_enveloped_key,
    parse,
    read_certificates,
    sign,
)
from qianyan_ra import Certificate as CertificateView
from service.commands.ra_people_command import appoint_command, dismiss_command
from service.commands.ra_request_options import (
    in_file,
    key_path,
    new_passphrase,
    out_dir_option,
    out_file,
    out_option,
    person_options,
    ra_option,
    read_input,
    read_passphrase,
    service_options,
    show_answer,
    told,
    write_output,
)
from service.commands.shared import json_option, print_json, print_table

#: Which options belong to which kind, beside --ra, --id and --authority; the first list is needed.
_TAKES: Final = {
    "issue": (("profile", "csr"), ("holder", "region", "customer")),
    "renew": (("serial",), ("csr",)),
    "change": (("serial", "csr"), ()),
    "reissue": (("serial", "csr", "ground"), ()),
    "suspend": (("serial",), ("ground",)),
    "resume": (("serial",), ()),
    "revoke": (("serial", "reason"), ("invalidity_at",)),
    "unlock": (("serial",), ()),
    "recover": (("serial", "reference"), ("recipient",)),
    "recover_judicial": (("serial", "reference", "recipient_certificate"), ()),
}


@click.group()
def request() -> None:
    """Requests of a registration authority: make, sign, send, approve, reject, look.

    A request is signed by one person (then another approves it) or by two. Its id makes it one: sending it again is
    safe, and answers as the first time. Exit status 75: the same command again may do; 1: something has to be put
    right.
    """


@request.command()
@told
@click.option("--subject", required=True, help="C=CN,ST=…,O=…,CN=…; a comma within a value as \\,")
@click.option("--out-key", type=out_file, required=True, help="The new private key, PKCS#8 PEM, mode 0600.")
@click.option("--out-csr", type=out_file, required=True, help="The request (PKCS#10), PEM.")
@click.option("--passphrase-file", type=key_path, help="Passphrase for the key.  [default: asked for]")
def csr(subject: str, out_key: Path, out_csr: Path, passphrase_file: Path | None) -> None:
    """Make an SM2 key and a certificate request for a holder, an operator or an approver.

    For keys that live in software. A key in a token is made there, and so is its request.
    """
    secret = new_passphrase(passphrase_file)
    with SoftwareKey.generate() as key:
        made = make_csr(key, _subject(subject))
        write_output(key.to_pem(secret), out_key, secret=True)
    write_output(csr_pem(made), out_csr)


def _subject(text: str) -> dict[str, str | list[str]]:
    """Labels and values of a subject as it is written on the command line. Raises Unfit."""
    fields: dict[str, str | list[str]] = {}
    for part in text.replace("\\,", "\0").split(","):
        label, equals, value = part.partition("=")
        if not equals:
            raise Unfit("a subject is written C=CN,O=…,CN=…", code="subject_field", field="subject")
        values = fields.setdefault(label.strip().upper(), [])
        assert isinstance(values, list)
        values.append(value.replace("\0", ",").strip())
    return fields


@request.command()
@told
@click.argument("kind", type=click.Choice(KINDS))
@ra_option
@click.option("--id", "request_id", help="The request's id, one of your own.  [default: a new random one]")
@click.option("--authority", metavar="ID", help="The issuing authority, where there are several.")
@click.option("--serial", help="The certificate, either of its pair; hexadecimal.")
@click.option("--profile", help="issue: the profile's name.")
@click.option("--csr", type=in_file, help="issue, renew, change, reissue: PKCS#10, PEM or DER.")
@click.option(
    "--holder", type=in_file, help='issue: JSON {"kind", "number", "name"?, "phone"?, "address"?}; - for stdin.'
)
@click.option("--region", help="issue: administrative division, 2 to 6 digits.")
@click.option("--customer", help="issue: the customer, where the RA's scope names some.")
@click.option("--ground", type=click.Choice(GROUNDS), help="reissue, suspend: why.")
@click.option("--reason", type=click.Choice(list(dict.fromkeys((*GROUNDS, *REASONS)))), help="revoke: why.")
@click.option("--invalidity-at", help="revoke: since when the key is lost, RFC 3339.")
@click.option("--reference", help="recover: the case's or order's number.")
@click.option("--recipient", help="recover: another valid certificate of the same holder, by serial.")
@click.option("--recipient-certificate", type=key_path, help="recover_judicial: whose key the order names.")
@out_option
def make(kind: str, ra: str, request_id: str | None, authority: str | None, out: Path | None, **given: Any) -> None:
    """Make a request of KIND, to be signed: its content octets, JSON.

    What the service would refuse for its form is refused here: a holder's number with a wrong check digit, a
    certificate request whose signature does not verify, an option that is missing.
    """
    needed, possible = _TAKES[kind]
    options = {name: value for name, value in given.items() if value is not None}
    for name in needed:
        if name not in options:
            raise Unfit(f"{kind} needs --{name.replace('_', '-')}", code="option", field=name)
    for name in options:
        if name not in (*needed, *possible):
            raise Unfit(f"--{name.replace('_', '-')} is not for {kind}", code="option", field=name)
    made = _made(Maker(ra, authority=authority), kind, options, request_id)
    write_output(made.content(), out, secret=True)


def _made(maker: Maker, kind: str, options: dict[str, Any], request_id: str | None) -> Request:
    arguments: dict[str, Any] = {**options, "request_id": request_id}
    if "csr" in arguments:
        arguments["csr"] = read_input(arguments["csr"])
    if "holder" in arguments:
        arguments["holder"] = _holder(arguments["holder"])
    if "invalidity_at" in arguments:
        arguments["invalidity_at"] = _time(arguments["invalidity_at"])
    if "recipient_certificate" in arguments:
        (encoded, *_) = read_certificates(arguments.pop("recipient_certificate").read_bytes())
        arguments["recipient_key"] = CertificateView.parse(encoded).public_key
    made: Request = getattr(maker, kind)(**arguments)
    return made


def _holder(path: Path) -> Holder:
    """The holder in a file; nothing of what is in it is repeated. Raises Unfit."""
    try:
        members = json.loads(read_input(path))
        return Holder(**{name: members[name] for name in members})
    except (ValueError, TypeError) as error:
        raise Unfit(
            'a holder is JSON: {"kind", "number", "name"?, "phone"?, "address"?}', code="holder", field="holder"
        ) from error


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise Unfit("a time is written 2026-11-20T06:00:00Z", code="invalidity_at", field="invalidity_at") from error


@request.command(name="sign")
@told
@click.argument("file", type=in_file)
@person_options
@click.option("--out", type=out_file, required=True, help="The signed request, CMS.")
def sign_command(file: Path, person: Person, out: Path) -> None:
    """Sign the request in FILE (- for standard input), as `make` wrote it; or add a second person's signature.

    A FILE that is signed already gets the second signature beside the first one, which is verified before; a second
    one by the same key is refused. Read what you sign: `content` shows it. The signing time is in the signature, and
    the service takes it for some minutes only: send it soon.
    """
    data, now = read_input(file), datetime.now(UTC)
    if data.startswith(b"\x30"):
        write_output(add_signature(data, person, now), out)
    else:
        name_of(data)
        write_output(sign(data, person, now), out)


@request.command()
@told
@click.argument("file", type=in_file)
@service_options
@out_dir_option
@json_option
def send(file: Path, client: Client, out_dir: Path | None, as_json: bool) -> None:
    """Send the signed request in FILE. With one signature it is entered, with two it is done."""
    show_answer(client.send(read_input(file)), out_dir, as_json)


@request.command()
@told
@click.argument("request_id", metavar="ID")
@ra_option
@person_options
@service_options
@out_dir_option
@click.option("--yes", is_flag=True, help="Do not ask. For what looked at the content itself.")
@json_option
def approve(
    request_id: str, ra: str, person: Person, client: Client, out_dir: Path | None, yes: bool, as_json: bool
) -> None:
    """Approve the request ID that another person entered: shows it, asks, signs the same octets, sends."""

    def look(content: bytes) -> bool:
        if yes:
            return True
        click.echo(_readable(content), err=True)
        if not sys.stdin.isatty():
            raise Unfit("there is no terminal to ask at: look at the content, then say --yes", code="not_approved")
        return click.confirm("Approve?", err=True)

    show_answer(client.approve(ra, request_id, person, look=look), out_dir, as_json)


@request.command()
@told
@click.argument("request_id", metavar="ID")
@ra_option
@click.option("--reason", required=True, help="Why; it is kept and told to who entered it.")
@person_options
@service_options
@json_option
def reject(request_id: str, ra: str, reason: str, person: Person, client: Client, as_json: bool) -> None:
    """Reject the request ID that another person entered."""
    show_answer(client.reject(ra, request_id, person, reason), None, as_json)


@request.command()
@told
@click.argument("request_id", metavar="ID")
@ra_option
@click.option("--wait", type=click.IntRange(1, 86_400), metavar="SECONDS", help="Until it is decided, at most so long.")
@service_options
@out_dir_option
@json_option
def show(request_id: str, ra: str, wait: int | None, client: Client, out_dir: Path | None, as_json: bool) -> None:
    """Show where the request ID stands, and what came of it."""
    answer = client.show(ra, request_id) if wait is None else client.wait(ra, request_id, timeout_s=wait)
    show_answer(answer, out_dir, as_json)


@request.command(name="list")
@told
@ra_option
@click.option("--state", type=click.Choice(["entered", "done", "rejected"]), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True)
@service_options
@json_option
def list_command(ra: str, state: str | None, limit: int, client: Client, as_json: bool) -> None:
    """List the RA's requests."""
    found = []
    for answer in client.list(ra, state=state):
        found.append(answer)
        if len(found) == limit:
            break
    if as_json:
        print_json({"requests": [dict(answer.members) for answer in found]})
        return
    rows = [
        (one.request_id, one.kind, one.state, one.entered_by, one.members.get("entered_at"), one.decided_by)
        for one in found
    ]
    print_table(("id", "kind", "state", "entered by", "entered at", "decided by"), rows, empty="There are none.")


@request.command()
@told
@click.argument("request_id", metavar="ID")
@ra_option
@service_options
def content(request_id: str, ra: str, client: Client) -> None:
    """Print the octets that were signed of the request ID, as they came: what an approver signs, too."""
    write_output(client.content(ra, request_id), None)


@request.command()
@told
@click.argument("request_id", metavar="ID")
@ra_option
@click.option("--out-dir", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where it is written.")
@service_options
def evidence(request_id: str, ra: str, out_dir: Path, client: Client) -> None:
    """Fetch every message that was signed for the request ID, and verify its signatures: what a dispute turns on."""
    out_dir.mkdir(parents=True, exist_ok=True)
    for number, (step, message) in enumerate(client.evidence(ra, request_id), 1):
        parse(message).verify()
        path = out_dir / f"{number}-{step}.p7"
        write_output(message, path)
        click.echo(f"wrote {path}")


@request.command()
@told
@click.argument("file", type=in_file)
def read(file: Path) -> None:
    """Show what a signed request in FILE says, and who signed it; its signatures are verified first.

    Whether the certificates are valid, unrevoked and in role is for the service to say.
    """
    message = parse(read_input(file))
    message.verify()
    for signer in message.signers:
        serial = "" if signer.certificate is None else signer.certificate.serial_hex
        click.echo(f"signed by certificate {serial} at {signer.signed_at}", err=True)
    click.echo(_readable(message.content))


def _readable(octets: bytes) -> str:
    name_of(octets)
    return json.dumps(json.loads(octets), ensure_ascii=False, indent=2)


@request.command(name="open-key")
@told
@click.argument("file", type=in_file)
@click.option("--key", type=key_path, required=True, help="The holder's signing key; PKCS#8, PEM.")
@click.option("--passphrase-file", type=key_path, help="Its passphrase, and the new key's.  [default: asked for]")
@click.option("--out", type=out_file, required=True, help="The encryption key, PKCS#8 PEM, mode 0600.")
def open_key(file: Path, key: Path, passphrase_file: Path | None, out: Path) -> None:
    """Open the SM2EnvelopedKey in FILE (enc-key.der) with the holder's signing key, where that is a file.

    With a key in a token the token imports the envelope itself, and the encryption key never leaves it.
    """
    secret = read_passphrase(key, passphrase_file)
    with (
        SoftwareKey.from_pem(key.read_bytes(), secret) as signing,
        open_enveloped_key(read_input(file), signing) as opened,
    ):
        write_output(opened.to_pem(secret), out, secret=True)


request.add_command(appoint_command)
request.add_command(dismiss_command)
