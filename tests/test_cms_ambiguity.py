"""One signature, two messages: signed attributes shown as content, and content that would do as signed attributes."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core import oids
from core.asn1 import der
from core.clock import system_clock
from signer._native import sm3
from signer.signing.cms import SignedData, is_attributes, parse_signed_data
from tests.cms_site import Site, b64, open_site
from tests.registration_world import Signer, attribute, signer_info

CONTENT = b'{"pay": 1}'


def attributes_of(content: bytes) -> bytes:
    """The SET OF attributes that a signature over `content` is really over."""
    parts = [
        attribute(oids.CONTENT_TYPE, der.oid(oids.GM_DATA)),
        attribute(oids.MESSAGE_DIGEST, der.octet_string(sm3.sm3(content))),
    ]
    return der.tlv(der.SET, *sorted(parts))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as made:
        yield made


async def verified(site: Site, message: bytes) -> Any:
    status, answer = await site.post("/v1/cms/verify", {"cms": b64(message)}, scopes=None)
    assert status == 200, answer
    return answer


async def test_attributes_that_were_signed_are_no_content(site: Site) -> None:
    holder = await site.realm.issue()
    signer = Signer(holder.key, holder.certificate)
    info = signer_info(signer, CONTENT, system_clock())
    honest = SignedData(CONTENT, (info,), (holder.certificate,))
    assert (await verified(site, honest.encode()))["valid"]
    assert info.attributes is not None
    stripped = replace(info, attributes=None, message_digest=None)
    forged = SignedData(der.tlv(der.SET, info.attributes), (stripped,), (holder.certificate,))
    answer = await verified(site, forged.encode())
    assert (answer["valid"], answer["results"][0]["reason"]) == (False, "signature")
    assert "content" not in answer


async def test_nobody_is_made_to_sign_attributes(site: Site) -> None:
    await site.key("k")
    status, answer = await site.post("/v1/cms/sign", {"key": "k", "data": b64(attributes_of(CONTENT))})
    assert (status, answer["code"]) == (422, "cms_ambiguous")


@pytest.mark.parametrize(
    "content",
    [b"", b"1", b"1 is a text that begins with the octet of a SET", der.tlv(der.SET), attributes_of(b"x") + b"\n",
     der.tlv(der.SET, attribute(oids.MESSAGE_DIGEST, der.octet_string(bytes(32)))), b"\x31\x80\x00\x00"],
)  # fmt: skip
async def test_everything_else_is_content(site: Site, content: bytes) -> None:
    assert not is_attributes(content)
    await site.key("k")
    status, answer = await site.post("/v1/cms/sign", {"key": "k", "data": b64(content)})
    assert status == 200, answer
    message = base64.b64decode(answer["cms"])
    assert (await verified(site, message))["valid"]
    assert parse_signed_data(message).content == content
