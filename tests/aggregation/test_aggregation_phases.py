"""Rules as sums over clients: the same adapter as the plain path, from sums alone."""

import pytest
import torch
from synthetic import SHAPES, adapter, clients

from fedllm.adapters.state import AdapterState
from fedllm.aggregation.phases import phases_of, sum_phases
from fedllm.aggregation.rules import find_rule
from fedllm.aggregation.stack import read_stack
from fedllm.catalogue import POINTS, choose
from fedllm.errors import ConfigError

SENT = adapter(100)
WEIGHTS = {"client0": 0.5, "client1": 0.2, "client2": 0.3}
SUMS = POINTS["rule"].having("sums")
FROZEN = {"ffa": "A", "fedsvd": "A", "fed-sb": "A", "rolora": "A"}


def updates(rule: str) -> dict[str, AdapterState]:
    """What three clients send, with the factor frozen that the rule freezes."""
    found = clients(3)
    if rule not in FROZEN:
        return found
    moved = {}
    for name, state in found.items():
        lora = {}
        for module, f in state.lora.items():
            start = SENT.factors(module)
            core = f.B.T @ f.B / 10  # stays in the span that fed-sb needs
            lora[module] = type(f)(start.A, start.B @ core, f.scaling)
        moved[name] = AdapterState(lora, {}, state.config)
    return moved


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        *((rule, {}) for rule in SUMS),
        ("lora-fair", {"sweeps": 2}),
        ("lora-fair", {"sweeps": 5, "lam": 0.01}),
        ("lora-fair", {"lam": 0.0}),
        ("fedsa", {"server_B": "zero"}),
    ],
)
def test_phases_give_the_adapter_of_the_plain_path(rule, settings):
    chosen = choose("rule", {"name": rule, **settings})
    for module in SHAPES:
        stack = read_stack(updates(rule), WEIGHTS, module, SENT)
        plain = find_rule(chosen).combine(stack)
        summed = sum_phases(stack, phases_of(chosen))
        torch.testing.assert_close(summed.B @ summed.A, plain.B @ plain.A, rtol=1e-8, atol=1e-9)
        if rule != "fedsvd":  # singular vectors have a sign of their own
            torch.testing.assert_close(summed.B, plain.B, rtol=1e-8, atol=1e-9)
            torch.testing.assert_close(summed.A, plain.A, rtol=1e-8, atol=1e-9)


def test_terms_are_as_small_as_the_clients_steps():
    near = {
        name: AdapterState(
            {
                m: type(f)(
                    SENT.factors(m).A + 1e-6 * f.A, SENT.factors(m).B + 1e-6 * f.B, f.scaling
                )
                for m, f in state.lora.items()
            },
            {},
            state.config,
        )
        for name, state in clients(3).items()
    }
    stack = read_stack(near, WEIGHTS, "layers.0.q_proj", SENT)
    b, a = stack.start()
    known = {"B": b, "A": a}
    for term, finish in phases_of(choose("rule", {"name": "lora-fair", "sweeps": 3})):
        terms = [term(*pair, known) for pair in stack]
        assert max(float(t.abs().max()) for one in terms for t in one.values()) < 1e-4
        total = {
            n: sum(w * t[n] for w, t in zip(stack.weights, terms, strict=True)) for n in terms[0]
        }
        known = finish(total, known)


def test_rules_and_solvers_that_need_single_clients_say_so():
    with pytest.raises(ConfigError, match="rule flexlora looks at single clients.*lora-fair"):
        phases_of(choose("rule", "flexlora"))
    with pytest.raises(ConfigError, match="solver=cosine needs the norm.*use solver=ridge"):
        phases_of(choose("rule", {"name": "lora-fair", "solver": "cosine"}))


def test_every_linear_rule_has_phases():
    assert set(POINTS["rule"].having("linear")) <= set(SUMS)
