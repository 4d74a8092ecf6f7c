"""Reads a TOML file into a frozen pydantic model; says in one line what is wrong with it.

Each package declares its own settings as a `Settings` subclass beside the code that uses it; `service.settings`
composes them into the one file. An unknown key is an error: a misspelt setting must not be a default.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import SettingsError


class Settings(BaseModel):
    """Base of every settings struct: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


S = TypeVar("S", bound=Settings)


def explain(error: ValidationError) -> tuple[str, str]:
    """The first thing that a model refused: (dotted field, what is wrong)."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "there is no such setting" if not field else "is not known"
    return field, message


def load_toml(path: Path, model: type[S]) -> S:
    """The settings in `path`. Raises SettingsError with the file, the key and what to do."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingsError(
            f"there is no settings file {path}; run 'qianyan init', or name one with --config", code="settings_missing"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}", code="settings_unreadable") from error
    try:
        return model.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}", code="settings_toml") from error
    except ValidationError as error:
        field, message = explain(error)
        raise SettingsError(f"{path}: setting '{field}': {message}", code="settings_value", field=field) from error
