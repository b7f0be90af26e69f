"""Stacks large enough for float32, block Krylov spaces, sketched reports and several threads."""

import json
import resource
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from synthetic import adapter, clients, dense, dense_target, same_bytes

from fedllm.adapters.state import save_adapter
from fedllm.aggregation import aggregate
from fedllm.aggregation import stack as stacks
from fedllm.aggregation.lora_fair import EXACT_NORM_UP_TO, lora_fair
from fedllm.aggregation.measure import EXACT_UP_TO
from fedllm.aggregation.stack import read_stack
from fedllm.aggregation.threads import PARALLEL_ABOVE

SHAPES = {f"layers.{i}.q_proj": (600, 700) for i in range(6)}
MODULE = "layers.0.q_proj"


@pytest.fixture(scope="module")
def many():
    """40 clients of rank 16: stacked rank 640 on 600 x 700."""
    sources = clients(40, rank=16, alpha=16, shapes=SHAPES, dtype=torch.float32)
    weights = {name: 1.0 + k % 3 for k, name in enumerate(sources)}
    assert EXACT_UP_TO < 40 * 16
    assert sum(s.nbytes for s in sources.values()) > PARALLEL_ABOVE
    return sources, weights


def test_randomised_flexlora_is_within_one_percent_of_the_best_adapter(many):
    sources, weights = many
    state, _ = aggregate(sources, weights, "flexlora", measured=False)
    for module in list(SHAPES)[:2]:
        target = dense_target(sources, weights, module)
        best = torch.linalg.svdvals(target)[16:].norm()
        assert float((target - dense(state, module)).norm()) <= 1.01 * float(best)


def test_products_in_blocks_are_those_of_the_stack_whatever_the_ranks_and_scalings(monkeypatch):
    monkeypatch.setattr(stacks, "BLOCK", 3 * 16 * 1300)
    sources = {
        f"c{k:02d}": adapter(k, rank=(4, 8, 16)[k % 3], alpha=8 + k, shapes=SHAPES)
        for k in range(17)
    }
    weights = {name: (1 + k) / 153 for k, name in enumerate(sources)}
    stack = read_stack(sources, weights, MODULE)
    total = stack.total()
    assert len(stack.blocks().parts) == len(total.weights) == 6
    target = dense_target(sources, weights, MODULE) / stack.scaling
    x = torch.randn(700, 5, dtype=stack.dtype)
    y = torch.randn(600, 5, dtype=stack.dtype)
    assert torch.allclose(total.times(x).double(), target @ x.double(), rtol=1e-4, atol=1e-2)
    assert torch.allclose(total.transposed_times(y), y.T @ target, rtol=1e-4, atol=1e-2)


def test_sketched_residuals_are_within_three_percent_and_say_so(many):
    sources, weights = many
    state, report = aggregate(sources, weights, "fedit", floor=True)
    assert report.total.estimated
    for record in report.modules[:2]:
        target = dense_target(sources, weights, record.module)
        after = float((target - dense(state, record.module)).norm() / target.norm())
        floor = float(torch.linalg.svdvals(target)[16:].norm() / target.norm())
        assert record.estimated
        assert record.residual_after == pytest.approx(after, rel=0.03)
        assert record.residual_naive == pytest.approx(after, rel=0.03)
        assert record.residual_floor == pytest.approx(floor, rel=0.03)
        assert record.target_norm == pytest.approx(float(target.norm()), rel=0.05)
        name = "client7"
        gap = float((dense(sources[name], record.module) - dense(state, record.module)).norm())
        assert record.clients[name].distance == pytest.approx(gap, rel=1e-4)


def test_the_exact_report_of_float32_stacks_is_the_dense_one():
    sources = clients(20, rank=16, alpha=16, shapes=SHAPES, dtype=torch.float32, drift=0.01)
    weights = dict.fromkeys(sources, 1.0)
    state, report = aggregate(sources, weights, "lora-fair")
    record = report.modules[0]
    assert not record.estimated
    target = dense_target(sources, weights, MODULE)
    after = float((target - dense(state, MODULE)).norm() / target.norm())
    assert record.residual_after == pytest.approx(after, rel=0.05)
    assert record.residual_after < 1e-3


@pytest.mark.parametrize("solver", ["ridge", "cosine"])
@pytest.mark.parametrize("drift", [1.0, 1e-3])
def test_float32_corrections_keep_their_digits(solver, drift):
    """In float32 the correction itself, not only ``B``, agrees with the dense one in float64."""
    sources = clients(10, rank=16, shapes=SHAPES, dtype=torch.float32, drift=drift)
    stack = read_stack(sources, dict.fromkeys(sources, 0.1), MODULE)
    assert stack.dtype == torch.float64
    single = torch.float32
    low = replace(
        stack,
        dtype=single,
        factors=tuple(replace(f, A=f.A.to(single), B=f.B.to(single)) for f in stack.factors),
    )
    lam = 0.01 if solver == "ridge" else 1e-4
    fine, coarse = (lora_fair(s, solver=solver, lam=lam) for s in (stack, low))
    exact = fine.B - stack.mean_B()
    rough = coarse.B.double() - low.mean_B().double()
    scale = max(float(exact.norm()), 1e-6 * float(fine.B.norm()))
    assert float((exact - rough).norm()) < 2e-2 * scale + 1e-6 * float(fine.B.norm())


def test_an_estimated_norm_moves_the_cosine_solution_by_little(monkeypatch):
    sources = clients(60, rank=16, shapes={MODULE: (600, 700)}, dtype=torch.float32, drift=0.3)
    stack = read_stack(sources, dict.fromkeys(sources, 1 / 60), MODULE)
    assert sum(f.A.numel() + f.B.numel() for f in stack.factors) > EXACT_NORM_UP_TO
    estimated = lora_fair(stack, solver="cosine", lam=1e-4).B
    monkeypatch.setattr("fedllm.aggregation.lora_fair.EXACT_NORM_UP_TO", 2**60)
    exact = lora_fair(stack, solver="cosine", lam=1e-4).B
    correction = (exact - stack.mean_B()).norm()
    assert float((exact - estimated).norm() / correction) < 0.1


@pytest.mark.parametrize("rule", ["fedit", "lora-fair", "flexlora", "hetlora", "median"])
def test_large_results_do_not_depend_on_threads_or_order(many, rule):
    sources, weights = many
    before = torch.get_num_threads()
    results = []
    try:
        for threads, order in ((1, sorted(sources)), (2, sorted(sources, reverse=True))):
            torch.set_num_threads(threads)
            results.append(aggregate({n: sources[n] for n in order}, weights, rule, floor=True))
    finally:
        torch.set_num_threads(before)
    assert same_bytes(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_one_core_and_all_cores_give_the_same_bytes(tmp_path):
    sources = {}
    for k in range(8):
        path = tmp_path / f"c{k}"
        save_adapter(adapter(k, rank=16, shapes=SHAPES, dtype=torch.float32), path)
        sources |= {f"{path.name}-{copy}": str(path) for copy in range(6)}
    code = (
        "import os, sys, hashlib, json\n"
        "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])\n"
        "from pathlib import Path\n"
        "from fedllm.aggregation import aggregate\n"
        "sources = {n: Path(p) for n, p in json.loads(sys.argv[2]).items()}\n"
        "digest = hashlib.sha256()\n"
        "for rule in ('lora-fair', 'flexlora'):\n"
        "    state, _ = aggregate(sources, dict.fromkeys(sources, 1.0), rule)\n"
        "    for tensor in state.tensors().values():\n"
        "        digest.update(tensor.numpy().tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    prints = [
        subprocess.run(
            [sys.executable, "-c", code, cores, json.dumps(sources)],
            capture_output=True, text=True, check=True, env={"OMP_NUM_THREADS": threads},
        ).stdout
        for cores, threads in (("1", "1"), ("2", "2"))
    ]  # fmt: skip
    assert prints[0] == prints[1]


def test_memory_does_not_grow_with_the_clients(tmp_path):
    """150 clients on disk, 7 MB each: far less than all of them is ever held."""
    shapes = {f"layers.{i}.q_proj": (2000, 2000) for i in range(28)}
    path = tmp_path / "c"
    save_adapter(adapter(0, rank=16, shapes=shapes, dtype=torch.float32), path)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from fedllm.aggregation import aggregate\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "sources = {f'c{k:03d}': Path(sys.argv[1]) for k in range(150)}\n"
        "aggregate(sources, dict.fromkeys(sources, 1.0), 'lora-fair', measured=False)\n"
        "print((peak() - before) / 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 250, "MiB beyond start-up; all clients together are 1,025"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 2**20
