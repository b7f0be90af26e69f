"""A made-up summary of a run, complete and plausible, for designing and testing the report."""

import numpy as np

from fedllm.eval.stats import Interval, bootstrap_mean, combine, wilson

CLIENTS = {"atelier": "code", "bank": "finance", "clinic": "medical", "school": "math"}
DOMAINS = sorted(CLIENTS.values())
LAST = {
    "base": (2.7, 0.04),
    "local": (1.45, 0.44),
    "fedit": (1.28, 0.52),
    "fedit+random": (1.12, 0.58),
    "full": (0.74, 0.83),
    "centralised": (0.66, 0.87),
}
TITLES = {
    "base": ("Base model", "no training"),
    "local": ("Local only", "every client alone, in every round"),
    "fedit": ("FedIT", "FedAvg of the factors, private data only"),
    "fedit+random": ("FedIT + random public data", "200 random public examples per client"),
    "full": ("LoRA-FAIR + FedDCA", "the recipe's own system"),
    "centralised": ("Centralised", "all private shards in one place: the ceiling"),
}


def make_summary(*, rounds=6, seed=0, last=None, samples=60):
    """A summary in which arm ``name`` ends at ``last[name] = (loss, score)``."""
    rng = np.random.default_rng(seed)
    last = last or LAST
    return {
        "run": "demo",
        "created": "2026-11-23T16:11:30+00:00",
        "command": "fedllm demo",
        "seed": 0,
        "rounds": rounds,
        "model": {
            "name": "sample",
            "parameters": 1_840_256,
            "fingerprint": "2c95034c15752a2d" * 4,
            "trainable": 61_440,
        },
        "versions": {"fedllm": "0.1.0", "torch": "2.13.0", "peft": "0.21.2", "python": "3.11.7"},
        "threads": 2,
        "seconds": {
            "total": 131.4,
            "training": 92.1,
            "evaluation": 18.3,
            "retrieval": 6.2,
            "aggregation": 2.4,
            "loading": 3.0,
            "imports": 5.1,
            "data": 0.8,
            "probe": 1.2,
        },
        "clients": {
            client: {"domain": domain, "train": 100, "test": samples, "public": 200}
            for client, domain in CLIENTS.items()
        },
        "domains": DOMAINS,
        "arms": [_arm(name, last[name], last["base"], rounds, samples, rng) for name in last],
        "coverage": _coverage(rng),
        "probe": _probe(),
        "audit": _audit(),
        "traffic": {
            client: {
                "up": {"adapter": 1_240_331, "centroids": 12_416, "metrics": 4_311},
                "down": {"adapter": 1_488_402, "public": 38_212},
            }
            for client in CLIENTS
        },
    }


def _arm(name, end, base, rounds, samples, rng):
    title, description = TITLES[name]
    arm = {"name": name, "title": title, "description": description, "rounds": []}
    if name in ("fedit", "fedit+random", "full", "centralised"):
        for number in range(1, rounds + 1):
            progress = 1 - 0.35**number if number < rounds else 1
            here = tuple(b + (e - b) * progress for b, e in zip(base, end, strict=True))
            arm["rounds"].append(_round(name, number, here, samples, rng))
    arm["final"] = arm["rounds"][-1]["domains"] if arm["rounds"] else _domains(end, samples, rng)
    arm["average"] = {
        measure: combine([Interval(**d[measure]) for d in arm["final"].values()]).as_dict()
        for measure in ("loss", "score")
    }
    if name == "local":
        arm["per_client"] = {
            client: {
                domain: _scores(end if domain == own else base, samples, rng) for domain in DOMAINS
            }
            for client, own in CLIENTS.items()
        }
        for domains in arm["per_client"].values():
            domains["average"] = {
                m: combine([Interval(**domains[d][m]) for d in DOMAINS]).as_dict()
                for m in ("loss", "score")
            }
    return arm


def _round(name, number, here, samples, rng):
    cohort = sorted(CLIENTS) if name != "centralised" else ["all"]
    cohort = [client for client in cohort if number % 4 != cohort.index(client)] or cohort
    failed = {"bank": "loss is not finite"} if (name, number) == ("fedit", 3) else {}
    naive = float(0.18 + 0.02 * rng.random())
    return {
        "round": number,
        "cohort": cohort,
        "failed": failed,
        "lr": 4e-3,
        "train_loss": {client: 1.0 for client in cohort},
        "domains": _domains(here, samples, rng),
        "aggregation": {
            "residual_naive": naive,
            "residual_after": naive * (0.62 if name == "full" else 1.0),
            "residual_floor": naive * 0.31,
        },
        "bytes_up": {client: 248_000 for client in cohort},
        "bytes_down": {client: 248_000 for client in cohort},
    }


def _domains(here, samples, rng):
    return {domain: _scores(here, samples, rng) for domain in DOMAINS}


def _scores(here, samples, rng):
    loss, score = here
    values = rng.gamma(4, loss / 4, samples)
    hits = int((rng.random(samples) < score).sum())
    return {
        "loss": bootstrap_mean(values.tolist(), seed=0, resamples=300).as_dict(),
        "score": wilson(hits, samples).as_dict(),
    }


def _coverage(rng):
    centres = rng.normal(0, 4, (len(CLIENTS), 2))
    pool, labels = [], []
    for number in range(1200):
        inside = number % 4 == 0
        place = number // 4 % len(DOMAINS)
        labels.append(DOMAINS[place] if inside else "general")
        middle = centres[place] if inside else rng.normal(0, 4, 2)
        pool.append(np.round(middle + rng.normal(0, 1.1, 2), 3).tolist())
    near = {
        client: np.round(centre + rng.normal(0, 1, (260, 2)), 3)
        for client, centre in zip(sorted(CLIENTS), centres, strict=True)
    }
    return {
        "domains": {
            domain: {"before": 0.52 + 0.03 * i, "random": 0.56 + 0.03 * i, "after": 0.71 + 0.02 * i}
            for i, domain in enumerate(DOMAINS)
        },
        "map": {
            "pool": pool,
            "pool_domains": labels,
            "centroids": {client: rows[:8].tolist() for client, rows in near.items()},
            "selected": {client: rows[8:9].tolist() for client, rows in near.items()},
            "retrieved": {client: rows[60:].tolist() for client, rows in near.items()},
        },
    }


def _probe():
    clients = {
        client: {
            "members": wilson(9 + number, 50).as_dict(),
            "nonmembers": wilson(8 + number, 50).as_dict(),
            "base_members": wilson(2, 50).as_dict(),
            "memorised": {"mean": 0.02, "low": -0.13, "high": 0.17, "n": 50},
        }
        for number, client in enumerate(CLIENTS)
    }
    main = {
        **_finding("Verbatim extraction, greedy", None, "share", 0.05),
        "value": {"mean": 0.02, "low": -0.01, "high": 0.08, "n": 150},
        "metric": "extraction.greedy",
        "decisive": True,
        "sentence": "Greedy decoding gives the true response for 10 of 150 members (6.7 %).",
    }
    worst = {**main, "title": "Verbatim extraction, the worst client", "decisive": False}
    return {"round": 4, "findings": [main, worst], "clients": clients}


def _finding(title, verdict, unit, limit):
    return {
        "title": title,
        "verdict": verdict,
        "target": "global 6",
        "client": "",
        "value": {"mean": 0.03, "low": -0.02, "high": 0.08, "n": 200},
        "unit": unit,
        "limit": limit,
        "covers": [200, 200],
        "applies": True,
        "sentence": "The strongest of 5 attacks ranks members above in 53 % of pairs.",
    }


def _audit():
    finding = _finding("Membership inference", "PASS", "auc", 0.15)
    worst = {**finding, "title": "Verbatim extraction", "verdict": "INCONCLUSIVE", "unit": "share"}
    return {
        "verdict": "INCONCLUSIVE",
        "headline": "Nothing above the limits is proven, and nothing is ruled out.",
        "rounds": [3, 6],
        "findings": [finding, worst],
        "controls": [
            {"title": "Base model", "holds": False, "sentence": "The base model saw them <before>."}
        ],
        "data": {"members": 200, "nonmembers": 200, "canaries": 0, "planted": 0},
        "sha256": "0" * 64,
    }
