"""Profile files: what is read, and the one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from core.errors import Refused, SettingsError
from signer.issuance.profiles import Profile, SubjectRules, load_profiles
from signer.issuance.settings import IssuanceSettings


def write(path: Path, text: str) -> Path:
    file = path / "profiles.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_shipped_profiles() -> None:
    profiles = load_profiles()
    for name in ("organisation", "person", "device"):
        profile = profiles.get(name)
        assert profile.dual
        assert profile.validity_days == 365
        assert profile.subject.fixed == {"C": "CN"}
    assert not profiles.get("server").dual
    with pytest.raises(Refused) as refusal:
        profiles.get("nobody")
    assert "organisation" in refusal.value.detail


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    text = '[profiles.staff]\ndual = false\nvalidity_days = 30\npolicies = ["2.16.156.1.1"]\nsubject.allowed = ["CN"]\n'
    profile = load_profiles(write(tmp_path, text)).get("staff")
    assert (profile.dual, profile.validity_days, profile.policies) == (False, 30, ("2.16.156.1.1",))


SUBJECT = 'subject.allowed = ["CN"]\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "profiles"),
        ("profiles = 1", "profiles"),
        ("[profiles.a]\n", "subject"),
        ("[profiles.a]\nvalidity = 1\n" + SUBJECT, "profiles.a.validity"),
        ("[profiles.a]\nvalidity_days = 0\n" + SUBJECT, "validity_days"),
        ("[profiles.a]\nmedium = 'paper'\n" + SUBJECT, "medium"),
        ("[profiles.a]\nsign_key_usage = ['key_cert_sign']\n" + SUBJECT, "sign_key_usage"),
        ("[profiles.a]\nextended_key_usage = ['1.3.6.1.5.5.7.3.9']\n" + SUBJECT, "not given to holders"),
        ("[profiles.a]\nextended_key_usage = ['2.25.160735196.3']\n" + SUBJECT, "not given to holders"),
        ("[profiles.a]\nextended_key_usage = ['web']\n" + SUBJECT, "object identifier"),
        ("[profiles.a]\npolicies = ['1.2.3', '1.2.3']\n" + SUBJECT, "twice"),
        ("[profiles.a]\nsubject.allowed = ['X']\n", "subject.allowed"),
        ("[profiles.a]\nsubject.allowed = ['O']\nsubject.required = ['CN']\n", "required and not allowed"),
        ("[profiles.a]\nsubject.allowed = ['CN']\nsubject.fixed = { C = 'cn' }\n", "capital letters"),
        ("[profiles.A]\n" + SUBJECT, "pattern"),
        ("[profiles.a\n", "TOML"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_profiles(write(tmp_path, text))
    assert says in refusal.value.detail
    assert "profiles.toml" in refusal.value.detail
    assert "\n" not in refusal.value.detail.replace(text, "")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        load_profiles(tmp_path / "none.toml")


def test_subject_rules() -> None:
    rules = SubjectRules(allowed=frozenset({"CN", "OU"}), fixed={"C": "CN"})
    assert rules.apply({"CN": ["a"]}) == {"CN": ["a"], "C": ["CN"]}
    assert rules.apply({"C": ["CN"], "CN": ["a"]})["C"] == ["CN"]
    for fields, at in (({"C": ["US"], "CN": ["a"]}, "C"), ({"OU": ["a"]}, "CN"), ({"CN": ["a"], "O": ["b"]}, "O")):
        with pytest.raises(Refused) as refusal:
            rules.apply(fields)
        assert refusal.value.field == f"subject.{at}"


@pytest.mark.parametrize(
    "url", ["", "pki.example.cn", "http://", "http://a.cn/x?y=1", "http://a.cn/ x", "ldap://a.cn", "http://签.cn"]
)
def test_public_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        IssuanceSettings(public_url=url)


def test_a_trailing_slash_is_dropped() -> None:
    assert IssuanceSettings(public_url="https://a.cn:8443/pki/").public_url == "https://a.cn:8443/pki"


@pytest.mark.parametrize("oid", ["", "1", "1.40.1", "3.1.1", "1.2.x", "1.2.03"])
def test_status_index_oids_that_are_refused(oid: str) -> None:
    with pytest.raises(ValidationError):
        IssuanceSettings(status_index_oid=oid)


def test_profiles_are_frozen() -> None:
    profile = Profile(subject=SubjectRules(allowed=frozenset({"CN"})))
    with pytest.raises(ValidationError):
        profile.dual = False  # type: ignore[misc]
