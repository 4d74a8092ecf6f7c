"""The report's style sheet: one column on a phone, two on a desktop, light and dark."""

from __future__ import annotations

from typing import Final

CSS: Final = """
:root{--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;--back:#fff;--card:#f6f8fa;--good:#1a7f37;--bad:#b3261e;--warn:#8a5a00;
--c0:#0b63c5;--c1:#c2410c;--c2:#16803c;--c3:#8b31c7;--c4:#0e7f8c;--c5:#b0256b;--c6:#6b6f00;--c7:#5f6b7a}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa4af;--line:#333b45;--back:#0f141a;--card:#171d25;
--good:#4cc26a;--bad:#ff7b72;--warn:#e3b341;--c0:#6cb2ff;--c1:#ff9a5c;--c2:#5fd07f;--c3:#cf9bff;--c4:#5ccfdc;--c5:#ff8cc0;
--c6:#d0d45a;--c7:#aab4c0}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:20px 16px 48px;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,"Noto Sans CJK SC","Droid Sans Fallback",sans-serif}
h1{font-size:24px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:18px;margin:32px 0 10px}
.sub{color:var(--soft);margin:0 0 16px}
.verdict{display:inline-block;padding:3px 12px;border-radius:14px;font-weight:600;color:#fff;background:var(--good)}
.verdict.bad{background:var(--bad)}
@media(prefers-color-scheme:dark){.verdict{color:#0f141a}}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(125px,1fr));gap:10px;margin:16px 0}
.cards div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px}
.cards b{display:block;font-size:22px;white-space:nowrap;
font-variant-numeric:tabular-nums;line-height:1.25}.cards span{color:var(--soft)}
@media(max-width:480px){.cards div:last-child:nth-child(odd){grid-column:1/-1}}
.warn,.wrong{border-left:4px solid var(--warn);background:var(--card);padding:8px 12px;margin:8px 0;
overflow-wrap:anywhere}
.wrong{border-color:var(--bad)}
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:6px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
tr:last-child>*{border-bottom:0}th:first-child,td:first-child{text-align:left}
thead th{color:var(--soft);font-weight:500;background:var(--card)}
.wide td:first-child,.wide th:first-child{position:sticky;left:0;background:var(--back)}
.wide thead th:first-child,.wide .whole>:first-child{background:var(--card)}
.facts td{white-space:normal;text-align:left;overflow-wrap:anywhere}
.facts th{color:var(--soft);font-weight:500;width:34%;white-space:normal}
.whole>*{font-weight:600;background:var(--card)}
.met{color:var(--good)}.missed{color:var(--bad);font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:18px}
figure{margin:0;border:1px solid var(--line);border-radius:8px;padding:12px 14px;min-width:0}
figcaption{font-weight:600;margin-bottom:8px}figcaption small{color:var(--soft);font-weight:400}
.plot{position:relative;height:200px;margin:6px 12px 24px 46px}
.plot svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.grid line{stroke:var(--line);stroke-width:1;vector-effect:non-scaling-stroke}
polyline{fill:none;stroke-width:1.8;vector-effect:non-scaling-stroke;stroke-linejoin:round}
.ys span{position:absolute;right:calc(100% + 8px);transform:translateY(50%);font-size:12px;color:var(--soft)}
.xs span,.xs b{position:absolute;top:calc(100% + 4px);transform:translateX(-50%);font-size:12px;color:var(--soft)}
.xs b{left:auto;right:-12px;top:calc(100% + 4px);transform:none;font-weight:400;background:var(--back);padding-left:6px}
.keys{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:2px 14px;font-size:13px}
.keys li::before{content:"";display:inline-block;width:14px;height:3px;margin-right:6px;vertical-align:middle;
background:currentColor}
figure p{margin:6px 0 0;color:var(--soft);font-size:13px}
""" + "".join(f".s{n}{{stroke:var(--c{n})}}.k{n}::before{{color:var(--c{n})}}" for n in range(8))
