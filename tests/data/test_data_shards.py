"""From sources to shards: who trains and tests on what, and what the public pool may hold."""

import json
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm.config import DataConfig
from fedllm.data.holdout import prompt_key
from fedllm.data.shards import (
    Shard,
    build_shards,
    read_pool,
    read_shard,
    safe_names,
    write_pool,
    write_shard,
)
from fedllm.errors import DataError
from fedllm.types import Example, Turn


def rows(tag, n, **more):
    return [
        {"prompt": f"{tag} question {i}", "completion": f"{tag} answer {i}", **more}
        for i in range(n)
    ]


def write(root, name, items):
    (root / name).write_text("\n".join(json.dumps(item) for item in items))


def build(root, seed=0, labels=None, **settings):
    return build_shards(DataConfig(root=root, **settings), seed=seed, labels=labels)


def prompts(examples):
    return {prompt_key(example) for example in examples}


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "law.jsonl", rows("law", 40))
    write(tmp_path, "tax.jsonl", rows("tax", 30))
    write(tmp_path, "pool.jsonl", rows("pool", 20))
    return tmp_path


PRIVATE = [{"path": "law.jsonl"}, {"path": "tax.jsonl"}]


def test_one_client_per_domain_with_its_own_part_held_out(root):
    federation = build(root, private=PRIVATE, public=[{"path": "pool.jsonl"}])
    assert list(federation.shards) == ["law", "tax"]
    law = federation.shards["law"]
    assert (len(law.train), len(law.test), law.domains) == (32, 8, ("law",))
    assert not prompts(law.train) & prompts(law.test)
    assert len(federation.public) == 20
    assert federation.report["clients"]["tax"] == {
        "train": 24,
        "test": 6,
        "domains": ["tax"],
        "equal_to_held_out": 0,
        "capped": 0,
    }
    json.dumps(federation.report, allow_nan=False)


def test_the_same_seed_gives_the_same_federation_and_another_does_not(root):
    assert build(root, private=PRIVATE) == build(root, private=PRIVATE)
    assert build(root, private=PRIVATE) != build(root, seed=1, private=PRIVATE)


def test_held_out_sources_go_to_the_clients_of_their_domain_the_others_hold_out(root):
    write(root, "test.jsonl", rows("unseen", 9))
    test = [{"path": "test.jsonl", "domain": "tax"}]
    federation = build(root, private=PRIVATE, test=test)
    tax, law = federation.shards["tax"], federation.shards["law"]
    assert (
        len(tax.train) == 30 and {e.source[:4] for e in tax.test} == {"test"} and len(tax.test) == 9
    )
    assert len(law.train) == 32 and {e.source[:3] for e in law.test} == {"law"}


def test_a_held_out_prompt_is_trained_on_by_nobody_whatever_case_or_answer(root):
    leak = {"prompt": "TAX  Question\n3 ", "completion": "something else"}
    write(root, "law.jsonl", [*rows("law", 40), leak])
    write(root, "test.jsonl", rows("tax", 30)[3:5])
    test = [{"path": "test.jsonl", "domain": "tax"}]
    federation = build(root, private=PRIVATE, test=test)
    held_out = prompts(federation.shards["tax"].test)
    assert len(held_out) == 2
    for shard in federation.shards.values():
        assert not prompts(shard.train) & held_out
    assert federation.report["clients"]["tax"]["equal_to_held_out"] == 2
    law = federation.shards["law"]
    assert (
        federation.report["clients"]["law"]["equal_to_held_out"]
        + sum("TAX" in e.instruction for e in law.test)
        == 1
    )


def test_the_pool_holds_nothing_that_a_client_or_a_test_asks(root):
    write(root, "test.jsonl", rows("unseen", 5))
    pool = [*rows("pool", 10), *rows("law", 3), {"prompt": " UNSEEN question 4", "completion": "x"}]
    write(root, "pool.jsonl", pool)
    federation = build(
        root,
        private=PRIVATE,
        test=[{"path": "test.jsonl", "domain": "tax"}],
        public=[{"path": "pool.jsonl"}, {"path": "pool.jsonl", "domain": "again"}],
        samples_per_client=2,
    )
    assert len(federation.public) == 10
    assert federation.report["public"] == {"rows": 10, "equal_to_private": 4}
    assert federation.report["sources"][-1]["duplicates"] == 14
    write(root, "pool.jsonl", rows("law", 3))
    with pytest.raises(DataError, match="data.public: every row equals"):
        build(root, private=PRIVATE, public=[{"path": "pool.jsonl"}])


def test_caps_bound_training_and_held_out_rows(root):
    federation = build(root, private=PRIVATE, samples_per_client=10, test_samples=3)
    assert {(len(s.train), len(s.test)) for s in federation.shards.values()} == {(10, 3)}
    assert federation.report["clients"]["law"]["capped"] == 27
    order = [int(e.source.split(":")[1]) for e in federation.shards["law"].train]
    assert order == sorted(order)


def test_held_out_rows_of_several_domains_are_capped_evenly(root):
    write(root, "test.jsonl", rows("unseen", 60))
    federation = build(
        root,
        private=PRIVATE,
        partition={"name": "iid", "clients": 2},
        test=[{"path": "test.jsonl", "domain": "tax"}],
        test_samples=8,
        test_fraction=0.5,
    )
    for shard in federation.shards.values():
        assert sorted(e.domain for e in shard.test) == ["law"] * 4 + ["tax"] * 4
    trained = sum(len(shard.train) for shard in federation.shards.values())
    assert trained == 40 + 30 - 2 * 4  # no row is held out beyond its domain's part of the cap


def test_turns_of_one_conversation_stay_together(tmp_path):
    chats = [
        {
            "messages": [
                {"role": role, "content": f"{role} {chat} {turn}"}
                for turn in range(3)
                for role in ("user", "assistant")
            ]
        }
        for chat in range(12)
    ]
    write(tmp_path, "chat.jsonl", chats)
    federation = build(
        tmp_path,
        private=[{"path": "chat.jsonl"}],
        partition={"name": "iid", "clients": 3},
        test_fraction=0.3,
    )
    parts = [part for s in federation.shards.values() for part in (s.train, s.test)]
    assert sum(map(len, parts)) == 36
    places = [{e.source for e in part} for part in parts]
    assert sum(map(len, places)) == len(set().union(*places)) == 12


def test_owners_become_clients_with_safe_distinct_names(tmp_path):
    owners = ["St. Mary's / A&E", "st. mary s - a e", "../etc"]
    write(
        tmp_path, "a.jsonl", [r for i, o in enumerate(owners) for r in rows(f"t{i}", 10, client=o)]
    )
    federation = build(tmp_path, private=[{"path": "a.jsonl"}], partition="owner")
    assert list(federation.shards) == ["St.-Mary-s-A-E", "etc", "st.-mary-s---a-e"]
    largest = build(
        tmp_path, private=[{"path": "a.jsonl"}], partition={"name": "owner", "max_owners": 1}
    )
    assert len(largest.shards) == 1


@given(st.sets(st.text(max_size=90), min_size=1, max_size=12))
@settings(deadline=None)
def test_client_names_are_safe_and_distinct_on_every_file_system(keys):
    names = safe_names(keys)
    assert len({name.casefold() for name in names.values()}) == len(keys)
    for name in names.values():
        assert name.strip("-.") and not set(name) & set("/\\: \0") and not name.startswith(".")
        assert len(name) <= 70
    assert names == safe_names(sorted(keys, reverse=True))


def test_held_out_rows_of_an_owner_go_to_that_owner(tmp_path):
    table = [
        {**r, "client": o, "split": s}
        for o in "ab"
        for s, n in (("train", 9), ("eval", 4))
        for r in rows(o + s, n)
    ]
    write(tmp_path, "a.jsonl", table)
    federation = build(
        tmp_path,
        private=[{"path": "a.jsonl", "where": {"split": "train"}}],
        test=[{"path": "a.jsonl", "where": {"split": "eval"}}],
        partition="owner",
    )
    for owner, shard in federation.shards.items():
        assert (len(shard.train), len(shard.test)) == (9, 4)
        assert {e.owner for e in [*shard.train, *shard.test]} == {owner}


def test_dirichlet_asks_for_labels_once_per_record(root):
    asked = []

    def labels(examples, clusters):
        asked.append(len(examples))
        return np.array([example.domain == "law" for example in examples], dtype=np.int64)

    skewed = {"name": "dirichlet", "clients": 3}
    federation = build(root, labels=labels, private=PRIVATE, partition=skewed)
    assert asked == [70]
    assert list(federation.shards) == ["client-0", "client-1", "client-2"]
    total = sum(len(s.train) + len(s.test) for s in federation.shards.values())
    assert total == 70


def test_rows_that_repeat_a_prompt_are_held_out_together(tmp_path):
    repeated = [{"prompt": f"question {i % 10}", "completion": f"answer {i}"} for i in range(40)]
    write(tmp_path, "a.jsonl", repeated)
    (shard,) = build(tmp_path, private=[{"path": "a.jsonl"}]).shards.values()
    assert (len(shard.train), len(shard.test)) == (32, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test": [{"path": "pool.jsonl", "domain": "lore"}]}, r"pool.jsonl:1: .*'lore'.*law, tax"),
        (
            {"test": [{"path": "pool.jsonl", "domain": "law"}], "test_fraction": 0},
            r"client tax: .* its domain tax and data.test_fraction=0",
        ),
        ({"partition": "owner"}, r"70 of 70 rows name no owner"),
        (
            {"partition": {"name": "iid", "clients": 99}},
            r"clients=99 of data.partition is more than the 70",
        ),
        (
            {"private": [{"path": "one.jsonl"}]},
            r"client one: 1 private rows of one prompt leave nothing to hold out",
        ),
        (
            {"test": [{"path": "law.jsonl", "domain": "law"}]},
            r"client law: no training rows are left \(40 before",
        ),
    ],
)
def test_a_federation_that_cannot_be_built_says_why(root, settings, message):
    write(root, "one.jsonl", rows("one", 1))
    with pytest.raises(DataError, match=message) as caught:
        build(root, **{"private": PRIVATE, **settings})
    assert "question" not in str(caught.value)


def test_held_out_owners_that_are_no_clients_are_refused(tmp_path):
    write(tmp_path, "a.jsonl", rows("a", 9, client="a"))
    write(tmp_path, "b.jsonl", rows("b", 9, client="b"))
    with pytest.raises(DataError, match=r"b.jsonl:1: no owner .* columns.owner"):
        build(
            tmp_path, private=[{"path": "a.jsonl"}], test=[{"path": "b.jsonl"}], partition="owner"
        )


EXAMPLES = st.builds(
    Example,
    instruction=st.text(),
    output=st.text(),
    input=st.text(),
    history=st.lists(st.builds(Turn, role=st.just("user"), content=st.text())).map(tuple),
    domain=st.text(max_size=5),
    checker=st.sampled_from(["", "number"]),
    reference=st.text(max_size=5),
    source=st.just("a.json:1"),
)


@given(train=st.lists(EXAMPLES, max_size=4), test=st.lists(EXAMPLES, max_size=4))
@settings(deadline=None, max_examples=40)
def test_a_shard_file_gives_back_what_was_written(tmp_path_factory, train, test):
    path = tmp_path_factory.mktemp("shard") / "shards" / "a.jsonl"
    shard = Shard("a", train, test, ("x", "y"))
    write_shard(path, shard)
    assert read_shard(path) == shard
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = path.read_bytes()
    write_shard(path, shard)
    assert path.read_bytes() == first and list(path.parent.iterdir()) == [path]
    write_pool(path, train)
    assert read_pool(path) == train


def test_a_damaged_shard_file_names_itself_and_not_its_text(tmp_path):
    path = tmp_path / "a.jsonl"
    write_shard(path, Shard("a", [Example("SECRET", "b"), Example("c", "SECRET")], [], ("x",)))
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    for damaged in (whole[:-10], "".join(lines[:-1]), "SECRET\n", "[]\n", whole + "7\n", "{}\n"):
        path.write_text(damaged)
        with pytest.raises(DataError, match=r"a.jsonl: ") as caught:
            read_shard(path)
        assert "SECRET" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_shard(tmp_path / "absent.jsonl")


def test_ids_stay_what_they_were_before_examples_had_tools():
    chat = Example("a", "b", input="c", history=(Turn("user", "x"), Turn("assistant", "y")))
    assert (Example("a", "b").id, chat.id) == ("3aa8909cac069691", "a8234fb90cd5823b")
