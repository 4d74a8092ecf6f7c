"""What the status page says, in Chinese and in English, and how it looks. Words only; no numbers and no state."""

from __future__ import annotations

import base64
import hashlib
from typing import Final, Literal

Language = Literal["zh", "en"]

TEXTS: Final[dict[Language, dict[str, str]]] = {
    "zh": {
        "lang": "zh-CN",
        "title": "签验 · 服务状态",
        "all_well": "全部正常",
        "trouble": "有异常",
        "as_of": "截至",
        "checks": "检查",
        "ok": "正常",
        "not_ok": "异常",
        "store": "存储与变更序列",
        "clock": "时钟",
        "authorities": "签发机构",
        "ocsp_signer": "OCSP 签名证书",
        "crl": "吊销列表",
        "hsm": "密码设备",
        "tls": "内部接口证书",
        "ocsp": "OCSP 应答",
        "feed": "变更序列",
        "feed_position": "位置",
        "feed_age": "距上次确认",
        "crls": "证书吊销列表（CRL）",
        "sets": "状态集",
        "number": "编号",
        "age": "已发布",
        "left": "剩余有效期",
        "next_build": "下次签发",
        "entries": "条目",
        "waiting": "有变更等待写入",
        "failing": "上次签发未成功，正在重试",
        "missing": "尚未签发",
        "expired": "已过期，停止提供",
        "due": "即将",
        "in": "{}后",
        "history": "近几小时",
        "plot_age": "最旧 CRL 的时长",
        "plot_left": "CRL 最短剩余有效期",
        "plot_feed": "每分钟变更数",
        "plot_ocsp": "OCSP 自检用时",
        "plot_empty": "尚无数据",
        "plot_says": "{}：最小 {}，最大 {}，现在 {}",
        "least": "最小",
        "most": "最大",
        "now": "现在",
        "span": "横轴：最近 {}",
        "more": "另有 {} 个分区，状态均不差于以上各项。",
        "other": "English",
        "refresh": "每 30 秒刷新",
        "no_refresh": "停止自动刷新",
        "local": "本页由一个工作进程生成；历史数据保存在内存中，重启后重新开始。",
        "day": " 天",
        "hour": " 小时",
        "minute": " 分",
        "second": " 秒",
        "ms": " 毫秒",
    },
    "en": {
        "lang": "en",
        "title": "qianyan · service status",
        "all_well": "All is well",
        "trouble": "Something is wrong",
        "as_of": "As of",
        "checks": "Checks",
        "ok": "well",
        "not_ok": "wrong",
        "store": "Store and change feed",
        "clock": "Clock",
        "authorities": "Authorities",
        "ocsp_signer": "OCSP signer's certificate",
        "crl": "Revocation lists",
        "hsm": "Hardware modules",
        "tls": "Private listener's certificate",
        "ocsp": "OCSP answers",
        "feed": "Change feed",
        "feed_position": "position",
        "feed_age": "confirmed",
        "crls": "Certificate revocation lists (CRL)",
        "sets": "Status sets",
        "number": "Number",
        "age": "Age",
        "left": "Valid for",
        "next_build": "Next build",
        "entries": "Entries",
        "waiting": "a change waits for the next one",
        "failing": "the last build failed and is tried again",
        "missing": "not built yet",
        "expired": "expired; no longer served",
        "due": "now",
        "in": "in {}",
        "history": "The last hours",
        "plot_age": "Age of the oldest CRL",
        "plot_left": "Shortest validity left of a CRL",
        "plot_feed": "Changes a minute",
        "plot_ocsp": "OCSP answer to ourselves",
        "plot_empty": "no data yet",
        "plot_says": "{}: least {}, most {}, now {}",
        "least": "least",
        "most": "most",
        "now": "now",
        "span": "The axis spans {}",
        "more": "and {} partitions more, none of them worse off than these.",
        "other": "中文",
        "refresh": "refresh every 30 s",
        "no_refresh": "stop refreshing",
        "local": "One worker process made this page; its history is in memory and begins anew when it restarts.",
        "day": " d",
        "hour": " h",
        "minute": " min",
        "second": " s",
        "ms": " ms",
    },
}

STYLE: Final = """
:root{color-scheme:light dark;--back:#f6f7f9;--card:#fff;--ink:#1b2430;--soft:#566273;--line:#d5dae1;--good:#0b6b3a;
--bad:#b3261e;--mark:#1f5fbf;--fill:#dfe9f8}
@media(prefers-color-scheme:dark){:root{--back:#12161c;--card:#1b2129;--ink:#e8ecf1;--soft:#a5b0bd;--line:#37414d;
--good:#5fd39a;--bad:#ff8a80;--mark:#8ab4f8;--fill:#223247}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);line-height:1.5;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}
header,main,footer{max-width:66rem;margin:0 auto;padding:0 1rem}
header{padding-top:1.25rem}
h1{font-size:1.35rem;margin:0 0 .75rem}
h2{font-size:1.05rem;margin:1.75rem 0 .6rem}
h3{font-size:1rem;margin:0 0 .35rem;overflow-wrap:anywhere}
a{color:var(--mark)}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;font-size:.9rem;margin-top:.6rem}
nav a{display:inline-block;padding:.35rem 0}
.banner{border:2px solid;border-radius:.6rem;padding:.7rem 1rem;background:var(--card)}
.banner strong{font-size:1.15rem}
.banner time{display:block;color:var(--soft);font-size:.9rem}
.good{color:var(--good)}.bad{color:var(--bad)}
.grid{display:grid;gap:.75rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr));
list-style:none;margin:0;padding:0}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.75rem .9rem;min-width:0}
.card.bad{color:inherit;border-color:var(--bad)}
.checks{gap:.5rem}
.verdict{white-space:nowrap}
.plots{grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr))}
.checks li{display:flex;justify-content:space-between;gap:.75rem;padding:.5rem .9rem}
dl{display:grid;grid-template-columns:auto 1fr;gap:.1rem .75rem;margin:0}
dt{color:var(--soft)}
dd{margin:0;text-align:right;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.note{margin:.4rem 0 0;font-size:.9rem}
figure{margin:0}
figcaption{font-weight:600;font-size:.95rem;margin-bottom:.35rem}
.range{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 .75rem;margin:.3rem 0 0;font-size:.85rem;
color:var(--soft);font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto}
svg.gauge{height:6px;margin-top:.5rem}
.area{fill:var(--fill)}.curve{fill:none;stroke:var(--mark);stroke-width:2;stroke-linejoin:round}
.base{stroke:var(--line)}
.bar{fill:var(--line)}.left{fill:var(--good)}.low{fill:var(--bad)}
footer{color:var(--soft);font-size:.85rem;padding-top:1.5rem;padding-bottom:2rem}
"""

#: Nothing is fetched, run, framed or sent; the one style is named by its hash.
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
