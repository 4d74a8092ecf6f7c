"""GB/T 38629 on the wire: what is read beside what the samples show, what is written, and bytes that are no request."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import QianyanError
from signer._native import sm2
from signer.signing import svs_codec
from signer.signing.svs_certinfo import certificate_info
from signer.signing.svs_codec import Members, SvsError
from signer.signing.svs_settings import SvsSettings
from tests.cms_site import Site, open_site
from tests.signing_world import Holder

CODE = "Q29kZQ=="
FORM = "application/x-www-form-urlencoded"
#: Base64 with every sign that a form has to escape.
DATA = bytes.fromhex("fbefbefffffe")
PLAIN = f"signMethod=131585&keyIndex=1&keyValue={quote(CODE)}&inDataLen=6&inData=%2B%2B%2B%2B%2F%2F%2F%2B"
REQUEST: dict[str, Any] = {
    "signMethod": "131585", "keyIndex": "1", "keyValue": CODE, "inDataLen": "6", "inData": "++++///+",
}  # fmt: skip


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path, svs=SvsSettings(max_body_bytes=20_000)) as site:
        yield site


@pytest.fixture
async def holder(site: Site) -> Holder:
    return await site.key("k", index=1, code=b"Code")


async def post(site: Site, path: str, body: bytes | str, **headers: str) -> tuple[int, str, dict[str, str]]:
    assert site.client is not None
    data = body.encode("latin-1") if isinstance(body, str) else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with site.client.post(f"/SignServer/{path}", data=data, headers=named) as response:
        return response.status, (await response.read()).decode(), dict(response.headers)


def the_signature(content: str) -> bytes:
    respond = orjson.loads(content)["respond"]
    assert respond["respValue"] == "0"
    return base64.b64decode(respond["signature"])


async def test_what_is_written_is_what_the_samples_show(site: Site, holder: Holder) -> None:
    status, content, headers = await post(site, "SignData", PLAIN, Content_Type=FORM, SVS_Request_Version="v1")
    assert status == 200
    assert headers["Content-Type"] == "application/x-www-form-urlencoded;charset=GB2312"
    value, signature = content.split("&")
    assert value == "respValue=0"
    assert signature.startswith("signature=ME")
    assert not set("+/ ") & set(signature)
    assert headers["SVS-Response-Type"] == "signData"
    status, content, headers = await post(site, "SignData", "a=1", Content_Type=FORM)
    assert (status, content) == (200, "respValue=67108877")
    body = orjson.dumps({"version": "v1", "reqType": "signData", "request": {**REQUEST, "signMethod": "7"}})
    _, content, headers = await post(site, "SignData", body, Content_Type="application/json")
    assert headers["Content-Type"] == "application/json"
    assert list(orjson.loads(content)) == ["version", "reqType", "respond", "reqTime"]
    assert orjson.loads(content)["respond"] == {"respValue": "67108868"}


@pytest.mark.parametrize(
    "body",
    [
        PLAIN,
        PLAIN.replace("%2B", "+").replace("%2F", "/"),  # '+' sent as it is: arrives as a blank
        PLAIN.replace("inDataLen=6", "inDataLen=8"),  # the length of the base64
        PLAIN.replace("inDataLen=6&", ""),
        PLAIN.replace("inDataLen=6", "inDataLen="),
        PLAIN.replace("signMethod", "SignMethod").replace("keyIndex", "KEYINDEX"),
        PLAIN.replace("131585", "0x00020201"),
        PLAIN + "&unknown=%C4%E3%BA%C3",
        PLAIN.replace("keyValue=" + quote(CODE), "keyValue=Code"),
    ],
)
async def test_forms_that_are_read(site: Site, holder: Holder, body: str) -> None:
    status, content, _ = await post(site, "SignData", body, Content_Type=FORM)
    assert (status, content[:22]) == (200, "respValue=0&signature=")
    (_, encoded) = content.split("&signature=")
    signature = base64.b64decode(encoded.replace("%2B", "+").replace("%2F", "/").replace("%3D", "="))
    holder.key.public_key.verify(DATA, sm2.signature_from_der(signature))


@pytest.mark.parametrize(
    ("path", "change", "request_change"),
    [
        ("SignData", {}, {}),
        ("signData", {}, {}),
        ("SignData", {"reqType": "SignData"}, {}),
        ("SignData", {"version": "V1"}, {}),
        ("SignData", {"version": 0}, {}),
        ("SignData", {"reqTime": "20131001120000Z+0800"}, {}),
        ("SignData", {"reqTime": "201310011200+0800"}, {}),
        ("SignData", {"reqTime": "20131001120000.123Z"}, {}),
        ("SignData", {"extra": 1}, {}),
        ("SignData", {}, {"signMethod": 131585, "keyIndex": 1, "inDataLen": 6}),
        ("SignData", {}, {"inData": "++++\r\n///+", "inDataLen": 10}),
    ],
)
async def test_envelopes_that_are_read(
    site: Site, holder: Holder, path: str, change: dict[str, Any], request_change: dict[str, Any]
) -> None:
    envelope = {"version": "v1", "reqType": "signData", "request": {**REQUEST, **request_change}, **change}
    for headers in ({"Content_Type": "application/json;charset=utf-8"}, {"Content_Type": "text/plain"}):
        status, content, _ = await post(site, path, orjson.dumps(envelope), **headers)
        assert status == 200
        holder.key.public_key.verify(DATA, sm2.signature_from_der(the_signature(content)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        orjson.dumps({"request": []}),
        orjson.dumps({"version": "v2", "request": REQUEST}),
        orjson.dumps({"reqType": "verifySignedData", "request": REQUEST}),
        orjson.dumps({"reqType": 3, "request": REQUEST}),
        orjson.dumps({"reqTime": "yesterday", "request": REQUEST}),
        orjson.dumps({"reqTime": 5, "request": REQUEST}),
        orjson.dumps({"request": {**REQUEST, "KEYINDEX": "1"}}),
        orjson.dumps({"request": {**REQUEST, "keyIndex": True}}),
        orjson.dumps({"request": {**REQUEST, "keyIndex": 1 << 33}}),
        orjson.dumps({"request": {**REQUEST, "keyIndex": [1]}}),
        orjson.dumps({"request": {**REQUEST, "inData": {"a": 1}}}),
        orjson.dumps({"request": {f"m{n}": 1 for n in range(70)}}),
    ],
)
async def test_envelopes_that_are_not(site: Site, holder: Holder, body: bytes) -> None:
    status, content, _ = await post(site, "SignData", body, Content_Type="application/json")
    assert (status, orjson.loads(content)["respond"]) == (200, {"respValue": str(0x0400000D)})


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ("", {}),
        ("&&&", {}),
        (PLAIN + "&inData=AAAA", {}),
        (PLAIN + "\xe4\xbd", {}),
        ("&".join(["a=1"] * 100), {}),
        (PLAIN, {"SVS_Request_Version": "v9"}),
        (PLAIN, {"SVS_Request_Time": "noon"}),
    ],
)
async def test_forms_that_are_not(site: Site, holder: Holder, body: str, headers: dict[str, str]) -> None:
    status, content, _ = await post(site, "SignData", body, Content_Type=FORM, **headers)
    assert (status, content) == (200, "respValue=67108877")


async def test_a_body_over_the_bound_and_an_operation_that_is_none(site: Site, holder: Holder) -> None:
    status, content, _ = await post(site, "SignData", b"x" * 20_001, Content_Type=FORM)
    assert (status, content) == (413, "respValue=67108877")
    assert (await post(site, "SignEverything", PLAIN, Content_Type=FORM))[0] == 404
    assert (await post(site, "ExportUserCert", "identification=k", Content_Type=FORM))[1][:12] == "respValue=0&"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("TRUE", True), ("true", True), (True, True), ("FALSE", False), (False, False), (None, False), ("", False)],
)
def test_booleans(value: Any, expected: bool) -> None:
    assert Members([("Flag", value)]).boolean("flag") is expected


@pytest.mark.parametrize("value", ["1", "yes", 1, 0, 0.0, [], {}])
def test_what_is_no_boolean(value: Any) -> None:
    with pytest.raises(SvsError):
        Members([("flag", value)]).boolean("flag")


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=200), operation=st.sampled_from(sorted(set(svs_codec.OPERATIONS.values()))))
def test_any_bytes_are_read_or_refused_with_a_code(body: bytes, operation: str) -> None:
    for read in (
        lambda: svs_codec.read_form(operation, body, None, None),
        lambda: svs_codec.read_json(operation, body),
    ):
        with contextlib.suppress(SvsError):
            members = read().members
            with contextlib.suppress(SvsError):
                members.octets("a", 100)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(value=JSON)
def test_any_member_is_read_or_refused_with_a_code(value: Any) -> None:
    members = Members([("m", value)])
    for read in (members.integer, members.boolean, members.readings):
        with contextlib.suppress(SvsError):
            read("m")
    with contextlib.suppress(SvsError):
        members.sized("m", "m", 100)


@settings(max_examples=200, deadline=None)
@given(encoded=st.binary(max_size=300), item=st.integers(0, 0x40))
def test_any_certificate_is_told_of_or_refused_with_a_code(encoded: bytes, item: int) -> None:
    with contextlib.suppress(SvsError):
        certificate_info(encoded, item)


async def test_a_certificate_changed_anywhere_is_told_of_or_refused_with_a_code(site: Site, holder: Holder) -> None:
    whole = holder.certificate
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x11
        for item in (2, 5, 6, 7, 8, 9, 0x13, 0x1C, 0x31):
            with contextlib.suppress(SvsError):
                certificate_info(bytes(changed), item)


async def test_no_request_gets_another_answer_than_one_with_a_code(site: Site, holder: Holder) -> None:
    """Each operation with members of every kind that is wrong: never a failure of the server."""
    wrong: list[Any] = [None, "", "!", "AAAA", 5, -1, True, [], {}, "QUJD" * 100, "密码"]
    for operation in sorted(set(svs_codec.OPERATIONS.values())):
        for value in wrong:
            names = ("signMethod", "keyIndex", "keyValue", "inData", "cert", "type", "certSN", "signature", "SessionID",
                     "signedMessage", "identification", "infoType", "verifyLevel", "signerPublicKey")  # fmt: skip
            request = dict.fromkeys(names, value) | {"signMethod": 131585}
            body = orjson.dumps({"request": request})
            status, content, _ = await post(site, operation, body, Content_Type="application/json")
            assert status == 200
            assert int(orjson.loads(content)["respond"]["respValue"]) < 0x04000010


def test_response_codes_of_our_errors() -> None:
    from signer.signing.svs_service import response_of

    class Other(QianyanError):
        """A failure of no known kind."""

    assert response_of(Other("?")) is svs_codec.Code.SYSTEM_FAILURE
