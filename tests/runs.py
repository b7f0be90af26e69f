"""A small but complete experiment for tests of whole runs: ``from runs import small_recipe``."""

import hashlib
from pathlib import Path

import yaml
from tiny import tiny_model_folder

from fedllm.config import RunConfig
from fedllm.recipe import parse_recipe

VOLATILE = {"events.jsonl", "env.json", ".lock", "index.html", "summary.json", "recipe.yaml"}
VOLATILE |= {"sources.json"}
"""Files that hold times or places."""


ARMS = {
    "fedit": {"method.rule": "fedit", "retrieval.method": "none"},
    "fedit+random": {"method.rule": "fedit", "retrieval.method": "random"},
}


def arms(*names: str) -> dict[str, dict]:
    """The section ``compare`` with these arms."""
    return {name: ARMS.get(name, {}) for name in names}


def small_recipe(folder: Path, name: str = "run", **sections: object) -> dict:
    """Two domains, three clients' worth of everything, seconds of work, on a tiny Llama."""
    model = folder / "llama"
    if not model.exists():
        tiny_model_folder("llama", model)
    recipe = {
        "name": "small",
        "model": {"name": str(model)},
        "lora": {"rank": 2},
        "data": {
            "template": "alpaca-short",
            "private": [
                {"path": f"samples:{domain}", "limit": 12} for domain in ("code", "math", "medical")
            ],
            "test": [
                {"path": f"samples:{domain}", "limit": 4} for domain in ("code", "math", "medical")
            ],
            "public": [{"path": "samples:public", "limit": 60}],
        },
        "training": {"steps": 2, "batch_size": 4, "lr": 0.005, "max_length": 256, "threads": 1},
        "federation": {"rounds": 2, "clients_per_round": 2},
        "retrieval": {
            "method": "feddca",
            "encoder": "hashing",
            "per_client": 6,
            "clusters": 3,
            "min_cluster_size": 2,
        },
        "compare": arms("base", "fedit", "centralised"),
        "eval": {"max_new_tokens": 4},
        "output": {"dir": str(folder / name)},
    }
    for section, values in sections.items():
        whole = section == "compare" or not isinstance(values, dict)
        recipe[section] = values if whole else {**recipe.get(section, {}), **values}
    return recipe


def small_config(folder: Path, name: str = "run", **sections: dict) -> RunConfig:
    """The same as a checked recipe."""
    return parse_recipe(small_recipe(folder, name, **sections), "small")


def write_recipe(folder: Path, name: str = "run", **sections: dict) -> Path:
    """The same as a file."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(small_recipe(folder, name, **sections)))
    return path


def fingerprints(run: Path, *, only: str = "") -> dict[str, str]:
    """SHA-256 of every file of a run that must not depend on when or where it ran."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file()
        and path.name not in VOLATILE
        and str(path.relative_to(run)).startswith(only)
    }
