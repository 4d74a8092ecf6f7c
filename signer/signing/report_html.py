"""A verification report as one HTML page: no script, no style, font or picture from elsewhere. Pure."""

from __future__ import annotations

import base64
from html import escape
from typing import Final

from signer.signing.report import Checked
from signer.signing.report_view import TITLE, Section, sections

_STYLE: Final = """
body{font:15px/1.5 system-ui,"Noto Sans CJK SC","Microsoft YaHei",sans-serif}
body{max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:1.5rem 0 .3rem}
table{border-collapse:collapse;width:100%}
th,td{border:1px solid #bbb;padding:.25rem .5rem;text-align:left;vertical-align:top}
th{width:30%;font-weight:normal;background:#f4f4f4}
td{overflow-wrap:anywhere}
.good{border-left:.4rem solid #1a7f37;padding-left:.5rem}.bad{border-left:.4rem solid #b42318;padding-left:.5rem}
@media print{body{margin:0}section{break-inside:avoid}}
"""


def render(checked: Checked, record: bytes) -> bytes:
    """The page, UTF-8. It carries the record itself, in base64, so that who has the page has the evidence."""
    body = "".join(_section(section) for section in sections(checked, record))
    kept = base64.b64encode(record).decode("ascii")
    page = (
        '<!DOCTYPE html>\n<html lang="zh"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(TITLE)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(TITLE)}</h1>{body}"
        "<details><summary>签名记录（base64） / the signed record (base64)</summary>"
        f'<pre style="white-space:pre-wrap;overflow-wrap:anywhere" id="record">{kept}</pre></details>'
        "</body></html>\n"
    )
    return page.encode("utf-8")


def _section(section: Section) -> str:
    kind = "" if section.good is None else ' class="good"' if section.good else ' class="bad"'
    rows = "".join(f"<tr><th>{escape(label)}</th><td>{escape(value)}</td></tr>" for label, value in section.rows)
    return f"<section><h2{kind}>{escape(section.title)}</h2><table>{rows}</table></section>"
