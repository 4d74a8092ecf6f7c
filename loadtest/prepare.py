"""Makes what a run needs in a service that is there, over HTTP: holders' certificates with their keys, and the truth.

Some of them are revoked and held. Owns nothing that outlives it: the target file is the caller's to write.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from loadtest import sm2
from loadtest.target import Holder, State, Target, TargetError
from loadtest.x509 import Issuer, build_request

_UNDER_WAY: Final = 8


@dataclass(frozen=True)
class Wish:
    """How many holders, and what share of them is revoked and held."""

    holders: int
    revoked: float
    held: float
    profile: str = "organisation"
    ra: bool = False

    def state(self, number: int) -> State:
        """Of the holder with that number."""
        place = (number + 0.5) / self.holders
        if place < self.revoked:
            return "revoked"
        return "held" if place < self.revoked + self.held else "good"


class Preparation:
    """Issues and revokes; `holders` and `serials` are the truth afterwards."""

    def __init__(self, session: aiohttp.ClientSession, private: str, token: str, wish: Wish) -> None:
        self._session, self._private, self._wish = session, private, wish
        self._headers = {"Authorization": f"Bearer {token}"}
        self.holders: list[Holder] = []
        self.serials: dict[State, list[int]] = {"good": [], "revoked": [], "held": []}
        self.issuer: Issuer

    async def _post(self, path: str, value: dict[str, Any]) -> Any:
        async with self._session.post(f"{self._private}{path}", json=value, headers=self._headers) as response:
            text = await response.read()
            if response.status >= 300:
                raise TargetError(f"POST {path} was answered {response.status}: {text[:300].decode(errors='replace')}")
            return json.loads(text)

    async def run(self, told: Callable[[int], None]) -> None:
        """All holders. Raises TargetError."""
        room = asyncio.Semaphore(_UNDER_WAY)

        async def one(number: int) -> None:
            async with room:
                await self._holder(self._wish.state(number))
                told(len(self.holders))

        await asyncio.gather(*(one(number) for number in range(self._wish.holders)))

    async def _holder(self, state: State) -> None:
        key = sm2.PrivateKey.generate()
        csr = build_request(key, f"压测 {secrets.token_hex(8)}", "压力测试单位")
        body = {"csr": base64.b64encode(csr).decode(), "profile": self._wish.profile}
        told = await self._post("/v1/certificates", body)
        self.issuer = Issuer(base64.b64decode(told["chain"][0]))
        serials = [int(one["serial"], 16) for one in told["certificates"]]
        signing = next(one for one in told["certificates"] if one["usage"] == "sign")
        if state == "revoked":
            await self._post(f"/v1/certificates/{signing['serial']}/revoke", {"reason": "key_compromise"})
        elif state == "held":
            await self._post(f"/v1/certificates/{signing['serial']}/suspend", {})
        self.serials[state] += serials
        secret = bytearray(32)
        key.export_into(secret)
        certificate = base64.b64decode(signing["certificate"])
        self.holders.append(Holder(int(signing["serial"], 16), state, certificate, bytes(secret)))

    async def registration_authority(self) -> dict[str, Any]:
        """An RA with an operator and an approver, whose certificates the service issues."""
        name = f"load-{secrets.token_hex(4)}"
        everything = {scope: ["*"] for scope in ("profiles", "regions", "customers")}
        await self._post("/v1/ras", {"id": name, "name": "压力测试登记处", **everything})
        found: dict[str, Any] = {"id": name}
        for role in ("operator", "approver"):
            key = sm2.PrivateKey.generate()
            csr = base64.b64encode(build_request(key, f"压测 {role}", "压力测试单位")).decode()
            wish = {"id": role, "name": f"压测 {role}", "roles": [role], "csr": csr}
            told = await self._post(f"/v1/ras/{name}/people", wish)
            secret = bytearray(32)
            key.export_into(secret)
            found[role] = {"certificate": told["certificate"], "key": base64.b64encode(secret).decode()}
        return found


async def prepare(target: Target, wish: Wish, told: Callable[[int], None]) -> Target:
    """Fills a target that knows its URLs and token. Raises TargetError."""
    tls = ssl.create_default_context(cafile=target.ca_file) if target.ca_file else True
    connector = aiohttp.TCPConnector(ssl=tls)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
            work = Preparation(session, target.private, target.token, wish)
            await work.run(told)
            if wish.ra:
                target.ra = await work.registration_authority()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise TargetError(f"cannot reach {target.private}: {error!r}; is the service running?") from error
    target.issuer = work.issuer
    target.holders = work.holders
    for state, serials in work.serials.items():
        target.population.setdefault(state, []).extend(serials)
    return target
