"""A verification report as PDF, with the signed record attached.

Knows fonts as files and fpdf2; not settings. Chinese needs a font that has it: none is shipped, because Debian has good
ones. Imported only where a PDF is made: fpdf2 takes longer to load than the rest of the command.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fpdf import FPDF, FPDFException
from fpdf.enums import WrapMode, XPos, YPos

from core.errors import SettingsError
from signer.signing.report import Checked
from signer.signing.report_view import TITLE, Section, sections

#: Sets of fonts that together have Latin and Chinese, the first that is there: fonts-dejavu-core with
#: fonts-droid-fallback, fonts-wqy-microhei, fonts-wqy-zenhei.
_DEBIAN: Final = (
    ("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf"),
    ("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",),
    ("/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",),
)
_LABEL_MM: Final = 58
_LINE_MM: Final = 5
_ATTACHED: Final = "report.json"
#: A letter that the fonts must have: without it every title would be boxes.
_MUST_HAVE: Final = "签"


def find_fonts(named: Sequence[Path]) -> list[Path]:
    """The fonts named, else Debian's. Raises SettingsError saying what to install or set."""
    if named:
        missing = [path for path in named if not path.is_file()]
        if missing:
            raise SettingsError(f"there is no font file {missing[0]}", code="report_font")
        return list(named)
    for fonts in _DEBIAN:
        if all(Path(font).is_file() for font in fonts):
            return [Path(font) for font in fonts]
    raise SettingsError(
        "no font with Chinese characters is installed: apt install fonts-dejavu-core fonts-droid-fallback, or name "
        "TrueType files with --font or the setting verification.report.fonts",
        code="report_font",
    )


def render(checked: Checked, record: bytes, fonts: Sequence[Path]) -> bytes:
    """The document. Raises SettingsError where a font cannot be used."""
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it tells of every table that it leaves out
    pdf = FPDF(format="A4")
    pdf.set_creation_date(datetime.fromtimestamp(checked.created_at_ms / 1000, UTC))
    pdf.set_title(TITLE)
    pdf.set_creator("qianyan")
    pdf.set_auto_page_break(True, margin=15)
    _use_fonts(pdf, fonts)
    pdf.add_page()
    pdf.set_font("font0", size=15)
    pdf.multi_cell(0, 9, TITLE, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    for section in sections(checked, record):
        _write(pdf, section)
    pdf.embed_file(bytes=record, basename=_ATTACHED, mime_type="application/json")
    return bytes(pdf.output())


def _use_fonts(pdf: FPDF, fonts: Sequence[Path]) -> None:
    try:
        for number, path in enumerate(fonts):
            pdf.add_font(f"font{number}", fname=path)
    except (FPDFException, OSError, ValueError, KeyError, AssertionError) as error:
        raise SettingsError(f"the font {path} cannot be used: {error}", code="report_font") from error
    if not any(ord(_MUST_HAVE) in font.cmap for font in pdf.fonts.values()):  # type: ignore[union-attr]
        raise SettingsError("none of the fonts has Chinese characters", code="report_font")
    if len(fonts) > 1:
        pdf.set_fallback_fonts([f"font{number}" for number in range(1, len(fonts))], exact_match=False)


def _write(pdf: FPDF, section: Section) -> None:
    pdf.ln(3)
    if pdf.will_page_break(_LINE_MM * 4):
        pdf.add_page()
    pdf.set_font("font0", size=11)
    if section.good is not None:
        pdf.set_text_color(*((26, 127, 55) if section.good else (180, 35, 24)))
    pdf.multi_cell(0, 7, section.title, border="B", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    pdf.set_text_color(0)
    pdf.set_font("font0", size=8)
    for label, value in section.rows:
        if pdf.will_page_break(_LINE_MM * 2):
            pdf.add_page()
        top = pdf.get_y()
        pdf.set_text_color(90)
        pdf.multi_cell(_LABEL_MM, _LINE_MM, label, new_x=XPos.RIGHT, new_y=YPos.TOP)
        below, page = top + _LINE_MM * max(1, _lines(pdf, _LABEL_MM, label)), pdf.page
        pdf.set_text_color(0)
        pdf.set_xy(pdf.l_margin + _LABEL_MM, top)
        pdf.multi_cell(0, _LINE_MM, value, wrapmode=WrapMode.CHAR, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        if pdf.page == page and pdf.get_y() < below:
            pdf.set_y(below)


def _lines(pdf: FPDF, width_mm: float, text: str) -> int:
    found = pdf.multi_cell(width_mm, _LINE_MM, text, dry_run=True, output="LINES")
    return len(found) if isinstance(found, list) else 1
