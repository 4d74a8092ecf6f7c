"""The words in which the HTTP interface is described: JSON Schema by short names, and operations.

Owns the shapes that several operations share. Knows no routes; bodies that have a pydantic model are described by it.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

Schema = Mapping[str, Any]

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
PROBLEM: Final = "application/problem+json"
TEXT: Final = "text/plain"


def text(description: str = "", **more: Any) -> dict[str, Any]:
    """A string."""
    return _described({"type": "string", **more}, description)


def binary(description: str = "") -> dict[str, Any]:
    """Base64 of octets."""
    return text(description, contentEncoding="base64")


def hexadecimal(description: str = "") -> dict[str, Any]:
    """A serial."""
    return text(description, pattern="^[0-9a-fA-F:]{1,64}$")


def time(description: str = "") -> dict[str, Any]:
    """RFC 3339, UTC."""
    return text(description, format="date-time")


def one_of(*values: str, description: str = "") -> dict[str, Any]:
    """One of some words."""
    return text(description, enum=list(values))


def number(description: str = "", **more: Any) -> dict[str, Any]:
    """An integer."""
    return _described({"type": "integer", **more}, description)


def flag(description: str = "") -> dict[str, Any]:
    """True or false."""
    return _described({"type": "boolean"}, description)


def many(items: Schema, **more: Any) -> dict[str, Any]:
    """A list."""
    return {"type": "array", "items": items, **more}


def maybe(schema: Schema) -> dict[str, Any]:
    """That, or null."""
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    out = {**schema, "type": [schema["type"], "null"]}
    return {**out, "enum": [*schema["enum"], None]} if "enum" in schema else out


def members(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> dict[str, Any]:
    """An object. Answers may get more members in time; readers leave out what they do not know."""
    found: dict[str, Any] = {"type": "object", "properties": {**required, **(optional or {})}}
    if required:
        found["required"] = list(required)
    return found


def ref(name: str) -> dict[str, str]:
    """A component."""
    return {"$ref": f"#/components/schemas/{name}"}


def _described(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {**schema, "description": description} if description else schema


@dataclass(frozen=True, slots=True)
class Parameter:
    """A member of the query."""

    name: str
    schema: Schema
    required: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One call. `path`: as the route is registered, patterns left out.

    scope: what the token needs; None: none is asked for. signed: a signed message (CMS) may stand in place of body and
    token. body: by media type, a schema, or a pydantic model; `optional`: it may be left out. answers: by status.
    codes: problem codes by status, beside those that every call may have. once: whether it takes an `Idempotency-Key`.
    """

    method: Literal["get", "post"]
    path: str
    tag: str
    summary: str
    listeners: tuple[str, ...] = ("private",)
    description: str = ""
    scope: str | None = None
    body: Mapping[str, Schema | type[BaseModel]] | None = None
    optional: bool = False
    query: Sequence[Parameter] = ()
    answers: Mapping[int, tuple[str, Mapping[str, Schema]]] = field(default_factory=dict)
    codes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    once: bool = False
    signed: bool = False


def model_schemas(models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """The schemas of `models` and of what they hold, by name; attribute docstrings as descriptions."""
    _, whole = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Any] = whole.get("$defs", {})
    for model in models:
        for name, description in _attribute_docs(model).items():
            schemas[model.__name__].get("properties", {}).get(name, {}).setdefault("description", description)
    return schemas


def _attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """The docstring behind each attribute, of the class and those that it is derived from."""
    found: dict[str, str] = {}
    for cls in model.__mro__:
        if not issubclass(cls, BaseModel) or cls is BaseModel:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        assert isinstance(tree.body[0], ast.ClassDef)
        body = tree.body[0].body
        for statement, after in itertools.pairwise(body):
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            if (
                isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found.setdefault(statement.target.id, inspect.cleandoc(after.value.value))
    return found
