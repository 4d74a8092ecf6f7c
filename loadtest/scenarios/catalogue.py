"""All scenarios by name, and mixes of them."""

from __future__ import annotations

from typing import Final

from loadtest.scenarios import directory, downloads, issuance, ocsp, registration, signing
from loadtest.scenarios.base import Scenario, Single
from loadtest.target import TargetError

SCENARIOS: Final[dict[str, type[Scenario]]] = {
    one.name: one for one in (*ocsp.ALL, *signing.ALL, *downloads.ALL, *directory.ALL, *issuance.ALL, *registration.ALL)
}

#: Requests (or journeys) a second of each: what a province's service sees on an ordinary morning, thinned to what two
#: cores carry beside the generator.
MIXES: Final[dict[str, dict[str, float]]] = {
    "standard": {
        "ocsp-post": 1200,
        "ocsp-get": 500,
        "ocsp-nonce": 600,
        "ocsp-unknown": 20,
        "ocsp-several": 60,
        "sign": 600,
        "sign-bulk": 4,
        "verify-bulk": 4,
        "status-bulk": 4,
        "crl": 5,
        "status-set": 3,
        "ldap": 10,
        "issue": 1,
        "life-cycle": 0.5,
    },
    "ocsp": {"ocsp-post": 6, "ocsp-get": 2, "ocsp-nonce": 2},
    "renewal": {"ocsp-post": 20, "sign": 4, "issue": 1},
    "registration": {"ra-issue": 4, "ra-life-cycle": 1, "ocsp-post": 20},
    "revocation": {"ocsp-nonce": 50, "ocsp-post": 50, "revoke": 1, "crl": 2, "status-set": 2},
}
#: Kinds of calls that are OCSP questions: all, and those with a nonce.
OCSP_KINDS: Final = ("ocsp-post", "ocsp-get", "ocsp-nonce", "ocsp-unknown", "ocsp-several", "ocsp-after")
NONCE_KINDS: Final = ("ocsp-nonce", "ocsp-after")


def is_fast(name: str) -> bool:
    """Whether the compiled driver can send it: independent calls over HTTP."""
    return issubclass(SCENARIOS[name], Single) and name != directory.Search.name


def read_mix(texts: tuple[str, ...], mix: str | None, rate: float | None) -> dict[str, float]:
    """`NAME=RATE` texts, or a named mix, scaled to `rate` a second in all. Raises TargetError."""
    if mix is not None and mix not in MIXES:
        raise TargetError(f"there is no mix {mix!r}; one of: {', '.join(MIXES)}")
    rates = dict(MIXES[mix]) if mix is not None else {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in SCENARIOS:
            raise TargetError(f"there is no scenario {name!r}; one of: {', '.join(SCENARIOS)}")
        try:
            rates[name] = float(value or 1)
        except ValueError:
            raise TargetError(f"{text!r}: write NAME=REQUESTS_A_SECOND, for example ocsp-post=500") from None
    rates = {name: value for name, value in rates.items() if value > 0}
    if not rates:
        raise TargetError("name at least one --scenario NAME=RATE or a --mix")
    if rate is not None:
        scale = rate / sum(rates.values())
        rates = {name: value * scale for name, value in rates.items()}
    return rates
