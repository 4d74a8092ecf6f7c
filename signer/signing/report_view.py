"""A verification report as a person reads it: the same sections for HTML and PDF, in Chinese and English.

Pure: a checked record in, titles and rows out. What is not in the record is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from signer.signing.foreign import sm3
from signer.signing.report import Checked

TITLE: Final = "签名验证报告 / Signature verification report"

_REASONS: Final = {
    None: "有效 / valid",
    "malformed": "无效：格式错误 / invalid: malformed",
    "signature": "无效：签名不符 / invalid: the signature does not verify",
    "chain": "无效：证书链不成立 / invalid: no path to a trusted authority",
    "not_yet_valid": "无效：证书尚未生效 / invalid: the certificate was not valid yet",
    "expired": "无效：证书已过期 / invalid: the certificate had expired",
    "key_usage": "无效：密钥用途不符 / invalid: the key is not for signing data",
    "unknown_status": "无效：证书状态未知 / invalid: the certificate's status is unknown",
    "revoked": "无效：证书已撤销 / invalid: the certificate is revoked",
    "suspended": "无效：证书已挂起 / invalid: the certificate is suspended",
}
_ITEM: Final = (
    ("checked", "检查内容 / checked"),
    ("detail", "说明 / detail"),
    ("digest", "摘要 e / digest e"),
    ("data_sm3", "原文 SM3 / SM3 of the data"),
    ("data_octets", "原文字节数 / octets of data"),
    ("user_id", "签名者标识（十六进制） / user id (hex)"),
    ("signature", "签名 / signature"),
    ("public_key", "公钥 / public key"),
    ("at", "判定时间 / judged at"),
    ("checked_at", "状态查询时间 / status looked at"),
    ("revoked_at", "撤销时间 / revoked at"),
    ("revocation_reason", "撤销原因 / reason of revocation"),
    ("certificate", "证书 SM3 / certificate, by SM3"),
    ("path", "证书路径 SM3（末项为信任锚） / path, by SM3 (the last is the anchor)"),
)
_CERTIFICATE: Final = (
    ("subject", "主体 / subject"),
    ("issuer", "颁发者 / issuer"),
    ("serial", "序列号 / serial"),
    ("not_before", "起始 / not before"),
    ("not_after", "截止 / not after"),
)
_STATUS: Final = (
    ("certificate", "证书 SM3 / certificate, by SM3"),
    ("kind", "依据 / by"),
    ("source", "来源 / source"),
    ("this_update", "本次更新 / this update"),
    ("next_update", "下次更新 / next update"),
    ("produced_at", "生成时间 / produced at"),
    ("crl_number", "CRL 编号 / CRL number"),
    ("sm3", "SM3 / SM3"),
)


@dataclass(frozen=True, slots=True)
class Section:
    """`good`: the result it tells, where it tells one."""

    title: str
    rows: tuple[tuple[str, str], ...]
    good: bool | None = None


def sections(checked: Checked, record: bytes) -> list[Section]:
    """The report: what it is, each item, each certificate, what the statuses rest on, who signed."""
    report = checked.report
    summary = report["summary"]
    out = [
        Section(
            "概要 / Summary",
            (
                ("编号 / id", report["id"]),
                ("时间 / made at", report["created_at"]),
                ("服务 / service", f"{report['service']['name']} {report['service']['version']}"),
                ("业务引用 / reference", _text(report["reference"])),
                ("结果 / result", f"{summary['valid']} / {summary['items']} 有效 / valid"),
            ),
            summary["valid"] == summary["items"],
        )
    ]
    for item in report["items"]:
        rows = (("结果 / result", _REASONS[item["reason"]]), *_rows(item, _ITEM))
        out.append(Section(f"签名 {item['index'] + 1} / Signature {item['index'] + 1}", rows, item["valid"]))
    for name, certificate in report["certificates"].items():
        out.append(Section("证书 / Certificate", (("SM3", name), *_rows(certificate, _CERTIFICATE))))
    for entry in report["statuses"]:
        out.append(Section("状态依据 / Evidence of status", _rows(entry, _STATUS)))
    signer = checked.signer
    out.append(
        Section(
            "报告签名 / Signature of this report",
            (
                ("签名者 / signer", signer.text_of(signer.subject)),
                ("签名证书 SM3 / its certificate, by SM3", report["signer"]["certificate"]),
                ("算法 / algorithm", "SM2 + SM3 (GB/T 32918.2)"),
                ("记录 SM3 / record, by SM3", sm3(record).hex()),
                ("核验 / to check", "qianyan report verify FILE --anchors FILE"),
            ),
        )
    )
    return out


def _rows(value: dict[str, Any], names: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((label, _text(value[name])) for name, label in names if value.get(name) not in (None, []))


def _text(value: Any) -> str:
    if value is None:
        return "—"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
