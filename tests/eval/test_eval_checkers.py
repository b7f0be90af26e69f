"""What counts as right."""

import json
from decimal import Decimal

import pytest

from fedllm.data.samples import DOMAINS, domain_examples
from fedllm.errors import DataError
from fedllm.eval.checkers.exact import CHECKERS, final_number, is_correct
from fedllm.types import Example


def right(checker, response, reference):
    return is_correct(Example("q", "a", checker=checker, reference=reference), response)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", "42"),
        ("3 + 4 = 7", "7"),
        ("It costs $1,234.50.", "1234.5"),
        ("-5", "-5"),
        ("$-5", "-5"),
        ("-$5", "-5"),
        ("−5 degrees", "-5"),
        ("10-3", "3"),
        ("(5)-3", "3"),
        ("x=-3", "-3"),
        ("- 5 apples", "5"),
        ("+.5", "0.5"),
        ("12,5", None),
        ("1/2", None),
        ("1e3", None),
        ("1 234", None),
        ("5 or 6", None),
        ("between 5 and 6", None),
        ("±5", None),
        ("5 1/2", None),
        ("\\frac{1}{2}", None),
        ("10/2 = 5", "5"),
        ("2 million", "2"),
        ("negative 5", "-5"),
        ("10 minus 5", "5"),
        ("steps 1 2 3 #### 18 after 99", "18"),
        ("#### 7\n\nsee page 3", "7"),
        ("12 ####", "12"),
        ("5mg of H2O", "5"),
        ("1,000,000", "1000000"),
        ("50%", "50"),
        ("no digits", None),
        ("", None),
        ("v2.5", None),
    ],
)
def test_the_final_number_of_a_text(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


def test_numbers_compare_by_value():
    assert right("number", "so it is 42.0", "42")
    assert right("number", "#### 1,000", "… #### 1000")
    assert not right("number", "41", "42")
    assert not right("number", "42 or 43", "42")
    assert not right("number", "forty-two", "42")


def test_what_the_writer_runs_on_to_ask_is_not_read():
    assert right("number", "5. Question: What is 40 + 2? 42", "5")
    assert final_number("1" + "#### x" * 5000) == 1


def test_labels_compare_on_the_first_line():
    assert right("label", " Positive.\nBecause sales rose.", "positive")
    assert right("label", "**yes**", "Yes")
    assert not right("label", "positive or negative", "positive")
    assert not right("label", "The sentiment is\npositive", "positive")
    assert not right("label", "yes?", "yes")
    assert right("label", "+", "+")
    assert not right("label", "-", "+")


def test_exact_ignores_case_and_white_space_only():
    assert right("exact", " Beta  blocker\n", "beta blocker")
    assert not right("exact", "beta blocker.", "beta blocker")


REFERENCE = json.dumps({"function": "f", "cases": [[[3], 9], [[-2], 4]]})


def test_code_must_pass_every_case():
    assert right("code", "def f(x): return x * x", REFERENCE)
    assert right("code", "```python\ndef f(x):\n    return x ** 2\n```\nDone.", REFERENCE)
    assert right("code", "```sh\npip install x\n```\n```py3\ndef f(x): return x * x", REFERENCE)
    assert right("code", "lambda x: x * x", REFERENCE)
    assert not right("code", "def f(x): return x * 3", REFERENCE)
    assert not right("code", "x * x", REFERENCE)
    assert not right("code", "def f(x): return x * x\nThis squares x.", REFERENCE)
    assert not right("code", "I cannot do that", REFERENCE)


def test_code_may_be_an_expression_of_named_parameters():
    named = json.dumps({"function": "f", "parameters": ["x"], "cases": [[[3], 9], [[-2], 4]]})
    assert right("code", "x * x", named)
    assert right("code", "def f(x): return x * x", named)
    assert not right("code", "x * 3", named)


@pytest.mark.parametrize(
    ("body", "expected", "verdict"),
    [
        ("x > 2", True, True),
        ("1", True, False),
        ("x > 2", 1, False),
        ("3.0", 3, True),
        ("0.1 + 0.2", 0.3, True),
        ("(1, 2)", [1, 2], True),
        ("[1, 2, 3]", [1, 2], False),
        ("[1, True]", [1, 1], False),
        ("'3'", 3, False),
        ("None", None, True),
        ("1 / 0", None, False),
    ],
)
def test_code_results_keep_their_types(body, expected, verdict):
    reference = json.dumps({"function": "f", "cases": [[[3], expected]]})
    assert right("code", f"def f(x): return {body}", reference) is verdict


@pytest.mark.parametrize("checker", sorted(CHECKERS))
@pytest.mark.parametrize("response", ["", " \n\t"])
def test_silence_is_wrong(checker, response):
    reference = {"number": "0", "label": "no", "exact": " ", "code": REFERENCE}[checker]
    assert not right(checker, response, reference)


def test_the_output_stands_in_for_a_missing_reference():
    assert is_correct(Example("q", "Yes", checker="label"), "yes")


@pytest.mark.parametrize(
    ("checker", "reference"),
    [
        ("number", "secret words"),
        ("code", "secret words"),
        ("code", '{"cases": []}'),
        ("code", '{"function": "f", "cases": []}'),
        ("code", "[1]"),
    ],
)
def test_a_useless_reference_is_named_by_place_and_never_quoted(checker, reference):
    example = Example("q", "a", checker=checker, reference=reference, source="bank.jsonl:7")
    with pytest.raises(DataError, match="bank.jsonl:7") as error:
        is_correct(example, "1")
    assert "secret" not in str(error.value)


def test_an_unknown_checker_names_the_known_ones():
    with pytest.raises(DataError, match="code, exact, label, number"):
        is_correct(Example("q", "a", checker="vibes"), "1")


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_sample_domains_own_answers_are_right_and_each_others_wrong(domain):
    examples = domain_examples(domain, 120, seed=0, part="test")
    assert all(is_correct(example, example.output) for example in examples)
    shifted = [*examples[1:], examples[0]]
    hits = sum(is_correct(a, b.output) for a, b in zip(examples, shifted, strict=True))
    assert hits < 60
