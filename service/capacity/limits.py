"""What breaks first: each thing that there is one of, how much of it the plan takes, and what takes over past it."""

from __future__ import annotations

from dataclasses import dataclass

from service.capacity.coefficients import Coefficients
from service.capacity.model import Demand, Plan, Plant


@dataclass(frozen=True, slots=True)
class Limit:
    """One thing at its peak. use: share of it that is taken, 1 = full; then: what to turn to past it."""

    name: str
    use: float
    then: str


def limits(demand: Demand, plant: Plant, plan: Plan, known: Coefficients) -> list[Limit]:
    """Everything that there is one of, fullest first."""
    node = plant.cores * (1 - plant.headroom)
    found = [
        Limit("cores of one node", plan.cores / node, "more nodes behind the load balancer; they keep no state"),
        Limit(
            "commits of one primary store",
            plan.pairs_per_s / known.pairs_per_commit / (plant.commits_per_s or known.commits_per_s),
            "several issuing authorities, each with a store of its own",
        ),
        Limit(
            "cores of one primary store, for issuing",
            plan.pairs_per_s * known.issue_store_s / node,
            "a larger machine for PostgreSQL; several issuing authorities, each with a store of its own",
        ),
        Limit(
            "disk of one store",
            plan.store_by_year[-1] / plant.store_bytes,
            "PostgreSQL partitions by year of expiry on other tablespaces, old years retired or archived",
        ),
        Limit(
            "reads of one store",
            plan.ocsp_per_s * (1 - demand.nonce) * (1 - demand.hits) * known.ocsp_store_s / node,
            "PostgreSQL replicas for responders; Redis for what they answered",
        ),
        Limit("memory of one Redis", plan.redis_bytes / plant.redis_bytes, "Redis Cluster"),
        Limit(
            "network of one node for answers",
            plan.answers_bytes_s / plant.network_bytes_s,
            "more nodes; edge responders near relying parties",
        ),
        Limit(
            "network of one node for CRLs and status sets",
            plan.lists_bytes_s / plant.network_bytes_s,
            "a CDN, or nginx over `crl.directory`; status sets and deltas in place of full CRLs",
        ),
        Limit(
            "builder's time between CRLs",
            plan.crl_build_s / plant.crl_period_s,
            "several issuing authorities, whose CRLs are built by different nodes",
        ),
    ]
    if plant.hsm_per_s:
        signing = Limit(
            "hardware modules",
            plan.signatures_per_s / (plant.hsm_per_s * known.hsm_share),
            "more devices in the pool; OCSP keys in software",
        )
        found.append(signing)
    return sorted(found, key=lambda limit: -limit.use)
