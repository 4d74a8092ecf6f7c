"""Holds what a service answered against the description of its interface."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from openapi_schema_validator import OAS31Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from service.openapi import encoded
from service.openapi_schemas import PROBLEM
from tests.running import Answer


@cache
def description() -> dict[str, Any]:
    """The description, as it is served."""
    found: dict[str, Any] = json.loads(encoded())
    return found


def conforms(value: object, schema: dict[str, Any]) -> None:
    """Raises where `value` is not as `schema`, which may refer to components, says."""
    registry: Registry[Any] = Registry().with_resource("", Resource(description(), DRAFT202012))
    OAS31Validator({**schema, "components": description()["components"]}, registry=registry).validate(value)


def is_a(value: object, component: str) -> None:
    """Raises where `value` is not as the component of that name."""
    conforms(value, {"$ref": f"#/components/schemas/{component}"})


def check(answer: Answer, method: str, path: str) -> None:
    """The answer is one of those described for the call, its body and its code as described."""
    responses = description()["paths"][path][method]["responses"]
    assert str(answer.status) in responses, answer.body
    media = answer.headers["Content-Type"].partition(";")[0]
    described = responses[str(answer.status)]
    conforms(answer.json, described["content"][media]["schema"])
    if media == PROBLEM:
        assert answer.json["code"] in described["x-problem-codes"], answer.json
