"""Every plug-in of a method: its identity setting, its own property, resuming, the YAML round trip.

A new plug-in needs a line in ``PROPERTIES``, and one in ``IDENTITIES`` where a setting of it gives
another plug-in, or nothing at all.
"""

import itertools
from collections.abc import Callable

import pytest
import torch
import yaml
from federation import EXAMPLES, federate, same_state, start, targets, train
from synthetic import SHAPES, adapter, dense
from torch import nn

from fedllm.aggregation import combine_adapters
from fedllm.catalogue import POINTS, Entry, choose
from fedllm.errors import AdapterError, ConfigError, EngineError
from fedllm.method import Method
from fedllm.recipe import parse_recipe
from fedllm.runs import ONE
from fedllm.server.grouping.hclust import hclust
from fedllm.server.rounds import close_round
from fedllm.training.hooks.hook import LocalRound
from fedllm.traits import refusal_in_rounds

METHOD_POINTS = ("schedule", "share", "local", "codec", "weights", "rule", "server", "grouping")
EVERYTHING = [(point, name) for point in METHOD_POINTS for name in POINTS[point].own]
IN_ROUNDS = [
    one for one in EVERYTHING if not refusal_in_rounds(POINTS[one[0]][one[1]].traits)
]  # fmt: skip

IDENTITIES: dict[tuple[str, str], tuple[dict, dict]] = {
    ("local", "fedprox"): ({"mu": 0.0}, {}),
    ("local", "scaffold"): ({"strength": 0.0}, {}),
    ("server", "fedavgm"): ({"lr": 1.0, "momentum": 0.0}, {}),
    ("grouping", "hclust"): ({"clusters": 1}, {}),
    ("weights", "feddisco"): ({"a": 0.0, "b": 0.0}, {}),
    ("rule", "fedrot"): ({"strength": 0.0}, {}),
    ("rule", "hetlora"): ({"weigh": "given"}, {}),
    ("rule", "flora-na"): ({"iterations": 0}, {}),
    ("rule", "trimmed-mean"): ({"trim": 0.0}, {"rule": "flexlora"}),
    ("rule", "norm-bound"): ({"bound": 1e9}, {"rule": "flexlora"}),
    ("rule", "multi-krum"): ({"keep": 3}, {"rule": "flexlora"}),
}
"""Settings under which a plug-in is another method: FedIT by examples, unless it says otherwise."""

NEAR = {("weights", "feddisco"), ("rule", "norm-bound"), ("rule", "multi-krum"), ("rule", "fedrot")}
"""Those that are so up to rounding: they divide, or multiply by what is nearly the identity."""


def method_of(point: str, name: str, settings: dict | None = None) -> Method:
    """FedIT by examples with one plug-in in its place."""
    chosen = {"name": name, **(settings or {})}
    return Method(**{"rule": "fedit", point: [chosen] if point in LISTS else chosen})


LISTS = ("local", "codec", "server")


@pytest.mark.parametrize(("point", "name"), IDENTITIES)
def test_its_identity_setting_is_the_base_method(point, name):
    settings, base = IDENTITIES[point, name]
    ours = federate(method_of(point, name, settings))[-1].adapters[ONE].tensors()
    theirs = federate(Method(**{"rule": "fedit", **base}))[-1].adapters[ONE].tensors()
    for key in theirs:
        if (point, name) in NEAR:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize(("point", "name"), IN_ROUNDS)
def test_a_federation_through_files_is_one_in_memory(tmp_path, point, name):
    method = method_of(point, name)
    for there, back in zip(federate(method), federate(method, folder=tmp_path), strict=True):
        assert same_state(there, back)


@pytest.mark.parametrize(("point", "name"), EVERYTHING)
def test_its_settings_survive_yaml(point, name):
    for settings in ({}, IDENTITIES.get((point, name), ({},))[0]):
        chosen = choose(point, {"name": name, **settings})
        assert choose(point, yaml.safe_load(yaml.safe_dump(chosen.to_dict()))) == chosen


@pytest.mark.parametrize(("point", "name"), EVERYTHING)
def test_it_does_what_it_says(point, name):
    says = PROPERTIES.get((point, name)) or PROPERTIES.get((point, ""))
    assert says, f"test what {point} {name} does: a function and a line in PROPERTIES"
    says(name)


# What each plug-in says.


def agreement_is_kept(rule: str) -> None:
    """Clients that send the same adapter get it back, remainder included."""
    one = adapter(7)
    sources = {f"c{k}": one for k in range(4)}
    outcome = combine_adapters(sources, dict.fromkeys(sources, 1.0), rule, sent=one)
    for module in SHAPES:
        found = dense(outcome.state, module)
        if outcome.remainder is not None and module in outcome.remainder.modules:
            found = found + dense(outcome.remainder, module)
        torch.testing.assert_close(found, dense(one, module), rtol=1e-6, atol=1e-8)


def equal_clients_weigh_the_same(policy: str) -> None:
    one = start().adapters[ONE]
    method = Method(rule="fedit", weights=policy)
    wanted = targets("ash")
    updates = {c: train(c, one, method, 1, {}, {}, wanted=wanted) for c in ("x", "y", "z")}
    _, report = close_round(updates, start(), method)
    assert len(set(report.weights.values())) == 1 and min(report.weights.values()) > 0


def a_larger_mu_stays_nearer(_: str) -> None:
    sent = start().adapters[ONE]
    drifts = [
        float(
            sum(
                (t - sent.tensors()[n]).square().sum()
                for n, t in train(
                    "ash", sent, method_of("local", "fedprox", {"mu": mu}), 1, {}, {}, steps=20
                ).state.tensors().items()
            )
        )
        for mu in (0.0, 1.0, 10.0)
    ]  # fmt: skip
    assert drifts[0] > drifts[1] > drifts[2]


CURVATURES, OPTIMA = (1.0, 10.0), (0.0, 1.0)
"""Two clients with ``a_k/2 (x - t_k)^2``: together best at 10/11."""


def quadratic_federation(make: Callable[[], object], rounds: int = 200, steps: int = 10) -> float:
    """Where plain SGD with a hook ends, from 5.0."""
    x, c = torch.tensor(5.0), {}
    memories: list[dict] = [{}, {}]
    for _ in range(rounds):
        ends, extras = [], {}
        for k, (a, t) in enumerate(zip(CURVATURES, OPTIMA, strict=True)):
            parameter = nn.Parameter(x.clone())
            hook = make()
            down = hook.broadcast(c, str(k))
            hook.begin(LocalRound(None, {"x": parameter}, 0.02, steps, down, memories[k]))
            for step in range(1, steps + 1):
                parameter.grad = (a * (parameter - t)).detach()
                hook.grad(step)
                with torch.no_grad():
                    parameter -= 0.02 * parameter.grad
            returned = hook.end()
            ends.append(parameter.detach())
            extras[str(k)], memories[k] = returned.extras, returned.memory
        x = torch.stack(ends).mean()
        c = hook.reduce(extras, c, ["0", "1"])
        if c:
            own = [m["x"] for m in memories]
            torch.testing.assert_close(c["x"], (own[0] + own[1]) / 2, rtol=1e-3, atol=1e-5)
    return float(x)


def control_variates_reach_the_optimum(_: str) -> None:
    best = sum(a * t for a, t in zip(CURVATURES, OPTIMA, strict=True)) / sum(CURVATURES)
    plain = quadratic_federation(choose("local", {"name": "scaffold", "strength": 0}).load())
    ours = quadratic_federation(choose("local", "scaffold").load())
    assert abs(ours - best) < 1e-3 < 0.05 < abs(plain - best)
    sent = start().adapters[ONE]
    with pytest.raises(AdapterError, match="control variate of every tensor is missing"):
        choose("local", "scaffold").load()().check({}, sent)
    with pytest.raises(AdapterError, match="has no place"):
        choose("local", "scaffold").load()().check({"x": torch.zeros(2)}, sent)


def moved(sizes: list[float], step) -> list[float]:
    """How far a step goes in every round, progress being ``size`` times one adapter."""
    sent, memory, found = start().adapters[ONE], {}, []
    way = adapter(5, dtype=torch.float32).tensors()
    for size in sizes:
        target = {n: t + size * way[n] for n, t in sent.tensors().items()}
        after, memory = step(sent, type(sent).from_tensors(target, sent.config), memory)
        found.append(
            max(float((after.tensors()[n] - t).abs().max()) for n, t in sent.tensors().items())
        )
        sent = after
    return found


def adam_ignores_the_length_of_progress(_: str) -> None:
    step = choose("server", {"name": "fedadam", "tau": 1e-6}).load()
    short, long = moved([0.01], step)[0], moved([1.0], step)[0]
    assert long == pytest.approx(short, rel=0.05)


def yogi_forgets_a_spike_more_slowly(_: str) -> None:
    spike = [1.0, *[0.01] * 30]
    adam, yogi = (moved(spike, choose("server", name).load()) for name in ("fedadam", "fedyogi"))
    assert yogi[-1] < adam[-1]


def adagrad_only_gets_shorter(_: str) -> None:
    steps = moved([0.1] * 6, choose("server", "fedadagrad").load())
    assert all(after < before for before, after in itertools.pairwise(steps))


def momentum_adds_up(_: str) -> None:
    steps = moved([0.1] * 3, choose("server", {"name": "fedavgm", "momentum": 0.5}).load())
    assert steps[1] / steps[0] == pytest.approx(1.5, rel=1e-4)
    assert steps[2] / steps[0] == pytest.approx(1.75, rel=1e-4)


PLANTED = {"ash": "east", "birch": "east", "cedar": "west", "dogwood": "west"}


def clusters_are_the_planted_ones(_: str) -> None:
    method = method_of("grouping", "hclust", {"warmup": 2})
    state = start()
    for number in (1, 2, 3):
        updates = {}
        for client, side in PLANTED.items():
            sent = state.adapters[state.group_of(client)]
            updates[client] = train(client, sent, method, number, {}, {}, wanted=targets(side))
        state, report = close_round(updates, state, method, list(PLANTED))
        if number == 1:
            assert set(state.adapters) == {ONE} and not state.groups
    assert state.groups == {"ash": "g1", "birch": "g1", "cedar": "g2", "dogwood": "g2"}
    assert set(report.groups) == {"g1", "g2"}
    common = federate(Method(rule="fedit"), rounds=3)[-1].adapters[ONE]
    for group, side in (("g1", "east"), ("g2", "west")):
        gaps = [
            sum(float((dense(s, m) - targets(side)[m]).square().sum()) for m in SHAPES)
            for s in (state.adapters[group], common)
        ]
        assert gaps[0] < gaps[1]


def a_client_that_was_away_is_waited_for(_: str = "") -> None:
    sent = {c: adapter(1) for c in ("a", "b")}
    updates = {"a": adapter(2)}
    groups, memory = hclust(["a", "b"], updates, sent, {})
    assert groups == {} and any(name.startswith("step/a/") for name in memory)
    groups, memory = hclust(["a", "b"], {"b": adapter(3)}, sent, memory, clusters=2)
    assert groups == {"a": "g1", "b": "g2"}
    assert set(memory) == {"group/a", "group/b"}


def everybody_is_together(_: str) -> None:
    assert choose("grouping", "one").load()(["a"], {}, {}, {}) == ({}, {})


def a_cohort_is_drawn_again_the_same(_: str) -> None:
    draw = choose("schedule", "sync").load()
    names = [f"c{k}" for k in range(9)]
    cohorts = [draw(names, 3, 1, number) for number in range(1, 20)]
    assert cohorts == [draw(names[::-1], 3, 1, number) for number in range(1, 20)]
    assert all(len(c) == 3 and c == sorted(c) for c in cohorts)
    assert {client for cohort in cohorts for client in cohort} == set(names)
    assert draw(names, None, 1, 1) == names


def everything_the_rule_allows_is_trained(_: str) -> None:
    share = choose("share", "all").load()
    assert [share(factors, 1) for factors in ("AB", "A", "B")] == ["AB", "A", "B"]


PROPERTIES: dict[tuple[str, str], Callable[[str], None]] = {
    ("rule", ""): agreement_is_kept,
    ("weights", ""): equal_clients_weigh_the_same,
    ("local", "fedprox"): a_larger_mu_stays_nearer,
    ("local", "scaffold"): control_variates_reach_the_optimum,
    ("server", "fedadam"): adam_ignores_the_length_of_progress,
    ("server", "fedyogi"): yogi_forgets_a_spike_more_slowly,
    ("server", "fedadagrad"): adagrad_only_gets_shorter,
    ("server", "fedavgm"): momentum_adds_up,
    ("grouping", "hclust"): clusters_are_the_planted_ones,
    ("grouping", "one"): everybody_is_together,
    ("schedule", "sync"): a_cohort_is_drawn_again_the_same,
    ("share", "all"): everything_the_rule_allows_is_trained,
}


def test_grouping_waits_for_clients_that_were_away():
    a_client_that_was_away_is_waited_for()


# How plug-ins meet.


@pytest.mark.parametrize("step", ["fedadam", "fedyogi", "fedadagrad", "fedavgm"])
@pytest.mark.parametrize("rule", ["flexlora", "fedsvd", "krum"])
def test_a_step_that_remembers_factors_is_refused_with_a_rule_that_rewrites_them(step, rule):
    recipe = {"data": {"private": [{"path": "x"}]}, "method": {"rule": rule, "server": step}}
    with pytest.raises(ConfigError, match=rf"method: server {step} .* rule {rule} .* lora-fair"):
        parse_recipe(recipe, "r")
    parse_recipe({**recipe, "method": {"rule": "ffa", "server": [step]}}, "r")


def test_a_plug_in_named_twice_is_refused():
    with pytest.raises(ValueError, match="local names fedprox twice"):
        Method(local=["fedprox", {"name": "fedprox", "mu": 1.0}])


def test_hooks_steps_and_groups_work_together_through_files(tmp_path):
    method = Method(
        rule="lora-fair",
        local=["fedprox", "scaffold"],
        server=["fedavgm", {"name": "fedadam", "lr": 0.05}],
        grouping={"name": "hclust", "clusters": 2},
    )
    there, back = federate(method, 4), federate(method, 4, folder=tmp_path)
    assert all(same_state(one, other) for one, other in zip(there, back, strict=True))
    last = there[-1]
    assert set(last.adapters) == set(last.groups.values()) == {"g1", "g2"}
    assert set(last.groups) == set(EXAMPLES)
    steps = last.memory["server.fedadam"]
    assert {name.split(":")[0] for name in steps} == {"g1", "g2"}
    own = {g: {n for n in last.memory["local.scaffold"] if n.startswith(g)} for g in ("g1", "g2")}
    assert len(own["g1"]) == len(own["g2"]) > 0


def test_a_new_group_takes_over_adapter_and_memories_of_its_first_client():
    method = Method(rule="fedit", server="fedavgm", grouping={"name": "hclust", "clusters": 2})
    before, after = federate(method, 1)
    assert set(after.adapters) == {"g1", "g2"}
    assert after.adapters["g1"] is after.adapters["g2"]
    memory = after.memory["server.fedavgm"]
    names = {name.partition(":")[2] for name in memory}
    assert all(memory[f"g1:{n}"] is memory[f"g2:{n}"] for n in names) and names


def test_a_group_without_updates_keeps_its_adapter_and_memory():
    method = Method(rule="fedit", server="fedavgm", grouping={"name": "hclust", "clusters": 2})
    state = federate(method, 1)[-1]
    gone = "g2"
    present = [client for client in EXAMPLES if state.groups[client] != gone]
    updates = {c: train(c, state.adapters[state.group_of(c)], method, 2, {}, {}) for c in present}
    after, report = close_round(updates, state, method, list(EXAMPLES))
    assert set(report.groups) == {"g1"} and after.adapters[gone] is state.adapters[gone]
    for name, tensor in state.memory["server.fedavgm"].items():
        if name.startswith(f"{gone}:"):
            assert after.memory["server.fedavgm"][name] is tensor


def test_a_rule_and_a_policy_may_remember(monkeypatch):
    from fedllm.aggregation.rules import Combined
    from fedllm.section import Section

    class Smooth(Section):
        """Half of the mean of B, half of the last one."""

    class Fading(Section):
        """Equal at first, less every round."""

    def smooth(stack, memory):
        b = stack.mean_B()
        return Combined((b + memory.get("b", b)) / 2, stack.mean_A(), memory={"b": b})

    def fading(cohort, memory):
        count = memory.get("rounds", torch.tensor(0)) + 1
        return dict.fromkeys(cohort.clients, 1.0 / int(count)), {"rounds": count}

    functions, load = {"smooth": smooth, "fading": fading}, Entry.load
    monkeypatch.setattr(Entry, "load", lambda entry: functions.get(entry.title) or load(entry))
    for point, name, settings in (("rule", "smooth", Smooth), ("weights", "fading", Fading)):
        entry = Entry(settings, "x:y", name, traits={"remembers"})
        monkeypatch.setitem(POINTS[point].own, name, entry)
    states = federate(Method(rule="smooth", weights="fading"), 2)
    assert int(states[2].memory["weights.fading"]["rounds"]) == 2
    module = next(iter(SHAPES))
    kept = [state.memory["rule.smooth"][f"{module}/b"] for state in states[1:]]
    found = states[2].adapters[ONE].factors(module).B
    torch.testing.assert_close(found, ((kept[0] + kept[1]) / 2).to(found.dtype))


@pytest.mark.parametrize(
    ("groups", "message"),
    [({"ash": "x"}, "names no group for birch"), (dict.fromkeys(EXAMPLES, "a/b"), "calls a group")],
)
def test_a_grouping_that_forgets_somebody_or_names_a_path_is_refused(monkeypatch, groups, message):
    load = Entry.load
    wrong = lambda *_: (groups, {})  # noqa: E731
    monkeypatch.setattr(Entry, "load", lambda e: wrong if e.title == "one group" else load(e))
    with pytest.raises(EngineError, match=f"grouping one {message}"):
        federate(Method(rule="fedit"), 1)


def test_one_client_alone_needs_no_group():
    assert hclust(["a"], {"a": adapter(1)}, {"a": adapter(0)}, {})[0] == {}
