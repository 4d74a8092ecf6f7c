"""What ldapsearch reads of what was committed to the store, on a real server."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from core.errors import Malformed
from core.model import RevocationReason, serial_to_hex
from core.store import publication
from core.store.database import Database
from status.directory import crl_facts
from status.directory.sinks import SinkDown
from tests.directory_world import (
    SUFFIX,
    Holders,
    Slapd,
    caught_up,
    directory_settings,
    make_crl,
    new_service,
    publishing,
)
from tests.running import free_port
from tests.store_world import new_store


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    server = Slapd().start()
    yield server
    server.remove()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await new_store(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
def base(request: pytest.FixtureRequest) -> str:
    """A subtree of the test's own; the server makes it when the first entry comes."""
    return f"ou={request.node.name.replace('[', '-').replace(']', '')},{SUFFIX}"


def subject_of(der: bytes, kind: str) -> str:
    """What openssl says of it."""
    done = subprocess.run(
        ["openssl", kind, "-inform", "DER", "-noout", "-subject" if kind == "x509" else "-crlnumber"],
        input=der,
        capture_output=True,
        check=True,
    )
    return done.stdout.decode()


async def test_what_this_process_commits_is_published_without_waiting_for_a_look(
    slapd: Slapd, database: Database, base: str
) -> None:
    """An outbox that is looked at once a day is empty all the same."""
    holders = await Holders(database).begin()
    settings = directory_settings(slapd.target(base)).model_copy(update={"poll_s": 86_400.0})
    service = new_service(database, settings)
    async with publishing(service):
        await caught_up(service)
        for _ in range(2):
            ((_, der),) = await holders.issue()
            await caught_up(service)
            assert der in slapd.certificates(base)


async def test_certificates_and_lists_are_found_with_ldapsearch(slapd: Slapd, database: Database, base: str) -> None:
    holders = await Holders(database).begin(partitions=2)
    registry = CollectorRegistry()
    service = new_service(database, directory_settings(slapd.target(base)), registry)
    (serial, _), (_, other) = await holders.issue(2, subject={"C": "CN", "O": "某公司", "CN": "李, 四=\\+"})
    async with publishing(service):
        await caught_up(service)
        await holders.issue()
        await holders.publish_crl(4)
        full, delta = await holders.publish_crl(5, delta_of=4)
        second, _ = await holders.publish_crl(1, partition=1)
        arl, _ = await holders.publish_crl(2, authority="root")
        await holders.change(serial, RevocationReason.KEY_COMPROMISE)
        await caught_up(service)
    assert serial_to_hex(serial) not in str(slapd.search(base, "(qianyanSerial=*)")), "the revoked one is gone"
    assert other in slapd.certificates(base)
    assert "CN = " in subject_of(other, "x509")
    (entry,) = slapd.search(base, "(cn=李, 四=\\5c+)").values()
    assert entry["userCertificate;binary"] == [other]
    assert {b"pkiUser", b"qianyanEntry"} <= set(entry["objectClass"])
    crls = slapd.search(f"ou=crls,{base}", "(objectClass=cRLDistributionPoint)")
    first = crls[f"cn=issuing-0,ou=crls,{base}"]
    assert (first["certificateRevocationList;binary"], first["deltaRevocationList;binary"]) == ([full], [delta])
    assert crls[f"cn=issuing-1,ou=crls,{base}"]["certificateRevocationList;binary"] == [second]
    assert crls[f"cn=root-0,ou=crls,{base}"]["authorityRevocationList;binary"] == [arl]
    assert "05" in subject_of(full, "crl")
    (authority,) = slapd.search(base, "(&(objectClass=pkiCA)(cn=签发机构))").values()
    assert authority["cACertificate;binary"] == [holders.certificate]
    for change in ("certificate", "revocation", "crl"):
        counted = registry.get_sample_value(
            "qianyan_directory_delay_seconds_count", {"target": "main", "change": change}
        )
        assert counted, change


async def test_what_is_revoked_held_released_or_marked(slapd: Slapd, database: Database, base: str) -> None:
    holders = await Holders(database).begin()
    removing = slapd.target(f"ou=removing,{base}", name="removing", usages=["sign"])
    marking = slapd.target(
        f"ou=marking,{base}",
        name="marking",
        revoked="mark",
        certificate_dn="cn={subject.CN},o={subject.O},{base}",
        crl_dn="cn={authority},ou=authorities,{base}",
    )
    service = new_service(database, directory_settings(removing, marking))
    people = [await holders.issue(subject={"C": "CN", "O": "甲", "CN": name}) for name in ("一", "二", "二")]
    (one, two, three) = (made[0] for made in people)
    full, delta = await holders.publish_crl(8, delta_of=8)
    async with publishing(service):
        await caught_up(service)
        await holders.change(one[0], RevocationReason.KEY_COMPROMISE)
        await holders.change(two[0], RevocationReason.CERTIFICATE_HOLD)
        await holders.change(three[0], RevocationReason.CERTIFICATE_HOLD)
        await holders.change(three[0], None)
        await caught_up(service)
        assert slapd.certificates(removing.base) == {three[1]}
        assert slapd.certificates(marking.base) == {one[1], two[1], three[1]}
        shared = slapd.search(marking.base, "(cn=二)")[f"cn=二,o=甲,{marking.base}"]
        assert shared["qianyanHeldSerial"] == [serial_to_hex(two[0]).encode()]
        assert len(shared["userCertificate;binary"]) == 2, "those of one name share an entry"
        await holders.change(two[0], None)
        await caught_up(service)
    assert slapd.certificates(removing.base) == {two[1], three[1]}
    assert not slapd.search(marking.base, "(qianyanHeldSerial=*)")
    revoked = slapd.search(marking.base, f"(qianyanRevokedSerial={serial_to_hex(one[0])})")
    assert list(revoked) == [f"cn=一,o=甲,{marking.base}"]
    authority = slapd.search(marking.base, "(objectClass=pkiCA)")[f"cn=issuing,ou=authorities,{marking.base}"]
    assert authority["certificateRevocationList;binary"] == [full], "a partition's lists may stand with the authority"
    assert authority["deltaRevocationList;binary"] == [delta]
    assert authority["cACertificate;binary"] == [holders.certificate]


async def test_a_list_never_gives_way_to_an_older_one(slapd: Slapd, database: Database, base: str) -> None:
    holders = await Holders(database).begin()
    service = new_service(database, directory_settings(slapd.target(base)))
    await holders.publish_crl(4)
    dn = f"cn=issuing-0,ou=crls,{base}"
    async with publishing(service):
        await caught_up(service)
        slapd.modify(f"dn: {dn}\nchangetype: modify\nreplace: qianyanCrlNumber\nqianyanCrlNumber: 9\n")
        await holders.publish_crl(5)
        await caught_up(service)
        (standing,) = await service.status()
        assert standing.refused == 1
        assert "never" in standing.aside[0].reason
        newest, _ = await holders.publish_crl(10, authority="issuing", ca=True)
        await caught_up(service)
        (standing,) = await service.status()
    assert standing.refused == 0, "what was set aside is settled by what came later"
    entry = slapd.search(dn)[dn]
    assert entry["authorityRevocationList;binary"] == [newest]
    assert "certificateRevocationList;binary" not in entry, "it is about certificates of authorities alone"


async def test_a_refused_entry_is_set_aside_and_tried_again(slapd: Slapd, database: Database, base: str) -> None:
    holders = await Holders(database).begin()
    target = slapd.target(base, certificate_dn="cn={serial},ou={subject.OU},{base}")
    service = new_service(database, directory_settings(target))
    good = {"C": "CN", "OU": "部", "CN": "好"}
    async with publishing(service):
        await caught_up(service)
        ((bad, _),) = await holders.issue(subject=good, der=b"\x30\x03no certificate")
        ((nameless, _),) = await holders.issue()
        made = await holders.issue(3, subject=good)
        await caught_up(service)
        (standing,) = await service.status()
        assert slapd.certificates(base) == {der for _, der in made}
        reasons = {one.reference: one.reason for one in standing.aside}
        assert "no subject.OU" in reasons[f"issuing/{serial_to_hex(nameless)}"]
        assert "syntax" in reasons[f"issuing/{serial_to_hex(bad)}"].lower()
        async with database.write() as connection:
            assert await publication.retry(connection, "main") == 2
        await caught_up(service)
        (standing,) = await service.status()
    assert sorted(one.attempts for one in standing.aside) == [2, 2]
    assert not any(one.retry for one in standing.aside)


def tls_files(directory: Path) -> tuple[Path, Path]:
    """(key, certificate) of a server on this machine."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
         "-out", certificate, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate


async def test_over_tls_only_to_the_server_that_it_trusts(database: Database, tmp_path: Path) -> None:
    key, certificate = tls_files(tmp_path)
    port = free_port()
    server = Slapd(TLS_CERTIFICATE=str(certificate), TLS_KEY=str(key), TLS_PORT=str(port)).start()
    try:
        holders = await Holders(database).begin()
        made = await holders.issue(2)
        started = server.target(f"ou=a,{SUFFIX}", start_tls=True, ca_file=str(certificate))
        whole = server.target(f"ou=b,{SUFFIX}", name="b", url=f"ldaps://127.0.0.1:{port}", ca_file=str(certificate))
        distrusting = server.target(f"ou=c,{SUFFIX}", name="c", url=f"ldaps://127.0.0.1:{port}")
        service = new_service(database, directory_settings(started, whole))
        async with publishing(service):
            await caught_up(service)
        for target in (started, whole):
            assert server.certificates(target.base) == {der for _, der in made}
        with pytest.raises(SinkDown):
            await service.sink(distrusting).open()
        with pytest.raises(ValueError, match="over TLS only"):
            server.target(SUFFIX, url="ldap://directory.example")
    finally:
        server.remove()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"certificate_dn": "cn={subject.CN}"}, "has to end in"),
        ({"certificate_dn": "cn={name},{base}"}, "there is no"),
        ({"authority_dn": "{authority},{base}"}, "not a distinguished name"),
        ({"crl_dn": "cn={serial},{base}"}, "there is no"),
        ({"attributes": {"cn": "{subject.CN"}}, "brace"),
        ({"start_tls": True, "url": "ldaps://x"}, "start_tls"),
        ({"password_file": None}, "go together"),
    ],
)
def test_settings_that_cannot_work_are_refused(slapd: Slapd, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        slapd.target(SUFFIX, **changes)


async def test_a_revoked_authority_is_not_shown_any_more(slapd: Slapd, database: Database, base: str) -> None:
    holders = await Holders(database).begin()
    serial = await holders.issue_authority()
    service = new_service(database, directory_settings(slapd.target(base)))

    def shown() -> set[bytes]:
        found = slapd.search(base, "(cACertificate=*)").values()
        return {value for entry in found for value in entry["cACertificate;binary"]}

    async with publishing(service):
        await caught_up(service)
        assert shown() == {holders.certificate, holders.root_certificate}
        await holders.change(serial, RevocationReason.CA_COMPROMISE, authority="root")
        await caught_up(service)
    assert shown() == {holders.root_certificate}
    async with database.write() as connection:
        await publication.ask_load(connection, "main", to=0)
    async with publishing(service):
        await caught_up(service)
    assert shown() == {holders.root_certificate}, "a load of everything does not bring it back"


def test_a_list_is_read_around_its_entries() -> None:
    for only in (False, True):
        crl = make_crl(300, only_ca=only)
        assert (crl_facts.number(crl), crl_facts.only_authorities(crl)) == (300, only)
    with pytest.raises(Malformed):
        crl_facts.number(b"\x30\x03\x02\x01\x01")
