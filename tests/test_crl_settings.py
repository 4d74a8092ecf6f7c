"""Settings that would let a CRL grow older than a day fail the start, and say which one it was."""

from pathlib import Path

import pytest

from core.errors import SettingsError
from core.settings import Settings, load_toml
from crl.settings import CrlSettings


class File(Settings):
    crl: CrlSettings = CrlSettings()


def load(tmp_path: Path, text: str) -> CrlSettings:
    path = tmp_path / "qianyan.toml"
    path.write_text(text)
    return load_toml(path, File).crl


def test_the_defaults_are_an_hour_and_a_day(tmp_path: Path) -> None:
    settings = load(tmp_path, "")
    assert (settings.period_s, settings.life_s, settings.debounce_s) == (3600, 86_400, 2.0)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("period_s = 86400", "period_s is 86400"),
        ("life_s = 86401", "life_s is 86401"),
        ("period_s = 7200\nlife_s = 7200", "period_s is 7200; it must be less than life_s"),
        ("period_s = 100\ntimeout_s = 100\nback_off_max_s = 9", "timeout_s is 100; it must be less than period_s"),
        ("debounce_s = 3600.0", "debounce_s is 3600.0"),
        ("back_off_max_s = 3600.0", "back_off_max_s is 3600.0"),
        ("back_off_first_s = 61.0", "back_off_first_s"),
        ("period_s = 0", "period_s"),
        ("keep = 1", "keep"),
        ("perios_s = 60", "crl.perios_s"),
    ],
)
def test_a_dangerous_setting_fails_the_start(tmp_path: Path, line: str, named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, f"[crl]\n{line}\n")
    assert named in refused.value.detail
    assert "\n" not in refused.value.detail
