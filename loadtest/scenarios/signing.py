"""Signing for applications, one at a time and in bulk, and verification of many signatures."""

from __future__ import annotations

import base64
import json
from typing import Any, ClassVar, Final

from loadtest import sm2
from loadtest.call import Answer, Call, Wrong
from loadtest.scenarios.base import Scenario, Single, World, expect, need

BULK_DIGESTS: Final = 256
VERIFY_ITEMS: Final = 64
_JSON: Final = {"Content-Type": "application/json"}
_OCTETS: Final = {"Content-Type": "application/octet-stream"}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Sign(Single):
    """One digest, JSON."""

    name: ClassVar[str] = "sign"
    help: ClassVar[str] = "POST /v1/sign with one digest"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        need(world.target.signing_public_key, "public key of the signing key")

    def call(self) -> Call:
        digest = self.world.rng.randbytes(32)
        body = json.dumps({"key": self.world.target.signing_key, "digest": _b64(digest)}).encode()

        def check(answer: Answer) -> None:
            try:
                signature = base64.b64decode(json.loads(answer.body)["signature"], validate=True)
                sm2.verify_digest(self.world.target.signing_public_key, digest, signature)
            except (ValueError, KeyError, TypeError, sm2.InvalidSignature) as error:
                raise Wrong(f"not a signature over the digest: {error!r}") from error

        return Call(self.name, "private", "POST", "/v1/sign", _JSON, body, size=(60, 400), check=check)


class SignBulk(Single):
    """Many digests in octets."""

    name: ClassVar[str] = "sign-bulk"
    help: ClassVar[str] = f"POST /v1/keys/KEY/sign with {BULK_DIGESTS} digests"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        need(world.target.signing_public_key, "public key of the signing key")

    def call(self) -> Call:
        digests = self.world.rng.randbytes(32 * BULK_DIGESTS)
        point = sm2.public_key(self.world.target.signing_public_key)

        def check(answer: Answer) -> None:
            told = sm2.verify_many(point, digests, answer.body)
            expect(told == b"\1" * BULK_DIGESTS, f"{told.count(0)} of {BULK_DIGESTS} signatures are not good")

        size = (64 * BULK_DIGESTS, 64 * BULK_DIGESTS)
        path = f"/v1/keys/{self.world.target.signing_key}/sign"
        return Call(self.name, "private", "POST", path, _OCTETS, digests, size=size, check=check)


class VerifyBulk(Single):
    """Signatures of holders, good and bad, under certificates that are good, revoked and held."""

    name: ClassVar[str] = "verify-bulk"
    help: ClassVar[str] = f"POST /v1/verify with {VERIFY_ITEMS} signatures under holders' certificates"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        need(world.target.holders, "holders")
        self._items = [item for n in range(4 * VERIFY_ITEMS) for item in [self._item(n)]]

    def _item(self, number: int) -> tuple[dict[str, Any], str | None]:
        holders = self.world.target.holders
        holder = holders[number % len(holders)]
        data = self.world.rng.randbytes(120)
        signature = sm2.sign(sm2.PrivateKey.from_bytes(holder.key), data)
        reason = {"good": None, "revoked": "revoked", "held": "suspended"}[holder.state]
        if number % 16 == 0:  # signed over something else
            data, reason = data[:-1] + bytes([data[-1] ^ 1]), "signature"
        item = {"certificate": _b64(holder.certificate), "data": _b64(data), "signature": _b64(signature)}
        return item, reason

    def call(self) -> Call:
        chosen = self.world.rng.sample(self._items, VERIFY_ITEMS)
        body = json.dumps({"items": [item for item, _ in chosen]}).encode()
        truth = [reason for _, reason in chosen]

        def check(answer: Answer) -> None:
            results = json.loads(answer.body)["results"]
            told = [one["reason"] for one in results]
            expect(told == truth, f"verified as {told}, but it is {truth}")
            expect(
                [one["valid"] for one in results] == [reason is None for reason in truth], "valid against its reason"
            )

        return Call(self.name, "public", "POST", "/v1/verify", _JSON, body, size=(VERIFY_ITEMS * 10, 1 << 20),
                    check=check)  # fmt: skip


ALL: Final[tuple[type[Scenario], ...]] = (Sign, SignBulk, VerifyBulk)
