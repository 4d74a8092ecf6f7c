"""The committed vectors: the encoder writes them, the reader reads them, docs/status-set.md shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.asn1.x509 import key_identifier, public_key_of_certificate
from qianyan_status import Answer, StatusSet, load
from qianyan_status._codec import decode
from qianyan_status._file import split
from signer.engine.verify import verify_signature
from tests.vectors import generate_status_set as generator

VECTORS: dict[str, Any] = json.loads(generator.FILE.read_text())
EXAMPLE = VECTORS["example"]


def test_the_generator_writes_the_file() -> None:
    assert json.loads(json.dumps(generator.build(EXAMPLE))) == VECTORS


@pytest.mark.parametrize("vector", VECTORS["payloads"], ids=lambda vector: vector["what"])
def test_payloads(vector: dict[str, Any]) -> None:
    assert decode(bytes.fromhex(vector["payload"]), vector["size"]) == generator.keys_of(vector["runs"])


def test_hash_payloads() -> None:
    for vector in VECTORS["hash_payloads"]:
        assert decode(bytes.fromhex(vector["payload"]), 1 << vector["bits"], whole=True) == vector["keys"]


def example(delta: bool) -> StatusSet:
    """The example's set, alone or with its delta, half an hour after thisUpdate."""
    at_s = generator.NOON_MS // 1000 + 1800 + 3600 * delta
    return load(
        bytes.fromhex(EXAMPLE["set"]),
        bytes.fromhex(EXAMPLE["delta"]) if delta else None,
        issuer=bytes.fromhex(EXAMPLE["issuer"]),
        verify=verify_signature,
        clock=lambda: at_s,
    )


def word(answer: Answer) -> str:
    """As the vectors spell it."""
    return answer.status.name.lower() + (", on hold" if answer.on_hold else "")


@pytest.mark.parametrize("delta", [False, True])
def test_the_example_says_what_it_should(delta: bool) -> None:
    loaded = example(delta)
    for case in EXAMPLE["certificates"]:
        answer = loaded.query(bytes.fromhex(case["certificate"]))
        assert word(answer) == case["by_set_and_delta" if delta else "by_set"], case["what"]
    digest = VECTORS["state_digests"]["delta" if delta else "set"]
    assert loaded.contents.header.state_digest.hex() == digest


def test_the_encoder_writes_the_example() -> None:
    issuer, base = bytes.fromhex(EXAMPLE["issuer"]), bytes.fromhex(EXAMPLE["set"])
    key_id = key_identifier(public_key_of_certificate(issuer))
    assert generator.unsigned(issuer, key_id, None) == split(base).tbs
    assert generator.unsigned(issuer, key_id, base) == split(bytes.fromhex(EXAMPLE["delta"])).tbs


def test_the_documentation_shows_the_vectors() -> None:
    text = (Path(__file__).parent.parent / "docs" / "status-set.md").read_text()
    shown = "".join(text.split())
    for vector in VECTORS["payloads"]:
        assert f"`{vector['payload']}`" in text or len(vector["payload"]) > 60 or not vector["payload"]
    assert VECTORS["state_digests"]["set"] in shown
    assert EXAMPLE["set"][:80] in shown
