"""`qianyan report`: check verification reports off line, and make them readable.

Needs neither a running service nor a settings file. Exit status: 0 intact, and the signer leads to an anchor; 3 it was
changed, is no report, or its signer leads to none; 4 intact, but no anchor was given to judge its signer by.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from core.errors import Malformed, QianyanError, Refused
from service.commands.shared import json_option, print_json
from service.files import write_new
from service.settings import DEFAULT_FILE, load
from signer.signing import report_html
from signer.signing.report import RECORD_MAX_BYTES, Checked, check
from signer.signing.trust import read_certificates

_FOUND, _UNJUDGED = 3, 4
_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def report() -> None:
    """Signed reports of what was verified (POST /v1/reports)."""


@report.command()
@click.argument("file", metavar="FILE", type=_file)
@click.option(
    "--anchors",
    multiple=True,
    metavar="FILE",
    type=click.Path(exists=True, path_type=Path),
    help="PEM or DER file, or directory, of authorities by which the report's signer is judged; may be repeated.",
)
@json_option
def verify(file: Path, anchors: tuple[Path, ...], as_json: bool) -> None:
    """Check the report FILE: that no byte was changed, and whose signature it bears.

    Exits 0 where it is intact and its signer leads to one of the anchors, 3 where not, 4 where it is intact and no
    anchors were given. Whether the signer's certificate was revoked is not to be had off line.
    """
    trusted = [parsed for where in anchors for parsed in read_certificates(where, "an anchor")]
    value: dict[str, Any] = {"intact": False, "trusted": None, "detail": None}
    try:
        checked = check(_read(file))
        value |= {"intact": True, **_told(checked)}
        if trusted:
            checked.judge_signer(trusted)
            value["trusted"] = True
    except (Malformed, Refused) as error:
        value["detail"] = error.detail
        value["trusted"] = False
    status = _FOUND if value["trusted"] is False else 0 if value["trusted"] else _UNJUDGED
    if as_json:
        print_json(value)
    elif status == _FOUND:
        click.echo(f"NOT TO BE RELIED ON: {value['detail']}", err=True)
    else:
        click.echo(_summary(value))
    if status == _UNJUDGED and not as_json:
        click.echo("its signer was not judged: name whom you trust with --anchors", err=True)
    sys.exit(status)


def _told(checked: Checked) -> dict[str, Any]:
    summary = checked.report["summary"]
    signer = checked.signer
    return {
        "id": checked.report["id"],
        "created_at": checked.report["created_at"],
        "reference": checked.report["reference"],
        "items": summary["items"],
        "valid": summary["valid"],
        "signer": signer.text_of(signer.subject),
        "signer_certificate_sm3": checked.report["signer"]["certificate"],
    }


def _summary(value: dict[str, Any]) -> str:
    found = f"{value['valid']} of {value['items']} signatures valid"
    return f"intact: report {value['id']} of {value['created_at']}, {found}, signed by {value['signer']}"


def _read(file: Path) -> bytes:
    with file.open("rb") as stream:
        content = stream.read(RECORD_MAX_BYTES + 1)
    if len(content) > RECORD_MAX_BYTES:
        raise Malformed(f"{file} is longer than any report", code="report_format")
    return content


@report.command()
@click.argument("file", metavar="FILE", type=_file)
@click.option("--html", "html_out", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path), help="HTML page.")
@click.option("--pdf", "pdf_out", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path), help="PDF document.")
@click.option(
    "--font",
    "fonts",
    multiple=True,
    type=_file,
    help="TrueType file for the PDF; may be repeated.  [default: setting verification.report.fonts, else Debian's "
    "fonts-dejavu-core with fonts-droid-fallback, else fonts-wqy-microhei or fonts-wqy-zenhei]",
)
@click.option("--config", "config_file", metavar="FILE", help="Settings file, for the fonts.")
def render(
    file: Path, html_out: Path | None, pdf_out: Path | None, fonts: tuple[Path, ...], config_file: str | None
) -> None:
    """Write the report FILE as an HTML page or a PDF, in Chinese and English, the signed record inside.

    A report that was changed is not rendered. Nothing is replaced: OUT must be new.
    """
    if html_out is None and pdf_out is None:
        raise click.UsageError("name at least one of --html and --pdf")
    record = _read(file)
    try:
        checked = check(record)
    except QianyanError as error:
        click.echo(f"NOT TO BE RELIED ON: {error.detail}", err=True)
        sys.exit(_FOUND)
    if html_out is not None:
        _write(html_out, report_html.render(checked, record))
    if pdf_out is not None:
        # Not at the top: fpdf2 takes longer to load than all else that a command needs.
        from signer.signing import report_pdf

        named = list(fonts) or _configured_fonts(config_file)
        _write(pdf_out, report_pdf.render(checked, record, report_pdf.find_fonts(named)))


def _write(out: Path, content: bytes) -> None:
    try:
        write_new(out, content)
    except FileExistsError as error:
        raise Refused(f"{out} is there already: name another", code="file_exists") from error
    except OSError as error:
        raise Refused(f"{out} cannot be written: {error.strerror}", code="file") from error


def _configured_fonts(config_file: str | None) -> list[Path]:
    """The setting's fonts, where there is a settings file."""
    if config_file is None and not Path(DEFAULT_FILE).exists():
        return []
    loaded = load(config_file)
    return [loaded.path(name) for name in loaded.settings.verification.report.fonts]
