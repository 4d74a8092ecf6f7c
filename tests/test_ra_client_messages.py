"""The RA's client without a service: what it makes is what others read, and what is wrong is found before sending."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import Refused
from qianyan_ra import (
    GROUNDS,
    KINDS,
    REASONS,
    REISSUE_GROUNDS,
    ROLES,
    BadMessage,
    Certificate,
    DigestSigner,
    Holder,
    KeyTrouble,
    Maker,
    NotVerified,
    Person,
    RaError,
    SoftwareKey,
    Unfit,
    add_signature,
    appoint,
    check_csr,
    check_number,
    dismiss,
    make_csr,
    name_of,
    open_enveloped_key,
    parse,
    rejection,
    sign,
)
from qianyan_ra import _der as der
from qianyan_ra import _pure as pure
from qianyan_ra._arithmetic import Arithmetic
from signer._native import sm2
from signer.holders.numbers import HolderKind
from signer.holders.numbers import check_number as service_check_number
from signer.issuance import grounds
from signer.issuance.csr import parse_request
from signer.issuance.kmc import envelope
from signer.registration.appointing import AppointmentBody, DismissalBody
from signer.registration.payloads import PAYLOADS, RejectionBody, read_payload, read_request
from signer.registration.roles import Kind, Role
from signer.signing.cms import parse_signed_data
from tests.judges.bouncycastle import BouncyCastle
from tests.judges.ra_request import sign_with_bouncycastle
from tests.ra_world import CREDIT, MAKER, certified, every_kind, pem, person

SUBJECT = {"C": "CN", "ST": "广东省", "O": "粤港测试有限公司", "CN": "粤港测试有限公司"}
BOTH: tuple[Arithmetic, Arithmetic] = ("native", "pure")
NOW = datetime(2026, 11, 20, 6, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def operator() -> Person:
    return person()


@pytest.fixture(scope="module")
def approver() -> Person:
    return person("pure")


@pytest.fixture(scope="module")
def csr() -> bytes:
    return make_csr(SoftwareKey.generate(), SUBJECT)


# ---- messages


def test_two_signatures_stand_before_the_service_and_bouncycastle(
    operator: Person, approver: Person, csr: bytes, bouncycastle: BouncyCastle
) -> None:
    content = MAKER.issue("organisation", csr).content()
    once = sign(content, operator, NOW)
    twice = add_signature(once, approver, NOW)
    for message, count in ((once, 1), (twice, 2)):
        read = parse_signed_data(message)
        assert read.content == content
        assert len(read.signers) == len(read.certificates) == count
        for signer in read.signers:
            key = next(
                one.certificate.public_key
                for one in (operator, approver)
                if one.certificate.identifier == signer.identifier.encode()
            )
            signed = signer.to_be_signed(content)
            sm2.PublicKey.from_bytes(key).verify(signed, sm2.signature_from_der(signer.signature))
        bouncycastle.verify_cms(message)
    assert [one.signed_at for one in parse(twice).signers] == [NOW, NOW]


def test_the_first_signature_stays_as_it_was(operator: Person, approver: Person) -> None:
    once = sign(b'{"ra":"a","request_id":"1"}', operator, NOW)
    (first,) = parse(once).signers
    assert first.encoded in [one.encoded for one in parse(add_signature(once, approver, NOW)).signers]


def test_a_token_signs_digests_in_either_form(csr: bytes) -> None:
    device = sm2.PrivateKey.generate()
    public_key = device.public_key.to_bytes()
    certificate = Certificate.parse(certified(public_key))
    for answer in (device.sign_digest, lambda e: sm2.signature_to_der(device.sign_digest(e))):
        parse(sign(csr, Person(certificate, DigestSigner(public_key, answer)), NOW)).verify()


def test_a_device_that_signs_wrongly_is_found_out() -> None:
    device = sm2.PrivateKey.generate()
    public_key = device.public_key.to_bytes()
    faulty = DigestSigner(public_key, lambda e: device.sign_digest(bytes(32)))
    with pytest.raises(NotVerified, match="device"):
        sign(b"content", Person(Certificate.parse(certified(public_key)), faulty), NOW)


def test_nobody_signs_twice_or_beside_what_does_not_verify(operator: Person, approver: Person) -> None:
    once = sign(b"content", operator, NOW)
    with pytest.raises(Unfit, match="two people") as same:
        add_signature(once, operator, NOW)
    assert same.value.code == "same_person"
    changed = once.replace(b"content", b"CONTENT")
    with pytest.raises(NotVerified):
        add_signature(changed, approver, NOW)
    with pytest.raises(Unfit, match="two signatures"):
        add_signature(add_signature(once, approver, NOW), person(), NOW)


def test_a_key_of_another_certificate_is_refused(operator: Person, approver: Person) -> None:
    with pytest.raises(KeyTrouble, match="certificate"):
        Person(operator.certificate, approver.signer)


def test_messages_of_bouncycastle_are_read_and_countersigned(tmp_path: Path, approver: Person, csr: bytes) -> None:
    """The program that the documentation gives to Java's integrators: an encrypted key, and a second signer."""
    key = SoftwareKey.generate()
    files = {
        name: tmp_path / name
        for name in ("key.pem", "plain.pem", "first.pem", "second.pem", "in.json", "once", "twice")
    }
    ours = tmp_path / "ours.pem"
    ours.write_bytes(key.to_pem(b"secret"))
    shut = ["openssl", "pkcs8", "-topk8", "-in", ours, "-passin", "pass:secret", "-out", files["key.pem"]]
    subprocess.run([*shut, "-passout", "pass:secret", "-v2", "aes-256-cbc"], check=True)
    files["first.pem"].write_bytes(pem(certified(key.public_key)))
    files["in.json"].write_bytes(MAKER.issue("organisation", csr).content())
    sign_with_bouncycastle(files["key.pem"], files["first.pem"], files["in.json"], files["once"], "secret")
    once = files["once"].read_bytes()
    parse(once).verify()
    assert parse_signed_data(add_signature(once, approver, NOW)).content == files["in.json"].read_bytes()
    other = SoftwareKey.generate()
    files["plain.pem"].write_bytes(other.to_pem(None))
    files["second.pem"].write_bytes(pem(certified(other.public_key)))
    sign_with_bouncycastle(files["plain.pem"], files["second.pem"], files["once"], files["twice"])
    read = parse(files["twice"].read_bytes())
    read.verify()
    assert len(read.signers) == 2


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_bytes_that_are_no_message_raise_the_one_error(data: st.DataObject) -> None:
    whole = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse(bytes(whole)).verify()
    except (BadMessage, NotVerified):
        return
    assert parse(bytes(whole)).content == parse(WHOLE).content


WHOLE = sign(b'{"ra":"a","request_id":"1"}', person(), NOW)


# ---- requests


def test_every_kind_is_as_the_service_reads_it(csr: bytes) -> None:
    made = every_kind(csr)
    assert {one.kind for one in made} == set(KINDS)
    for content in (one.content() for one in made):
        body = read_request(content)
        assert isinstance(read_payload(body), PAYLOADS[body.kind])
        named = name_of(content)
        assert (named.ra, named.request_id, named.kind) == (body.ra, body.request_id, body.kind.value)
    RejectionBody.model_validate_json(rejection("east-01", "r-1", "a number is wrong"))


def test_appointments_are_as_the_service_reads_them(csr: bytes) -> None:
    certificate = person().certificate.encoded
    for one in (appoint("east-01", "li", "李某", ["operator"], csr=csr),
                appoint("east-01", "li", "李某", ["operator", "judicial"], certificate=certificate)):  # fmt: skip
        AppointmentBody.model_validate_json(one.content())
    DismissalBody.model_validate_json(dismiss("east-01", "li", ground="post_left").content())
    for wrong in (
        lambda: appoint("east-01", "li", "李某", ["king"], csr=csr),
        lambda: appoint("east-01", "li", "李某", [], csr=csr),
        lambda: appoint("east-01", "li", "", ["operator"], csr=csr),
        lambda: appoint("east-01", "li", "李某", ["operator"]),
        lambda: dismiss("east-01", "l i"),
    ):
        with pytest.raises(Unfit):
            wrong()


def test_the_words_are_those_of_the_service() -> None:
    assert set(ROLES) == {role.value for role in Role}
    assert set(KINDS) == {kind.value for kind in Kind}
    assert set(GROUNDS) == {ground.value for ground in grounds.Ground}
    assert set(REISSUE_GROUNDS) == {ground.value for ground in grounds.REISSUE_GROUNDS}
    for reason in (*GROUNDS, *REASONS):
        grounds.read_reason(reason)


def test_a_request_id_of_ones_own_makes_the_same_octets(csr: bytes) -> None:
    first, again = (MAKER.issue("person", csr, request_id="b-2026-1") for _ in range(2))
    assert first.content() == again.content()
    assert MAKER.resume("01").request_id != MAKER.resume("01").request_id


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda csr: MAKER.issue("", csr), "profile"),
        (lambda csr: MAKER.issue("person", b""), "csr"),
        (lambda csr: MAKER.issue("person", csr[:-1] + bytes([csr[-1] ^ 1])), "csr"),
        (lambda csr: MAKER.issue("person", csr, region="x"), "region"),
        (lambda csr: MAKER.issue("person", csr, request_id="a b"), "request_id"),
        (lambda csr: MAKER.reissue("01", csr, "holder_gone"), "ground"),
        (lambda csr: MAKER.suspend("01", ground="whim"), "ground"),
        (lambda csr: MAKER.revoke("01", "certificate_hold"), "reason"),
        (lambda csr: MAKER.revoke("01", "lost", invalidity_at=datetime(2026, 1, 1)), "invalidity_at"),  # noqa: DTZ001
        (lambda csr: MAKER.resume("xyz"), "serial"),
        (lambda csr: MAKER.recover("01", ""), "reference"),
        (lambda csr: MAKER.recover_judicial("01", "order", b"\x04" * 65), "recipient_key"),
        (lambda csr: Maker("-east"), "ra"),
        (lambda csr: rejection("east", "1", "  "), "reason"),
        (lambda csr: Holder("person", "110101199003070013"), "holder.number"),
        (lambda csr: Holder("ship", "1"), "holder.kind"),
        (lambda csr: Holder("person", 1), "holder.number"),
        (lambda csr: Holder("device", "1", name="n" * 1025), "holder.name"),
        (lambda csr: MAKER.issue("person", csr, Holder("device", "1", name="\ud800")).content(), None),
    ],
)
def test_what_would_be_refused_is_refused_here(csr: bytes, make: object, field: str | None) -> None:
    with pytest.raises(Unfit) as refused:
        make(csr)  # type: ignore[operator]
    assert refused.value.field == field


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([CREDIT, "11010519491231002X", "110101199003070011", "device:7", ""]), st.data())
def test_numbers_are_judged_as_the_service_judges_them(base: str, data: st.DataObject) -> None:
    number = list(base)
    if number and data.draw(st.booleans()):
        number[data.draw(st.integers(0, len(number) - 1))] = data.draw(st.sampled_from("0123456789XxAIS -é"))
    text = "".join(number)
    for kind in HolderKind:
        try:
            expected: str | None = service_check_number(kind, text)
        except Refused:
            expected = None
        try:
            found: str | None = check_number(kind.value, text)
        except Unfit:
            found = None
        assert found == expected, (kind, text)


def test_a_wrong_number_is_not_repeated() -> None:
    with pytest.raises(Unfit) as refused:
        check_number("person", "110101199003070013")
    assert "1101" not in str(refused.value)


def test_a_holder_is_not_in_what_is_printed(csr: bytes) -> None:
    holder = Holder("organisation", CREDIT, name="粤港", phone="13800138000")
    request = MAKER.issue("organisation", csr, holder)
    assert CREDIT not in repr(holder) + repr(request) + str(request)


# ---- keys


@pytest.mark.parametrize("arithmetic", BOTH)
def test_key_and_request_are_taken_by_the_service_openssl_and_bouncycastle(
    arithmetic: Arithmetic, tmp_path: Path, bouncycastle: BouncyCastle
) -> None:
    with SoftwareKey.generate(arithmetic=arithmetic) as key:
        request = make_csr(key, {**SUBJECT, "OU": ["一", "二"]})
        assert parse_request(request).fields == {**{k: [v] for k, v in SUBJECT.items()}, "OU": ["一", "二"]}
        assert bouncycastle.verify_csr(request)[1] == key.public_key
        file = tmp_path / "key.pem"
        file.write_bytes(key.to_pem(b"secret"))
        command = ["openssl", "pkey", "-in", str(file), "-passin", "pass:secret", "-pubout", "-outform", "DER"]
        assert subprocess.run(command, capture_output=True, check=True).stdout.endswith(key.public_key)
        public_key = key.public_key
    for other in BOTH:
        assert SoftwareKey.from_pem(file.read_bytes(), b"secret", arithmetic=other).public_key == public_key


@pytest.mark.parametrize("options", ["-v2 aes-256-cbc", "-v2 aes-128-cbc -v2prf hmacWithSHA1", "-scrypt", "-nocrypt"])
def test_key_files_of_openssl_are_read(options: str, tmp_path: Path) -> None:
    plain, file = tmp_path / "plain.pem", tmp_path / "key.pem"
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:SM2", "-out", str(plain)]
    subprocess.run(make, check=True, capture_output=True)
    shut = ["openssl", "pkcs8", "-topk8", "-in", str(plain), "-out", str(file), "-passout", "pass:secret"]
    subprocess.run([*shut, *options.split()], check=True, capture_output=True)
    key = SoftwareKey.from_pem(file.read_bytes(), b"secret")
    assert key.public_key == SoftwareKey.from_pem(plain.read_bytes()).public_key


def test_a_wrong_passphrase_another_curve_and_no_key_are_told_apart(tmp_path: Path) -> None:
    shut = SoftwareKey.generate().to_pem(b"secret")
    for text, passphrase, code in ((shut, b"wrong", "passphrase"), (shut, None, "passphrase_missing")):
        with pytest.raises(KeyTrouble) as trouble:
            SoftwareKey.from_pem(text, passphrase)
        assert trouble.value.code == code
    other = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        capture_output=True,
        check=True,
    ).stdout
    with pytest.raises(KeyTrouble, match="SM2"):
        SoftwareKey.from_pem(other)
    with pytest.raises(BadMessage, match="no private key"):
        SoftwareKey.from_pem(b"nothing")


def test_a_request_under_an_empty_user_id_is_refused_with_what_to_do() -> None:
    key = sm2.PrivateKey.generate()

    class Elsewhere:
        public_key = key.public_key.to_bytes()

        def sign(self, message: bytes) -> bytes:
            return key.sign(message, user_id=b"")

    with pytest.raises(Unfit, match="1234567812345678"):
        check_csr(make_csr(Elsewhere(), SUBJECT))


@pytest.mark.parametrize("arithmetic", BOTH)
def test_an_enveloped_key_opens_with_its_key_alone(arithmetic: Arithmetic) -> None:
    holder = SoftwareKey.generate(arithmetic=arithmetic)
    inside = sm2.PrivateKey.generate()
    sealed = envelope(sm2.PublicKey.from_bytes(holder.public_key), inside)
    with open_enveloped_key(sealed, holder, arithmetic=arithmetic) as opened:
        assert opened.public_key == inside.public_key.to_bytes()
        sm2.PublicKey.from_bytes(opened.public_key).verify(b"text", opened.sign(b"text"))
    with pytest.raises(BadMessage) as refused:
        open_enveloped_key(sealed, SoftwareKey.generate(arithmetic=arithmetic))
    assert refused.value.code == "sm2_decrypt"
    for at in range(0, len(sealed), 7):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(RaError):
            open_enveloped_key(changed, holder)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=40))
def test_plain_python_computes_what_the_core_computes(message: bytes) -> None:
    key = sm2.PrivateKey.generate()
    scalar, public_key = bytearray(32), key.public_key.to_bytes()
    key.export_into(scalar)
    plain = SoftwareKey.from_scalar(bytearray(scalar), arithmetic="pure")
    assert plain.public_key == public_key
    assert pure.digest(public_key, message) == key.public_key.digest(message)
    key.public_key.verify(message, plain.sign(message))
    e, signature = pure.digest(public_key, message), key.sign(message)
    assert pure.verify_digest(public_key, e, signature)
    assert not pure.verify_digest(public_key, e, signature[:63] + bytes([signature[63] ^ 1]))
    if message:
        assert plain.decrypt(key.public_key.encrypt(message)) == message


def test_plain_python_verifies_the_odd_cases_as_the_vectors_say() -> None:
    vectors = Path(__file__).parent / "vectors"
    known = json.loads((vectors / "sm2.json").read_text())["sm2_verify_edge_digest_level"]["vectors"]
    judged = [one for one in known if not one.get("der_only")]
    judged += json.loads((vectors / "sm2_edges.json").read_text())["verify_digest"]
    assert len(judged) > 50
    for one in judged:
        public_key, signature = ("04" + one["px"] + one["py"], one["r"] + one["s"])
        found = pure.verify_digest(bytes.fromhex(public_key), bytes.fromhex(one["e"]), bytes.fromhex(signature))
        assert found is bool(one["valid"]), one["name"]


def test_a_wiped_key_signs_nothing() -> None:
    for arithmetic in BOTH:
        key = SoftwareKey.generate(arithmetic=arithmetic)
        key.wipe()
        with pytest.raises((KeyTrouble, ValueError)):
            key.sign(b"text")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_refused_by_the_readers_with_their_own_errors(data: bytes) -> None:
    for read in (Certificate.parse, parse, SoftwareKey.from_pem, check_csr, name_of, der.read_time):
        with pytest.raises(RaError):
            read(der.Reader(data) if read is der.read_time else data)  # type: ignore[operator]
