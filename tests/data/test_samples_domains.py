import json
import time

import pytest

from fedllm.data import samples
from fedllm.data.samples import DOMAINS, domain_examples, names, public_pool, topics
from fedllm.data.samples.grammar import part_of
from fedllm.errors import DataError

CHECKERS = {"number", "label", "code", "exact"}


def texts(examples):
    return {example.query for example in examples}


@pytest.fixture(scope="module")
def private():
    return {domain: domain_examples(domain, 2000, 0, part="private") for domain in DOMAINS}


@pytest.fixture(scope="module")
def test_items():
    return {domain: domain_examples(domain, 1000, 0, part="test") for domain in DOMAINS}


@pytest.fixture(scope="module")
def pool():
    return public_pool(4000, 0)


def test_the_same_seed_gives_the_same_items_and_another_seed_gives_others():
    first = domain_examples("finance", 50, 1, part="private")
    assert first == domain_examples("finance", 50, 1, part="private")
    assert first != domain_examples("finance", 50, 2, part="private")
    assert public_pool(50, 1) == public_pool(50, 1) != public_pool(50, 2)


def test_a_smaller_request_of_one_topic_is_the_beginning_of_a_larger_one():
    few, many = (domain_examples("code", n, 3, part="test", topics=["cap"]) for n in (5, 9))
    assert few == many[:5]


def test_private_and_test_items_share_no_text_whatever_the_seeds(private, test_items):
    for domain in DOMAINS:
        other_seed = domain_examples(domain, 1000, 99, part="test")
        assert not texts(private[domain]) & texts(test_items[domain] + other_seed)


def test_no_private_or_test_instruction_is_in_the_public_pool(private, test_items, pool):
    public_queries = texts(pool)
    public_instructions = {example.instruction for example in pool if not example.input}
    for domain in DOMAINS:
        for example in private[domain] + test_items[domain]:
            assert example.query not in public_queries
            assert example.instruction not in public_instructions


def test_every_text_lies_in_the_part_its_hash_names(private, test_items, pool):
    assert {part_of(text) for domain in DOMAINS for text in texts(private[domain])} == {"private"}
    assert {part_of(text) for domain in DOMAINS for text in texts(test_items[domain])} == {"test"}
    assert {part_of(text) for text in texts(pool)} == {"public"}


def test_items_are_distinct_and_thousands_deep(private):
    for domain in DOMAINS:
        assert len(texts(private[domain])) == 2000
        assert len(texts(domain_examples(domain, 10_000, 5, part="private"))) == 10_000


def test_names_of_private_records_are_in_no_public_text(pool):
    public_text = "\n".join(f"{example.query}\n{example.output}" for example in pool).lower()
    words = set(public_text.replace(".", " ").replace(",", " ").replace(":", " ").split())
    assert not {name.lower() for name in names.SURNAMES[0]} & words
    assert not {name.lower() for name in names.PROJECTS[0]} & words
    assert not [name for name in names.COMPANIES[0] if name.lower() in public_text]


def test_every_private_item_carries_a_findable_name(private):
    known = [*names.SURNAMES[0], *names.COMPANIES[0], *names.PROJECTS[0]]
    for domain in DOMAINS:
        for example in private[domain][:300]:
            assert any(name in example.query for name in known), example.query


def test_a_shard_can_hold_some_topics_while_a_test_set_covers_all():
    own = topics("medical")[:3]
    shard = domain_examples("medical", 60, 0, part="private", topics=own)
    one_by_one = [domain_examples("medical", 20, 0, part="private", topics=[t]) for t in own]
    assert texts(shard) == set().union(*(texts(part) for part in one_by_one))
    assert {example.checker for example in domain_examples("code", 40, 0, part="test")} == {"code"}


def test_topics_have_equal_shares():
    n = 10 * len(topics("math"))
    items = domain_examples("math", n, 0, part="test")
    for topic in topics("math"):
        assert texts(domain_examples("math", 10, 0, part="test", topics=[topic])) <= texts(items)


def test_the_pool_is_mostly_everyday_items_and_holds_every_domain_equally(pool):
    count = {name: sum(e.domain == name for e in pool) for name in (*DOMAINS, "general")}
    assert count["general"] > len(pool) / 2
    assert len({count[domain] for domain in DOMAINS}) == 1
    assert sum(count[domain] for domain in DOMAINS) == len(pool) * samples.IN_DOMAIN_SHARE


def test_examples_are_complete_and_short(private, test_items, pool):
    for example in [*private["code"], *test_items["finance"], *private["math"], *pool]:
        assert example.instruction and example.output and example.domain
        assert len(example.query) < 130 and len(example.output) < 90
        assert example.checker in CHECKERS or example.domain == "general"
    assert private["medical"][12].source == "samples:medical:12"


def test_references_agree_with_the_written_answers(private):
    for domain in DOMAINS:
        for example in private[domain][:400]:
            if example.checker == "number":
                assert example.output.strip("= ").split()[0] == example.reference
            elif example.checker != "code":
                assert example.output == example.reference


def test_code_answers_pass_their_own_cases(private):
    for example in private["code"][:300]:
        scope = {}
        exec(example.output, scope)  # noqa: S102 - text of our own grammar
        reference = json.loads(example.reference)
        for arguments, expected in reference["cases"]:
            assert scope[reference["function"]](*arguments) == expected


def test_code_cases_tell_neighbouring_constants_apart():
    for topic in topics("code"):
        items = domain_examples("code", 40, 0, part="private", topics=[topic])
        by_answer = {item.output: item.reference for item in items}
        assert len(set(by_answer.values())) == len(by_answer), topic


def test_generation_is_fast():
    start = time.process_time()
    domain_examples("medical", 10_000, 0, part="private")
    assert time.process_time() - start < 3  # about 0.4 s alone; slack for a busy machine


@pytest.mark.parametrize(
    ("domain", "wanted", "message"),
    [("law", None, "'law'.*code, medical"), ("math", ["algebra"], "'algebra'.*'math'.*add")],
)
def test_unknown_names_are_refused_with_the_known_ones(domain, wanted, message):
    with pytest.raises(DataError, match=message):
        domain_examples(domain, 5, 0, part="test", topics=wanted)


def test_an_exhausted_topic_is_named():
    with pytest.raises(DataError, match="code/scale.*fewer examples"):
        domain_examples("code", 100_000, 0, part="test", topics=["scale"])
