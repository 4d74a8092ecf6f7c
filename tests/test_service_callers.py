"""Callers by certificate: admitted by what is registered, looked at with each request, refused once withdrawn."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.caller_world import Client, ClientAuthority, Connection, bearer, code, command, make_token, succeed
from tests.running import Answer, Installation, Service


class TwoWorkers(Service):
    """`qianyan serve --workers 2`."""

    arguments = ("--workers", "2")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClientAuthority:
    """The one that the service trusts."""
    return ClientAuthority(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, authority: ClientAuthority) -> Iterator[Service]:
    """Two workers behind TLS that take certificates."""
    installation = Installation(tmp_path_factory.mktemp("callers") / "var", tls="on").made()
    installation.set("private", 'client_certificates = "optional"')
    installation.set("private", f'client_ca = ["{authority.file}"]')
    installation.set("private", "record_interval_s = 1")
    with TwoWorkers(installation) as running:
        yield running


def add(service: Service, name: str, client: Client, *more: str) -> None:
    """`qianyan caller add` with scope sign."""
    succeed(
        command(
            service.installation, "caller", "add", name, "--certificate", client.certificate, "--scope", "sign", *more
        )
    )


def until(holds: Callable[[], bool], what: str) -> None:
    """Waits for a condition, with a deadline."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.05)


@pytest.mark.parametrize("use_rsa", [False, True])
def test_a_registered_certificate_admits(service: Service, authority: ClientAuthority, use_rsa: bool) -> None:
    name = f"app-{use_rsa}"
    client = authority.issue("应用", use_rsa=use_rsa)
    connection = Connection(service, client)
    assert code(connection.sign()) == (401, "certificate_unknown")
    add(service, name, client)
    assert connection.sign().status == 200
    assert code(connection.call("GET", "/metrics")) == (403, "scope")
    metrics = service.call("GET", "/metrics").body.decode()
    assert f'qianyan_caller_requests_total{{caller="cert:{name}",worker=' in metrics


def test_one_from_another_authority_never_gets_in(service: Service, authority: ClientAuthority, tmp_path: Path) -> None:
    foreign = ClientAuthority(tmp_path, name=authority.name).issue("应用")
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        Connection(service, foreign).sign(**bearer(service.installation.token))


def test_a_token_needs_no_certificate_and_names_the_caller(service: Service, authority: ClientAuthority) -> None:
    token = bearer(service.installation.token)
    assert Connection(service).sign(**token).status == 200
    assert code(Connection(service).sign()) == (401, "unauthenticated")
    with_both = Connection(service, authority.issue("not registered"))
    assert with_both.sign(**token).status == 200
    assert code(with_both.sign(**bearer("wrong"))) == (401, "unauthenticated")


def test_a_withdrawn_one_is_refused_on_every_open_connection(service: Service, authority: ClientAuthority) -> None:
    client = authority.issue("要撤的")
    add(service, "leaver", client)
    connections = [Connection(service, client) for _ in range(12)]
    assert {connection.sign().status for connection in connections} == {200}
    succeed(command(service.installation, "caller", "withdraw", "leaver"))
    assert {code(connection.sign()) for connection in connections} == {(401, "certificate_unknown")}
    assert command(service.installation, "caller", "withdraw", "leaver").status == 1
    # The same certificate may be admitted anew, under a name that is free.
    assert command(
        service.installation, "caller", "add", "leaver", "--certificate", client.certificate, "--scope", "sign"
    ).status
    add(service, "leaver-2", client)
    assert connections[0].sign().status == 200


def test_a_withdrawn_token_is_refused_on_every_open_connection(service: Service) -> None:
    token = bearer(make_token(service.installation, "leaving-token"))
    connections = [Connection(service) for _ in range(12)]
    assert {connection.sign(**token).status for connection in connections} == {200}
    succeed(command(service.installation, "caller", "withdraw", "token:leaving-token"))
    assert {code(connection.sign(**token)) for connection in connections} == {(401, "unauthenticated")}


def test_by_subject_a_successor_is_taken_too(service: Service, authority: ClientAuthority) -> None:
    add(service, "by-subject", authority.issue("省平台"), "--match", "subject")
    assert Connection(service, authority.issue("省平台")).sign().status == 200
    assert code(Connection(service, authority.issue("市平台")).sign()) == (401, "certificate_unknown")
    again = command(
        service.installation,
        *("caller", "add", "second", "--certificate", authority.issue("省平台").certificate),
        *("--match", "subject", "--scope", "sign"),
    )
    assert again.status == 1
    assert "by-subject" in again.stderr


def test_expiry_is_looked_at_with_each_request(service: Service, authority: ClientAuthority) -> None:
    answers: list[Answer] = []
    for life_s in (6, 15, 50):  # until one lives for longer than this machine takes to admit it
        client = authority.issue(f"short-{life_s}", life=timedelta(seconds=life_s))
        arguments = ("--certificate", client.certificate, "--scope", "sign")
        command(service.installation, "caller", "add", f"short-{life_s}", *arguments)
        connection = Connection(service, client)
        answers = [connection.sign()]
        if answers[0].status == 200:
            break
    assert answers[0].status == 200, answers[0].body

    def refused() -> bool:
        answers.append(connection.sign())
        return answers[-1].status != 200

    until(refused, "an expired certificate still admits")
    assert code(answers[-1]) == (401, "certificate_expired")
    assert code(connection.sign(**bearer(service.installation.token))) == (401, "certificate_expired")
    late = command(
        service.installation, "caller", "add", "late", "--certificate", client.certificate, "--scope", "sign"
    )
    assert (late.status, "has expired" in late.stderr) == (1, True)


def test_a_token_expires(service: Service) -> None:
    connection = Connection(service)
    for life_s in (4, 15, 50):  # until one lives for longer than this machine takes to make it
        name = f"short-{life_s}"
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + life_s))
        token = bearer(make_token(service.installation, name, "--expires", at))
        if (status := connection.sign(**token).status) == 200:
            break
    assert status == 200
    until(lambda: connection.sign(**token).status == 401, "an expired token still admits")
    assert code(connection.sign(**token)) == (401, "token_expired")
    (row,) = [row for row in command(service.installation, "token", "list", "--json").json if row["id"] == name]
    assert (row["state"], row["expires_at"]) == ("expired", at)
    past = command(service.installation, "token", "create", "past", "--scope", "sign", "--expires", "2020-01-01")
    assert (past.status, "past" in past.stderr) == (2, True)


def test_callers_are_shown(service: Service, authority: ClientAuthority) -> None:
    client = authority.issue("shown")
    add(service, "shown", client, "--requests-per-second", "500")
    assert Connection(service, client).sign().status == 200
    shown = command(service.installation, "caller", "show", "shown", "--json").json
    assert shown["id"] == "cert:shown"
    assert shown["limits"] == {"requests_per_s": 500}
    der = ssl.PEM_cert_to_DER_cert(client.certificate.read_text())
    assert shown["certificate"]["sha256"] == hashlib.sha256(der).hexdigest()

    def used() -> bool:
        rows = {row["id"]: row for row in command(service.installation, "caller", "list", "--json").json}
        return rows["cert:shown"]["last_used_at"] is not None and rows["token:demo"]["last_used_at"] is not None

    until(used, "the last use was not recorded")
    text = succeed(command(service.installation, "caller", "list")).stdout
    assert service.installation.token not in text
    assert command(service.installation, "caller", "show", "nobody").status == 1


def test_settings_that_cannot_work(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var").made()
    installation.set("private", 'client_certificates = "required"')
    assert "certificate_header" in command(installation, "config", "check").stderr
    installation.set("private", 'tls = "on"')
    assert "client_ca" in command(installation, "config", "check").stderr


def test_required_means_that_a_token_alone_is_not_enough(tmp_path: Path) -> None:
    """Behind a proxy on this machine that hands on the certificate; the TLS handshake refuses by itself otherwise."""
    authority = ClientAuthority(tmp_path)
    client = authority.issue("behind a proxy")
    pem = client.certificate.read_text()
    installation = Installation(tmp_path / "var").made()
    for line in ('client_certificates = "required"', 'certificate_header = "X-Client-Certificate"'):
        installation.set("private", line)
    with Service(installation) as service:
        token = bearer(installation.token)
        connection = Connection(service)
        assert code(connection.sign(**token)) == (401, "certificate_missing")
        assert code(connection.sign(**token, X_Client_Certificate="")) == (401, "certificate_missing")
        assert code(connection.sign(X_Client_Certificate=quote(pem))) == (401, "certificate_unknown")
        assert connection.sign(**token, X_Client_Certificate=quote(pem)).status == 200
        add(service, "proxied", client)
        assert connection.sign(X_Client_Certificate=quote(pem)).status == 200
        encoded = "".join(pem.splitlines()[1:-1])
        assert connection.sign(X_Client_Certificate=f":{encoded}:").status == 200
        for bad in ("junk", ":junk:", quote(pem)[:200], ":MAA=:"):
            answer = connection.sign(X_Client_Certificate=bad)
            assert answer.json["code"] in ("certificate_header", "certificate"), answer.body
        succeed(command(installation, "caller", "withdraw", "proxied"))
        assert code(connection.sign(X_Client_Certificate=quote(pem))) == (401, "certificate_unknown")


def test_required_in_the_handshake(tmp_path: Path) -> None:
    authority = ClientAuthority(tmp_path)
    client = authority.issue("asked for")
    installation = Installation(tmp_path / "var", tls="on").made()
    installation.set("private", 'client_certificates = "required"')
    installation.set("private", f'client_ca = ["{authority.file}"]')
    with Service(installation) as service:
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            Connection(service).sign(**bearer(installation.token))
        assert Connection(service, client).sign(**bearer(installation.token)).status == 200
        # A header is believed only where the settings name one.
        header = quote(client.certificate.read_text())
        assert code(Connection(service, client).sign(X_Client_Certificate=header)) == (401, "certificate_unknown")
