"""Distinguished names: how they are written, and what a request may ask for."""

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from hypothesis import given
from hypothesis import strategies as st

from core import oids
from core.asn1.names import LABELS, build_name, read_fields
from core.errors import Malformed, Refused

FIELDS = {
    "CN": "签验测试有限公司",
    "C": "CN",
    "O": "测试机构",
    "OU": ["信息中心", "一处"],
    "ST": "广东省",
    "L": "广州市",
    "SERIALNUMBER": "91440101MA5XXXXX0X",
}


def one(oid: str, value: str, kind: _ASN1Type = _ASN1Type.UTF8String) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.ObjectIdentifier(oid), value, kind, _validate=False)])


def test_order_and_string_types() -> None:
    name = build_name(FIELDS)
    written = [(next(iter(rdn)).oid.dotted_string, next(iter(rdn))._type) for rdn in name.rdns]
    utf8, printable = _ASN1Type.UTF8String, _ASN1Type.PrintableString
    assert written == [
        (oids.COUNTRY, printable),
        (oids.STATE, utf8),
        (oids.LOCALITY, utf8),
        (oids.ORGANIZATION, utf8),
        (oids.ORGANIZATIONAL_UNIT, utf8),
        (oids.ORGANIZATIONAL_UNIT, utf8),
        (oids.COMMON_NAME, utf8),
        (oids.SERIAL_NUMBER, printable),
    ]
    assert b"\x13\x02CN" in name.public_bytes()


def test_what_is_built_is_read_back() -> None:
    expected = {label: [v] if isinstance(v, str) else v for label, v in FIELDS.items()}
    assert read_fields(build_name(FIELDS)) == {label: expected[label] for label in LABELS}


@given(
    st.dictionaries(
        st.sampled_from(["CN", "O", "OU", "L", "ST"]),
        st.text(max_size=70) | st.lists(st.text(max_size=10), max_size=3),
        min_size=1,
    )
)
def test_any_text_is_built_and_read_back_or_refused(fields: dict[str, str | list[str]]) -> None:
    name, refused = None, None
    try:
        name = build_name(fields)
    except Refused as error:
        refused = error
    if name is None:
        assert refused is not None
        assert (refused.field or "").startswith("subject")
    else:
        values = {label: [v] if isinstance(v, str) else v for label, v in fields.items()}
        assert len(name.rdns) == sum(map(len, values.values()))
        if all(len(values[label]) == 1 for label in values if label != "OU"):
            assert read_fields(name) == {label: values[label] for label in LABELS if values.get(label)}


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"CN": "x" * 65}, "subject_field_too_long", "subject.CN"),
        ({"CN": ""}, "subject_field", "subject.CN"),
        ({"CN": " x"}, "subject_field", "subject.CN"),
        ({"CN": "x "}, "subject_field", "subject.CN"),
        ({"O": "a\nb"}, "subject_field", "subject.O"),
        ({"O": "a\u202eb"}, "subject_field", "subject.O"),
        ({"C": "cn"}, "subject_field", "subject.C"),
        ({"C": "中国"}, "subject_field", "subject.C"),
        ({"C": "CHN"}, "subject_field_too_long", "subject.C"),
        ({"SERIALNUMBER": "一"}, "subject_field", "subject.SERIALNUMBER"),
        ({"OU": ["a", "x" * 65]}, "subject_field_too_long", "subject.OU"),
        ({}, "subject_empty", "subject"),
    ],
)
def test_bad_values_are_refused_by_name(fields: dict[str, str | list[str]], code: str, field: str) -> None:
    with pytest.raises(Refused) as refused:
        build_name(fields)
    assert (refused.value.code, refused.value.field) == (code, field)


def test_the_bound_is_in_characters() -> None:
    longest = "验" * 64
    encoded = build_name({"CN": longest, "O": longest}).public_bytes()
    assert encoded.count(longest.encode()) == 2


def test_an_unknown_label_is_malformed() -> None:
    with pytest.raises(Malformed) as refused:
        build_name({"CN": "x", "EMAIL": "a@b"})
    assert refused.value.field == "subject.EMAIL"


def test_a_requested_name_is_held_to_the_same_rules() -> None:
    bad = [
        (one("1.2.840.113549.1.9.1", "a@b.cn"), "subject_field", "subject.1.2.840.113549.1.9.1"),
        (one(oids.COMMON_NAME, "x", _ASN1Type.T61String), "subject_field_type", "subject.CN"),
        (one(oids.COMMON_NAME, "x" * 65), "subject_field_too_long", "subject.CN"),
        (x509.Name([*one(oids.COMMON_NAME, "a"), *one(oids.COMMON_NAME, "b")]), "subject_field", "subject.CN"),
    ]
    pair = x509.RelativeDistinguishedName([*one(oids.COMMON_NAME, "a"), *one(oids.ORGANIZATION, "b")])
    bad.append((x509.Name([pair]), "subject_field", "subject"))
    for name, code, field in bad:
        with pytest.raises(Refused) as refused:
            read_fields(name)
        assert (refused.value.code, refused.value.field) == (code, field)


def test_bmp_strings_are_read() -> None:
    assert read_fields(one(oids.COMMON_NAME, "签验", _ASN1Type.BMPString)) == {"CN": ["签验"]}
