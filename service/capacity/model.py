"""The capacity model: from holders and habits to loads, sizes and nodes. Pure functions of plain numbers.

Rates are per second at the peak, sizes in octets, shares from 0 to 1. What a machine does comes from `Coefficients`,
measured; what people do comes from `Demand`, assumed, to be replaced by what is known. Every formula is in
docs/capacity.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from service.capacity.coefficients import Coefficients

DAY_S = 86_400
#: Working time in a year: 250 days of 8 hours, in which nearly all business falls.
WORKING_S = 250 * 8 * 3600


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of the installation.

    holders: new or renewed in a year, each with `certificates` of a year's validity. revoked: share of these before
    their end. retention_years: kept after the end. issue_peak: the busiest second over the mean of a year's working
    time; use_peak: over that of a working day. uses_per_day: how often a holder's certificates are relied on in a
    working day; online: share of those that ask OCSP; nonce: share of these that ask with a nonce; hits: share of the
    others whose answer is in memory. app_signs, app_verifies: signatures made and verified for applications, for each
    holder and working day. relying: systems that fetch every CRL (`crl_fetches` times a day) and the status set
    (`set_fetches` times).
    """

    holders: int
    certificates: int = 2
    revoked: float = 0.05
    retention_years: int = 10
    issue_peak: float = 20.0
    use_peak: float = 5.0
    uses_per_day: float = 4.0
    online: float = 0.5
    nonce: float = 0.2
    hits: float = 0.9
    app_signs: float = 1.0
    app_verifies: float = 1.0
    relying: int = 200
    crl_fetches: float = 24.0
    set_fetches: float = 96.0


@dataclass(frozen=True, slots=True)
class Plant:
    """What it is asked of. A node has `cores`, of which `headroom` stays free at the peak; `spare` nodes may be lost.

    hsm_per_s: the rate of all devices together; 0: keys in software. commits_per_s: of a primary store; 0: as measured.
    The others say what one of something carries: octets of a store's disk and of a Redis, octets a second of a node's
    network, octets of one CRL as a client can take it, seconds between CRLs of a partition.
    """

    cores: int = 8
    headroom: float = 0.4
    spare: int = 1
    hsm_per_s: float = 0.0
    commits_per_s: float = 0.0
    store_bytes: float = 2e12
    redis_bytes: float = 16e9
    network_bytes_s: float = 125e6
    crl_bytes: float = 5e6
    crl_period_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows. Rates at the peak, per second; sizes in octets; `store_by_year`: at the end of year 1, 2, ..."""

    pairs_per_s: float
    certificates_per_s: float
    ocsp_per_s: float
    ocsp_signed_per_s: float
    app_signs_per_s: float
    app_verifies_per_s: float
    signatures_per_s: float
    live_certificates: int
    listed: int
    store_by_year: tuple[float, ...]
    partitions: int
    crl_entries_each: int
    crl_bytes_each: float
    crl_build_s: float
    crl_memory_bytes: float
    set_bytes: float
    redis_bytes: float
    answers_bytes_s: float
    lists_bytes_s: float
    cores: float
    nodes: int
    utilisation: float
    node_memory_bytes: float


def entropy_bits(total: int, chosen: int) -> float:
    """log2 of the number of ways to choose: what a set of `chosen` among `total` cannot be shorter than, in bits."""
    if not 0 <= chosen <= total:
        raise ValueError("more are chosen than there are")
    natural = math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
    return max(natural / math.log(2), 0.0)


def store_by_year(demand: Demand, known: Coefficients) -> tuple[float, ...]:
    """Octets of the store at each year's end, up to the year in which as much is retired as is added."""
    issued = demand.holders * demand.certificates
    each = known.store_bytes_per_certificate + demand.revoked * known.store_bytes_per_revocation
    # A certificate lives a year and is kept for `retention_years` more.
    return tuple(year * issued * each for year in range(1, demand.retention_years + 2))


def make_plan(demand: Demand, plant: Plant, known: Coefficients) -> Plan:
    """The plan. Raises ValueError for numbers that make no sense."""
    check(demand, plant)
    certificates = demand.holders * demand.certificates
    pairs_s = demand.holders / WORKING_S * demand.issue_peak
    daily = demand.holders / (8 * 3600) * demand.use_peak
    ocsp_s = daily * demand.uses_per_day * demand.online
    signed_s = ocsp_s * (demand.nonce + (1 - demand.nonce) * (1 - demand.hits))
    app_s = daily * demand.app_signs
    # Lists keep an entry for one more CRL only: what is listed is what is revoked and not yet ended.
    listed = round(certificates * demand.revoked)
    partitions = max(1, math.ceil(listed * known.crl_entry_bytes / plant.crl_bytes))
    entries = math.ceil(listed / partitions)
    crl_bytes = entries * known.crl_entry_bytes
    set_bytes = entropy_bits(certificates, listed) / 8 * known.set_overhead
    list_bytes_s = (
        demand.relying / DAY_S * (demand.crl_fetches * listed * known.crl_entry_bytes + demand.set_fetches * set_bytes)
    )
    cores = _cores(demand, plant, known, ocsp_s=ocsp_s, daily=daily, pairs_s=pairs_s)
    usable = plant.cores * (1 - plant.headroom)
    working = max(1, math.ceil(cores / usable))
    return Plan(
        pairs_per_s=pairs_s,
        certificates_per_s=pairs_s * demand.certificates,
        ocsp_per_s=ocsp_s,
        ocsp_signed_per_s=signed_s,
        app_signs_per_s=app_s,
        app_verifies_per_s=daily * demand.app_verifies,
        signatures_per_s=pairs_s * demand.certificates + signed_s + app_s,
        live_certificates=certificates,
        listed=listed,
        store_by_year=store_by_year(demand, known),
        partitions=partitions,
        crl_entries_each=entries,
        crl_bytes_each=crl_bytes,
        crl_build_s=entries * known.crl_entry_build_s * partitions,
        crl_memory_bytes=listed * known.crl_entry_bytes * known.crl_memory_factor,
        set_bytes=set_bytes,
        redis_bytes=certificates * known.redis_bytes_per_answer,
        answers_bytes_s=ocsp_s * (known.ocsp_request_bytes + known.ocsp_answer_bytes),
        lists_bytes_s=list_bytes_s,
        cores=cores,
        nodes=working + plant.spare,
        utilisation=cores / ((working + plant.spare) * plant.cores),
        node_memory_bytes=plant.cores * known.worker_memory_bytes,
    )


def _cores(demand: Demand, plant: Plant, known: Coefficients, *, ocsp_s: float, daily: float, pairs_s: float) -> float:
    """Cores of nodes that are busy at the peak: OCSP from memory, signed, and from the store; signing and verifying for
    applications; issuing; building CRLs. The store's own are not among them."""
    misses = ocsp_s * (1 - demand.nonce) * (1 - demand.hits)
    cached = ocsp_s * (1 - demand.nonce) * demand.hits
    total = cached / known.ocsp_cached_per_core_s + misses * known.ocsp_store_s
    total += ocsp_s * demand.nonce / known.ocsp_signed_per_core_s
    total += daily * demand.app_signs / known.sign_per_core_s + daily * demand.app_verifies / known.verify_per_core_s
    total += pairs_s * known.issue_core_s
    listed = demand.holders * demand.certificates * demand.revoked
    return total + listed * known.crl_entry_build_s / plant.crl_period_s


def check(demand: Demand, plant: Plant) -> None:
    """Raises ValueError naming the first number that makes no sense."""
    for name in ("revoked", "online", "nonce", "hits"):
        if not 0 <= getattr(demand, name) <= 1:
            raise ValueError(f"{name} is a share: 0 to 1")
    for name in ("holders", "certificates", "issue_peak", "use_peak"):
        if not getattr(demand, name) >= 1:
            raise ValueError(f"{name} must be 1 or more")
    if demand.holders > 10**10 or not 0 <= demand.retention_years <= 100:
        raise ValueError("holders: at most 10,000,000,000; retention: at most 100 years")
    for name in ("uses_per_day", "app_signs", "app_verifies", "relying", "crl_fetches", "set_fetches"):
        if not 0 <= getattr(demand, name) < math.inf:
            raise ValueError(f"{name} must not be negative")
    if (
        not 0 <= plant.headroom < 1
        or plant.cores < 1
        or plant.spare < 0
        or min(plant.hsm_per_s, plant.commits_per_s) < 0
    ):
        raise ValueError(
            "a node has a core or more and headroom from 0 to below 1; spare nodes and rates are not negative"
        )
    for name in ("store_bytes", "redis_bytes", "network_bytes_s", "crl_bytes", "crl_period_s"):
        if not getattr(plant, name) > 0:
            raise ValueError(f"{name} must be more than 0")
