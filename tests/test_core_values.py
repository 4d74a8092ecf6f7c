"""Settings, errors, serials, reasons, the clock and what HTTP handlers share."""

from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from core import errors
from core.audit import GENESIS, AuditEvent, chain, encode_detail
from core.clock import from_datetime, rfc3339, system_clock, to_datetime
from core.errors import Denied, Malformed, QianyanError, Refused, SettingsError
from core.http import CALLER, Caller, from_base64, idempotency_key, require, to_base64
from core.model import RevocationReason, serial_from_hex, serial_to_bytes, serial_to_hex
from core.settings import Settings, load_toml


class Inner(Settings):
    limit: int = Field(default=5, ge=1)


class Outer(Settings):
    name: str = "x"
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("nme = 'y'", "settings_value", "'nme': is not known"),
        ("[inner]\nlimits = 1", "settings_value", "'inner.limits': is not known"),
        ("[inner]\nlimit = 0", "settings_value", "'inner.limit'"),
        ("[inner]\nlimit = 'many'", "settings_value", "'inner.limit'"),
        ("name = ", "settings_toml", "not TOML"),
        ("\udcff", "settings_unreadable", "cannot be read"),
        (None, "settings_missing", "qianyan init"),
    ],
)
def test_bad_settings_say_which_and_why_in_one_line(tmp_path: Path, text: str | None, code: str, said: str) -> None:
    path = tmp_path / "qianyan.toml"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError) as refused:
        load_toml(path, Outer)
    assert refused.value.code == code
    assert said in refused.value.detail
    assert str(path) in refused.value.detail
    assert "\n" not in refused.value.detail


def test_good_settings_and_defaults(tmp_path: Path) -> None:
    path = tmp_path / "qianyan.toml"
    path.write_text("[inner]\nlimit = 9\n")
    settings = load_toml(path, Outer)
    assert (settings.name, settings.inner.limit) == ("x", 9)
    with pytest.raises(ValueError, match="frozen"):
        settings.name = "y"


def test_the_error_tree_is_small_and_every_kind_is_its_own() -> None:
    tree = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, QianyanError)]
    assert len(tree) <= 10
    assert len({cls.kind for cls in tree}) == len(tree)
    error = Refused("why", code="csr_signature", field="csr", retry_after_s=3)
    assert (str(error), error.code, error.field, error.retry_after_s) == ("why", "csr_signature", "csr", 3)
    assert Malformed("x").code == "malformed"


@given(st.integers(0, (1 << 159) - 1))
def test_serials_there_and_back(serial: int) -> None:
    text = serial_to_hex(serial)
    assert len(text) % 2 == 0
    assert serial_from_hex(text) == serial_from_hex(text.upper()) == serial
    assert serial_from_hex(":".join(text[i : i + 2] for i in range(0, len(text), 2))) == serial
    assert int.from_bytes(serial_to_bytes(serial), "big") == serial


@pytest.mark.parametrize("text", ["", "0x10", "-1", "g0", "1 2", "1" * 41, "１", "1_0"])
def test_what_is_no_serial(text: str) -> None:
    with pytest.raises(ValueError, match="serial"):
        serial_from_hex(text)


def test_reasons_by_their_names() -> None:
    for reason in RevocationReason:
        assert RevocationReason.from_label(reason.label) is reason
    assert RevocationReason.from_label("keyCompromise") is RevocationReason.KEY_COMPROMISE
    assert RevocationReason.from_label("CERTIFICATE-HOLD") is RevocationReason.CERTIFICATE_HOLD
    for unknown in ("", "removeFromCRL", "7"):
        with pytest.raises(ValueError, match="unknown reason"):
            RevocationReason.from_label(unknown)


@given(st.integers(0, 4_102_444_800_000))
def test_times_there_and_back(at_ms: int) -> None:
    assert from_datetime(to_datetime(at_ms)) == at_ms // 1000 * 1000
    assert rfc3339(at_ms).endswith("Z")
    assert ("." in rfc3339(at_ms)) == (at_ms % 1000 != 0)


def test_the_systems_clock_is_in_milliseconds() -> None:
    assert 1_700_000_000_000 < system_clock() < 4_102_444_800_000


def test_a_link_depends_on_every_part_of_its_row() -> None:
    event = AuditEvent("a", "b", "c", "ok", {"z": 1, "a": "机构"})
    assert encode_detail(event) == '{"a":"机构","z":1}'
    rows = [
        (GENESIS, 1, 2, event, "{}"),
        (bytes(31) + b"\1", 1, 2, event, "{}"),
        (GENESIS, 2, 2, event, "{}"),
        (GENESIS, 1, 3, event, "{}"),
        (GENESIS, 1, 2, AuditEvent("a", "b", "cok", ""), "{}"),
        (GENESIS, 1, 2, event, '{"x":1}'),
    ]
    assert len({chain(*row) for row in rows}) == len(rows)


@given(st.binary(max_size=50))
def test_base64(data: bytes) -> None:
    assert from_base64(to_base64(data), "x") == data


@pytest.mark.parametrize("text", ["a", "a===", "YQ", "YQ==\n", "Y-_=", "é", None, 5, ["YQ=="]])
def test_what_is_no_base64(text: object) -> None:
    with pytest.raises(Malformed) as refused:
        from_base64(text, "items.0.data")
    assert refused.value.field == "items.0.data"


def request(**headers: str) -> web.Request:
    return make_mocked_request("POST", "/", headers={name.replace("_", "-"): v for name, v in headers.items()})


def test_idempotency_keys() -> None:
    assert idempotency_key(request()) is None
    assert idempotency_key(request(Idempotency_Key="a" * 128)) == "a" * 128
    for bad in ("", "a" * 129, "a b", "é"):
        with pytest.raises(Refused):
            idempotency_key(request(Idempotency_Key=bad))


def test_scopes() -> None:
    nobody = request()
    with pytest.raises(Denied) as refused:
        require(nobody, "sign")
    assert not refused.value.authenticated
    somebody = request()
    somebody[CALLER] = Caller("token:a", frozenset({"sign"}))
    assert require(somebody, "sign").id == "token:a"
    with pytest.raises(Denied) as refused:
        require(somebody, "issue")
    assert refused.value.authenticated
