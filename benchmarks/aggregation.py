"""Speed and memory of aggregation, side by side with the naive and the peer's way, in one run.

    python benchmarks/aggregation.py [--layers 2] [--clients 10] [--record FILE] [--scratch DIR]
                                     [--only fair,svd,layer,peft,memory,growth]

``--record`` writes what ``recipes/results/`` keeps: figures, settings, date, processor, versions,
commit and load; sections that are in the file already and are not measured again stay, so that a
long benchmark can be taken in parts. Adapters have the shapes of Llama-3-8B (r=16, all seven
projections, bfloat16, random factors of realistic scale); ``--layers`` says how many of its 32
layers. Times are the least of three, wall clock, files in the page cache. Dense baselines are timed
on one module; the published 1,000 steps are three measured steps times 1,000 / 3, and the lines say
so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fedllm.adapters.state import AdapterState, open_adapter, save_adapter
from fedllm.aggregation import aggregate
from fedllm.aggregation.carrier import top_r
from fedllm.aggregation.lora_fair import lora_fair
from fedllm.aggregation.stack import read_stack
from fedllm.atomic import atomic_json
from fedllm.config import TrainingConfig
from fedllm.experiment.environment import describe_environment

LLAMA_8B = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}
LLAMA_1B = {
    "self_attn.q_proj": (2048, 2048),
    "self_attn.k_proj": (512, 2048),
    "self_attn.v_proj": (512, 2048),
    "self_attn.o_proj": (2048, 2048),
    "mlp.gate_proj": (8192, 2048),
    "mlp.up_proj": (8192, 2048),
    "mlp.down_proj": (2048, 8192),
}
"""Projection to (d_out, d_in)."""
RANK = 16
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "target_modules": sorted(LLAMA_8B)}
DISTINCT = 10
"""Adapters that are really made; more clients are further links to them."""


def make_clients(root: Path, count: int, layers: int, shapes: dict[str, tuple[int, int]]) -> Any:
    """Client name to directory; every DISTINCT-th client shares its file with another."""
    made = []
    for k in range(min(count, DISTINCT)):
        path = root / f"{shapes['mlp.up_proj'][0]}-{layers}-{k}"
        if not path.exists():
            generator = torch.Generator().manual_seed(k)
            save_adapter(AdapterState.from_tensors(random(generator, layers, shapes), CONFIG), path)
        made.append(path)
    return {f"client{k:04d}": made[k % len(made)] for k in range(count)}


def random(
    generator: torch.Generator, layers: int, shapes: dict[str, tuple[int, int]]
) -> dict[str, torch.Tensor]:
    """Kaiming-uniform ``A``, small normal ``B``, as after some training."""
    tensors = {}
    for layer in range(layers):
        for name, (d_out, d_in) in shapes.items():
            stem = f"base_model.model.model.layers.{layer}.{name}"
            a = (torch.rand(RANK, d_in, generator=generator) * 2 - 1) / d_in**0.5
            b = torch.randn(d_out, RANK, generator=generator) * 0.01
            tensors[f"{stem}.lora_A.weight"] = a.bfloat16()
            tensors[f"{stem}.lora_B.weight"] = b.bfloat16()
    return tensors


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """The least wall time of some calls."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def dense_factors(stack: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Dense mean update and mean factors of a stack, float32."""
    pairs = [(b.float(), a.float()) for b, a in stack]
    update = sum(w * b @ a for w, (b, a) in zip(stack.weights, pairs, strict=True))
    return update, stack.mean_B().float(), stack.mean_A().float()


def bench_fair(root: Path, layers: int, clients: int) -> dict[str, float]:
    """LoRA-FAIR against plain averaging, against dense ridge and the dense published loop."""
    sources = make_clients(root, clients, layers, LLAMA_8B)
    weights = dict.fromkeys(sources, 1.0)
    runs = {
        "fedit": ("fedit", {}),
        "lora-fair ridge": ("lora-fair", {}),
        "lora-fair cosine": ("lora-fair", {"solver": "cosine"}),
    }
    out = {
        f"{name}, {clients} clients, {layers} layers, s": seconds(
            lambda rule=rule, extra=extra: aggregate(
                sources, weights, rule, measured=False, **extra
            )
        )
        for name, (rule, extra) in runs.items()
    }
    base = out[f"fedit, {clients} clients, {layers} layers, s"]
    for name in ("lora-fair ridge", "lora-fair cosine"):
        out[f"{name} / fedit"] = out[f"{name}, {clients} clients, {layers} layers, s"] / base
    stack = module_stack(sources, "self_attn.q_proj")
    ours = seconds(lambda: lora_fair(stack))

    def dense_ridge() -> torch.Tensor:
        update, b, a = dense_factors(stack)
        gram = a @ a.T
        penalty = 0.01 * gram.trace() / RANK * torch.eye(RANK)
        return b + (update - b @ a) @ a.T @ torch.linalg.inv(gram + penalty)

    update, b, a = dense_factors(stack)
    delta = torch.zeros_like(b, requires_grad=True)

    def dense_steps() -> None:
        for _ in range(3):
            product = (b + delta) @ a
            cosine = torch.nn.functional.cosine_similarity(update, product, dim=0).mean()
            (gradient,) = torch.autograd.grad(1 - cosine + 0.01 * (delta**2).sum(), delta)
            delta.data -= 0.01 * gradient

    ridge, loop = seconds(dense_ridge), seconds(dense_steps) * 1000 / 3
    out["q_proj: lora-fair ridge, ms"] = ours * 1e3
    out["q_proj: dense ridge / ours"] = ridge / ours
    out["q_proj: dense 1,000 steps (3 measured) / ours"] = loop / ours
    return out


def module_stack(sources: Any, module: str) -> Any:
    """One module of all clients."""
    adapters = {name: open_adapter(path) for name, path in sources.items()}
    return read_stack(
        adapters, dict.fromkeys(sources, 1 / len(sources)), f"model.layers.0.{module}"
    )


def bench_svd(root: Path, layers: int, clients: int) -> dict[str, float]:
    """FlexLoRA against ``torch.linalg.svd`` of the dense product, time and error."""
    out = {}
    for module in ("self_attn.k_proj", "self_attn.q_proj"):
        dense_time = 0.0
        for count in (10, 100):
            stack = module_stack(make_clients(root, count, layers, LLAMA_8B), module)
            if count > DISTINCT:  # equal files would collapse the spectrum: draw the factors anew
                stack = redrawn(stack)
            update, _, _ = dense_factors(stack)
            start = time.perf_counter()
            values = torch.linalg.svd(update, full_matrices=False).S
            dense_time = time.perf_counter() - start
            ours = seconds(lambda stack=stack: top_r(stack))
            b, a = top_r(stack)
            error = float((update - b @ a).norm() / values[RANK:].norm())
            out[f"{module}, {count} clients: dense svd, s"] = dense_time
            out[f"{module}, {count} clients: flexlora, ms"] = ours * 1e3
            out[f"{module}, {count} clients: dense svd / flexlora"] = dense_time / ours
            out[f"{module}, {count} clients: error / optimal error"] = error
    return out


def bench_layer(root: Path, layers: int, clients: int) -> dict[str, float]:
    """All seven projections of a layer: the sum of dense SVDs against the sum of FlexLoRA's times.

    A dense SVD does not notice how many clients made its matrix: every shape is decomposed once.
    """
    out, dense = {}, dict[tuple[int, int], float]()
    for count in (10, 100):
        ours = 0.0
        for module, (d_out, d_in) in LLAMA_8B.items():
            stack = module_stack(make_clients(root, count, layers, LLAMA_8B), module)
            if count > DISTINCT:
                stack = redrawn(stack)
            shape = max(d_out, d_in), min(d_out, d_in)
            if shape not in dense:
                update, _, _ = dense_factors(stack)
                dense[shape] = seconds(
                    lambda update=update: torch.linalg.svd(update, full_matrices=False), 1
                )
            ours += seconds(lambda stack=stack: top_r(stack))
        theirs = sum(dense[max(sides), min(sides)] for sides in LLAMA_8B.values())
        out[f"7 projections, {count} clients: dense svd, s"] = theirs
        out[f"7 projections, {count} clients: flexlora, s"] = ours
        out[f"7 projections, {count} clients: dense svd / flexlora"] = theirs / ours
    return out


def redrawn(stack: Any) -> Any:
    """The same shapes with independent factors."""
    from dataclasses import replace

    generator = torch.Generator().manual_seed(1)
    factors = tuple(
        replace(
            f,
            A=torch.randn(f.A.shape, generator=generator).bfloat16(),
            B=torch.randn(f.B.shape, generator=generator).bfloat16(),
        )
        for f in stack.factors
    )
    return replace(stack, factors=factors)


def bench_peft(root: Path, layers: int, clients: int) -> dict[str, float]:
    """The ``add_weighted_adapter`` of peft: ``svd`` on k_proj, ``linear`` on all seven."""
    from peft import LoraConfig, get_peft_model

    out = {}
    for kind, names in (("svd", ["self_attn.k_proj"]), ("linear", list(LLAMA_8B))):
        shapes = {name: LLAMA_8B[name] for name in names}
        model = torch.nn.Module()
        for name, (d_out, d_in) in shapes.items():
            layer = torch.nn.Linear(1, 1, bias=False)
            layer.weight = torch.nn.Parameter(torch.empty(d_out, d_in, dtype=torch.bfloat16))
            layer.in_features, layer.out_features = d_in, d_out
            model.add_module(name.replace(".", "_"), layer)
        targets = [name.replace(".", "_") for name in names]
        config = LoraConfig(r=RANK, lora_alpha=32, target_modules=targets)
        tuned = get_peft_model(model, config, adapter_name="c0", autocast_adapter_dtype=False)
        for k in range(1, clients):
            tuned.add_adapter(f"c{k}", config)
        tensors = {}
        for k in range(clients):
            generator = torch.Generator().manual_seed(k)
            drawn = random(generator, 1, shapes)
            tensors[f"c{k}"] = AdapterState.from_tensors(drawn, CONFIG)
            for name in names:
                layer = getattr(tuned.base_model.model, name.replace(".", "_"))
                factors = tensors[f"c{k}"].factors(f"model.layers.0.{name}")
                layer.lora_A[f"c{k}"].weight.data = factors.A.clone()
                layer.lora_B[f"c{k}"].weight.data = factors.B.clone()
        weights = [1 / clients] * clients

        def theirs(tuned: Any = tuned, kind: str = kind, weights: list[float] = weights) -> None:
            tuned.add_weighted_adapter(
                [f"c{k}" for k in range(clients)], weights, "mean", combination_type=kind
            )
            tuned.delete_adapter("mean")

        rule = "flexlora" if kind == "svd" else "fedit"
        even = dict.fromkeys(tensors, 1.0)
        repeats = 1 if kind == "svd" else 3
        peer = seconds(theirs, repeats)
        ours = seconds(
            lambda rule=rule, tensors=tensors, even=even: aggregate(
                tensors, even, rule, measured=False
            )
        )
        out[f"{kind}, {len(names)} modules: peft, s"] = peer
        out[f"{kind}, {len(names)} modules: fedllm {rule}, s"] = ours
        out[f"{kind}: peft / fedllm"] = peer / ours
    return out


def bench_memory(root: Path, layers: int, clients: int) -> dict[str, float]:
    """Peak memory of whole processes, by the operating system's count.

    ``anonymous`` is what a process holds itself, without mapped files and beyond the page cache;
    ``resident`` adds the libraries it maps.
    """
    out = {}
    for name, shapes, count, depth in (
        ("8B-shaped", LLAMA_8B, 100, layers),
        ("1B-shaped", LLAMA_1B, 1000, min(layers, 16)),
    ):
        sources = make_clients(root, count, depth, shapes)
        for rule in ("fedit", "lora-fair", "flexlora"):
            job = json.dumps({"rule": rule, "sources": {n: str(p) for n, p in sources.items()}})
            value, anonymous = watched(job)
            key = f"{name}, {count} clients, {depth} layers, {rule}"
            out[f"{key}: anonymous GiB"] = anonymous
            out[f"{key}: resident GiB"] = value["peak"]
            out[f"{key}: s"] = value["seconds"]
    return out


def watched(job: str) -> tuple[dict[str, float], float]:
    """What a child process prints, and its greatest anonymous memory in GiB, read every 2 ms."""
    child = subprocess.Popen(
        [sys.executable, __file__, "--child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    child.stdin.write(job.encode())
    child.stdin.close()
    peak = 0.0
    while child.poll() is None:
        peak = max(peak, anonymous_gib(child.pid))
        time.sleep(0.002)
    assert child.stdout is not None
    if child.returncode:
        raise SystemExit(f"the measured process ended with {child.returncode}")
    return json.loads(child.stdout.read()), peak


def anonymous_gib(pid: int) -> float:
    """``RssAnon`` and ``RssShmem`` of a process; 0 when it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    kept = [line for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(int(line.split()[1]) for line in kept) / 2**20


def child() -> None:
    """One aggregation in a process of its own; prints its time and peak memory."""
    job = json.loads(sys.stdin.read())
    sources = {name: Path(path) for name, path in job["sources"].items()}
    start = time.perf_counter()
    aggregate(sources, dict.fromkeys(sources, 1.0), job["rule"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"peak": peak, "seconds": time.perf_counter() - start}))


def bench_growth(root: Path, layers: int, clients: int) -> dict[str, float]:
    """Seconds against the number of clients, report included."""
    out = {}
    for rule in ("fedit", "lora-fair", "flexlora"):
        for count in (50, 100, 200):
            sources = make_clients(root, count, 1, LLAMA_8B)
            weights = dict.fromkeys(sources, 1.0)
            out[f"{rule}, {count} clients, 1 layer, s"] = seconds(
                lambda rule=rule, sources=sources, weights=weights: aggregate(
                    sources, weights, rule, measured=False
                ),
                2,
            )
    return out


SECTIONS = {
    "fair": bench_fair,
    "svd": bench_svd,
    "layer": bench_layer,
    "peft": bench_peft,
    "memory": bench_memory,
    "growth": bench_growth,
}


def main() -> None:
    """Runs the sections asked for."""
    if "--child" in sys.argv:
        child()
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--record", type=Path)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"sections": {}}
    if options.record and options.record.exists():
        record = json.loads(options.record.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as temporary:
        root = options.scratch or Path(temporary)
        for name in options.only.split(","):
            about = {"layers": options.layers, "clients": options.clients, **circumstances()}
            start = time.perf_counter()
            figures = SECTIONS[name](root, options.layers, options.clients)
            took = time.perf_counter() - start
            record["sections"][name] = {**about, "seconds": round(took, 1), "figures": figures}
            print(f"{name} ({took:.0f} s, load {about['load']:.1f} before)")
            for key, value in figures.items():
                print(f"  {key:<62} {value:10.3f}", flush=True)
            if options.record:
                atomic_json(options.record, record)


def circumstances() -> dict[str, Any]:
    """What a figure cannot be compared without: date, hardware, versions, commit, load."""
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    processor = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        **describe_environment(TrainingConfig(threads=torch.get_num_threads())),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor[0] if processor else "",
        "load": os.getloadavg()[0],
        "commit": head.stdout.strip(),
    }


if __name__ == "__main__":
    main()
