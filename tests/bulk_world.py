"""Files of requests for bulk issuance, made in native batches, with holders whose numbers have the right form."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.asn1 import der
from core.asn1 import x509 as codec
from core.asn1.plain_names import encode_plain
from core.ports import BatchSigner
from signer._native import sm2
from signer.engine.keystore import KeyStore
from signer.holders.numbers import credit_check_character, identity_check_digit
from signer.issuance.bulk import BulkIssuer, Progress, Wish
from signer.issuance.desk import Desk

_AT_ONCE = 1_000
_SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢"


def credit_code(number: int) -> str:
    """The unified social credit code of an organisation by number."""
    first = f"91440{number % 10}00MA{number:07d}"
    return first + credit_check_character(first)


def identity_number(number: int) -> str:
    """The identity number of a person by number."""
    day = number // 1_000 % 28 + 1
    month = number // 28_000 % 12 + 1
    year = 1950 + number // 336_000 % 50
    first = f"{440100 + number // 16_800_000:06d}{year:04d}{month:02d}{day:02d}{number % 1_000:03d}"
    return first + identity_check_digit(first)


def holder(number: int) -> tuple[str, dict[str, str], dict[str, list[str]]]:
    """Profile, holder and subject fields of a holder by number: organisations and persons in turn."""
    chosen = random.Random(number)
    name = chosen.choice(_SURNAMES) + "".join(chosen.choice(_SURNAMES) for _ in range(chosen.randint(1, 2)))
    where = {"C": ["CN"], "ST": ["广东省"], "L": [chosen.choice(["广州市", "深圳市", "佛山市"])]}
    if number % 2:
        code = credit_code(number)
        fields = {**where, "O": [f"粤{name}科技有限公司{number}"], "CN": [f"粤{name}科技有限公司{number}"]}
        return "organisation", {"kind": "organisation", "number": code, "name": fields["O"][0]}, fields
    person = {"kind": "person", "number": identity_number(number), "name": name, "phone": f"138{number % 10**8:08d}"}
    return "person", person, {**where, "CN": [name], "SERIALNUMBER": [f"P{number}"]}


def signed(fields: Sequence[dict[str, list[str]]], keys: Sequence[sm2.PrivateKey]) -> list[bytes]:
    """PKCS#10 requests, DER."""
    infos = [
        der.sequence(
            der.integer(0),
            encode_plain(one),
            codec.subject_public_key_info(key.public_key.to_bytes()),
            der.tlv(der.context(0)),
        )
        for one, key in zip(fields, keys, strict=True)
    ]
    raw = sm2.sign_many(keys, sm2.digest_many([key.public_key for key in keys], infos))
    return [
        codec.join_signed(info, sm2.signature_to_der(raw[at : at + 64]))
        for info, at in zip(infos, range(0, len(raw), 64), strict=True)
    ]


def people(first: int, count: int) -> Iterator[tuple[bytes, sm2.PrivateKey]]:
    """Requests as JSON, as POST /v1/certificates takes them, for the holders from number `first` on; and their keys."""
    for begin in range(first, first + count, _AT_ONCE):
        numbers = range(begin, min(begin + _AT_ONCE, first + count))
        named = [holder(number) for number in numbers]
        keys = sm2.generate_many(len(named))
        requests = signed([fields for _, _, fields in named], keys)
        for (profile, claim, _), csr, key in zip(named, requests, keys, strict=True):
            body = {"profile": profile, "holder": claim, "csr": base64.b64encode(csr).decode()}
            yield json.dumps(body, ensure_ascii=False).encode(), key


def bodies(first: int, count: int) -> Iterator[bytes]:
    """The requests of `people`."""
    return (body for body, _ in people(first, count))


def write_requests(path: Path, count: int, *, first: int = 1, then: Sequence[bytes] = ()) -> Path:
    """A file of requests of `count` holders from number `first` on, then the lines `then`."""
    with path.open("wb") as file:
        for body in bodies(first, count):
            file.write(body + b"\n")
        file.writelines(line + b"\n" for line in then)
    return path


class LocalBatchSigner:
    """A `core.ports.BatchSigner` over a private key at hand."""

    def __init__(self, key: sm2.PrivateKey) -> None:
        self._key = key

    @property
    def public_key(self) -> bytes:
        """The uncompressed point."""
        return self._key.public_key.to_bytes()

    def sign_now(self, messages: list[bytes]) -> bytes | None:
        """At once."""
        return sm2.sign_many(self._key, sm2.digest_many(self._key.public_key, messages))

    async def sign_many(self, messages: list[bytes]) -> bytes:
        """At once."""
        return sm2.sign_many(self._key, sm2.digest_many(self._key.public_key, messages))


def batch_signers(keystore: KeyStore) -> Callable[[str], BatchSigner]:
    """Signers for `Desk.bulk` over the key files."""
    return lambda key_id: LocalBatchSigner(keystore.load(key_id))


async def run_bulk(desk: Desk, keystore: KeyStore, requests: Path, output: Path, **wish: Any) -> Progress:
    """A run of `qianyan bulk issue` in this process."""
    asked = Wish(requests, output, "cli:test", **wish)
    return await BulkIssuer(desk.bulk(batch_signers(keystore)), asked, lambda _: None).run()
