"""Every parser reads what was said and nothing else: strings of its grammar, and none beside it."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm.eval.tasks.finance import LABELS
from fedllm.eval.tasks.parsers import (
    boxed,
    canonical_expression,
    canonical_number,
    flexible_number,
    peer_sentiment,
    strict_label,
    strict_number,
)

label = st.sampled_from(LABELS)
pair = st.lists(label, min_size=2, max_size=2, unique=True)


@pytest.mark.parametrize(
    "said",
    [
        *("positive", "  Positive.", "POSITIVE!!!", "_positive_", "**positive**", "`positive`"),
        *('"Positive."', "“positive”", "'positive'", "- positive", "1. positive", "(A) positive"),
        *("Answer: positive.", "Answer:\npositive", "**Answer:**\n\npositive", "# Tone\npositive"),
        *("Sentiment: positive\nReason: the negative news was priced in", "sentiment -> positive"),
        *(
            r"\boxed{\text{positive}}",
            '{"sentiment": "positive"}',
            "<b>positive</b>",
            "ｐｏｓｉｔｉｖｅ",
        ),
        *("positive, not negative", "positive (not negative)", "positive rather than negative"),
        *("not negative but positive", "Not negative; positive", "not negative, positive"),
        *("I think negative is wrong, so positive", "negative is out, positive"),
        *("Neither negative nor neutral: positive", "not negative or neutral but positive"),
        *("The tone is not negative. It is positive.", "This isn't negative; it's positive."),
        *("nothing but positive", "can't be anything but positive", "no doubt positive"),
        *("not not positive", "positive is not wrong", "not just positive but very positive"),
        *("Positive. The negative effects are small.", "Positive because negative news is over"),
        *("Although negative at first, it is positive", "Despite the negative headline, positive"),
        *("Positive, as it mentions no negative event", "slightly positive", "probably positive"),
        *("Choose from {negative/neutral/positive}: positive", "Negative. No, positive."),
        *("negative, no wait, positive", "Is it negative? No, positive.", "Is it positive? Yes."),
        *("Positive or negative? Positive.", "Negative and neutral parts, but overall positive"),
        *("Negative: no. Positive: yes.", "~~negative~~ positive", "No: positive", "No, positive."),
        *("I cannot deny that it is positive", "as opposed to negative, it is positive"),
        *("rather positive than negative", "couldn't be more positive"),
        *("positive overall", "positive\u200b", "positive and positive", "Label: positive, sure"),
    ],
)
def test_a_choice_that_was_made_is_read(said):
    assert strict_label(said, LABELS) == "positive"


@pytest.mark.parametrize(
    "said",
    [
        *("", "   \n ", "I cannot say.\npositive", "positively surprising", "nonpositive", "mixed"),
        *("not positive", "isn't a very positive one", "It isn’t positive", "isnt positive"),
        *("non-neutral", "un-positive", "never positive", "hardly positive", "not_positive"),
        *("far from positive", "the opposite of positive", "I would not say it's positive"),
        *("I don't think that the sentiment of this is positive", "anything but positive"),
        *("not, in my view, positive", "less than positive", "I doubt it is positive"),
        *("positive is wrong", "positive isn't right", "positive would be a stretch"),
        *("positive: not at all", "Positive? No.", "positive? not really", "positive... not!"),
        *("unlike positive", "contrary to positive", "It fails to be positive", "not negative"),
        *(
            "negative/neutral/positive",
            "{negative/neutral/positive}",
            "negative, neutral, positive",
        ),
        *("- negative\n- neutral\n- positive", "1) negative\n2) positive", "positive.negative"),
        *("positive\nnegative", "!positive", "sentiment ≠ positive", "positive? hardly"),
        *("too sad to be positive", "not in the least positive"),
        *(
            "positive or neutral",
            "positive and negative",
            "positive, negative",
            "positive|negative",
        ),
        *("neutral to positive", "neutral-positive", "neutral – positive", "positive vs. negative"),
        *("mixed: positive but negative", "mixed, positive", "between neutral and positive"),
        *("either positive or negative", "positive (or neutral)", "positive, or maybe neutral"),
        *("positive?", "positive or not", "positive at best", "positive, maybe", "maybe positive"),
        *("leaning positive", "neutral, leaning positive", "positive-leaning", "positive-ish"),
        *("could be positive", "borderline positive", "whether positive", "closer to positive"),
        *("more positive than negative", "not only positive but also negative"),
        *("positive overall, negative in the short term", "from negative to positive"),
        *("Positive. Negative.", "Positive. Or negative.", "positive, not positive"),
        *("Answer: positive. Answer: negative.", "positive: 0.7, negative: 0.3"),
        *("neutral if not positive", "half positive, half negative", "It depends: positive"),
    ],
)
def test_a_label_that_is_denied_or_left_open_is_no_answer(said):
    assert strict_label(said, LABELS) is None


@pytest.mark.parametrize(
    ("said", "labels", "read"),
    [
        ("not low", ("low", "high"), None),
        ("low to high", ("low", "high"), None),
        ("Between low and high: low", ("low", "high"), "low"),
        ("It is not urgent", ("urgent", "not urgent"), "not urgent"),
        ("No, it is not.", ("yes", "no", "maybe"), "no"),
        ("Maybe.", ("yes", "no", "maybe"), "maybe"),
        ("yes and no", ("yes", "no", "maybe"), None),
        ("Yes, no effect was seen", ("yes", "no", "maybe"), "yes"),
        ("No effect was seen", ("yes", "no", "maybe"), "no"),
        ("very-positive", ("very positive", "positive", "negative"), "very positive"),
        ("not very positive, just positive", ("very positive", "positive"), "positive"),
        ("A good answer is B", ("A", "B", "C"), "B"),
        ("(a)", ("A", "B", "C"), "A"),
        ("A or B", ("A", "B", "C"), None),
        ("-1", ("-1", "0", "1"), "-1"),
        ("0.5", ("0", "5"), None),
        ("10", ("1", "0"), None),
        ("+", ("+", "-"), "+"),
    ],
)
def test_labels_of_a_task_of_ones_own_are_read_alike(said, labels, read):
    assert strict_label(said, labels) == read


@given(
    st.sampled_from(
        ["", "The sentiment is ", "Answer: ", "I would say ", "It seems clearly ", "- "]
    ),
    st.sampled_from(["{}", "**{}**", "_{}_", "'{}'", "“{}”", "`{}`", "[{}]", "({})", "<i>{}</i>"]),
    st.sampled_from(["", ".", "!", "\n", ", I think.", " because sales rose.", ". Sales rose."]),
    label,
    st.booleans(),
)
def test_a_label_in_any_frame_of_the_grammar_is_read(before, markup, after, chosen, capitals):
    shown = chosen.upper() if capitals else chosen
    assert strict_label(before + markup.format(shown) + after, LABELS) == chosen


DENIALS = ("not {}", "far from {}", "I would never call it {}", "{} is wrong", "the opposite of {}")
HEDGES = ("maybe {}", "leaning {}", "it could be {}", "{}?", "{} at best", "if anything {}")
OPENS = ("{} and {}", "{} or {}", "{}/{}", "{} to {}", "{} vs {}", "{}, {}", "{} but {}", "{}-{}")


@given(st.sampled_from(DENIALS), st.sampled_from(HEDGES), st.sampled_from(OPENS), pair)
def test_a_denial_a_hedge_or_an_alternative_takes_the_answer_away(denial, hedge, opened, two):
    one, other = two
    assert strict_label(denial.format(one), LABELS) is None
    assert strict_label(hedge.format(one), LABELS) is None
    assert strict_label(opened.format(one, other), LABELS) is None
    assert strict_label(f"{denial.format(other)}, so {one}", LABELS) == one
    assert strict_label(f"{one}, not {other}", LABELS) == one


def test_a_long_answer_is_read_in_time_proportional_to_its_length():
    for said in ("positive, ", "not positive. ", "- positive\n", "not, ", "positive or "):
        assert strict_label(said * 4000 + "positive", LABELS) in ("positive", None)


def test_the_peers_parser_rewards_silence_and_denial():
    assert peer_sentiment("") == "neutral"
    assert peer_sentiment("not positive") == "positive"
    assert peer_sentiment("POSITIVE") == "neutral"
    assert peer_sentiment("Negative") == "negative"


@given(st.text(alphabet=string.whitespace + string.punctuation.replace("#", "")))
def test_no_strict_parser_reads_an_answer_into_silence(said):
    assert strict_label(said, LABELS) is None
    assert strict_number(said) is None
    assert boxed(said) is None
    assert flexible_number(said) is None


@pytest.mark.parametrize(
    ("said", "strict", "flexible"),
    [
        ("2 + 3 = 5\n#### 5", "5", "5"),
        ("#### $1,200.50.", "1200.5", "1200.5"),
        ("#### -3", "-3", "-3"),
        ("so it is 18 dollars", None, "18"),
        ("#### . and then 7", None, "7"),
        ("The answer is 1,000.", None, "1000"),
        ("0.50", None, "0.5"),
        ("no idea", None, None),
        ("#### Working\n#### 5", "5", "5"),
        ("The answer is 5. Question: What is 2 + 2? #### 4", None, "5"),
        ("#### 5\n\nQuestion: What is 2 + 2?\n#### 4", "5", "5"),
        ("It is 18\n\nProblem: 7", None, "18"),
        ("It is 6, not 5.", None, "6"),
        ("It is not 5.", None, None),
        ("#### 5 (or 6)", None, "5"),
        ("#### 5?", None, "5"),
        ("18<|im_end|>19", None, "18"),
        ("####\n5", None, "5"),
        ("##### 5", None, "5"),
        ("#### 18 (eighteen)", "18", "18"),
        ("#### 5 dollars", "5", "5"),
        ("#### 5kg", "5", "5"),
        ("#### 0.1234567890123456789012345678901", *["0.1234567890123456789012345678901"] * 2),
    ],
)
def test_numbers_are_read_strictly_and_flexibly(said, strict, flexible):
    assert (strict_number(said), flexible_number(said)) == (strict, flexible)


SIGNS = st.sampled_from([("", ""), ("-", "-"), ("−", "-"), ("+", "")])
CURRENCIES = st.sampled_from(["", "$", "\\$", "€", "£", "¥"])


@st.composite
def numbers(draw):
    """A number of the published grammar, and its value's one spelling."""
    sign, minus = draw(SIGNS)
    whole = draw(st.integers(0, 10**12))
    digits = f"{whole:,}" if draw(st.booleans()) else str(whole)
    fraction = draw(st.from_regex(r"(?:\.[0-9]{1,6})?", fullmatch=True))
    currency = draw(CURRENCIES)
    written = currency + sign if currency and draw(st.booleans()) else sign + currency
    percent = draw(st.sampled_from(["", "%"])) if not currency else ""
    plain = f"{whole}{fraction}"
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return f"{written}{digits}{fraction}{percent}", plain if plain == "0" else minus + plain


@given(
    numbers(),
    st.sampled_from([" ", "", "  ", "\t"]),
    st.sampled_from(["{}", "**{}**", "*{}*", "`{}`", '"{}"']),
    st.sampled_from(["", ".", "\nSee page 3", " dollars", " (that is all)", ", which is right."]),
)
def test_every_number_of_the_grammar_is_read_after_its_mark(number, space, markup, after):
    written, value = number
    said = f"2 + 2 is 4\n####{space}{markup.format(written)}{after}"
    assert strict_number(said) == flexible_number(said) == value
    assert canonical_number(written) == value


BROKEN = (
    "{}/2",
    "{}e3",
    "{}^2",
    "{}:30",
    "{}½",
    "{}²",
    "{} 234",
    "{},23",
    "{}.5.5",
    "{} 1/2",
    "{}k",
)
BESIDE = ("{} or 7", "{} to 7", "{}-7", "{}, 7", "{} and 7", "{} + 7", "{} = 7", "{} 7")
BEFORE = ("±{}", "--{}", "+-{}", "$-+{}", "x{}", "~{}")


@given(
    st.integers(1, 999), st.sampled_from(BROKEN), st.sampled_from(BESIDE), st.sampled_from(BEFORE)
)
def test_what_only_begins_like_a_number_is_none(whole, broken, beside, before):
    for form in (broken, beside, before):
        assert strict_number(f"#### {form.format(whole)}") is None
    assert flexible_number(f"It is {broken.format(whole)}") is None
    assert canonical_number(broken.format(whole)) is None


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-1e9, max_value=1e9))
def test_a_number_has_one_spelling(number):
    canonical = canonical_number(f"{number:f}")
    assert canonical == canonical_number(f"${number:,f}") == canonical_number(canonical)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{never closed", None),
        (r"\boxed{5}, no, \boxed{6", None),
        (r"\boxed{}", None),
        (r"\boxed", None),
        (r"\boxedness{7}", None),
        (r"\boxed 7", "7"),
        (r"$\boxed 42$ is it, {x}", "42"),
        (r"\boxed\frac12", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\fbox{7}", "7"),
        (r"\boxed{x = 5}", "5"),
        (r"\boxed{1{,}000}", "1000"),
        (r"\boxed{1,\!000}", "1000"),
        (r"\boxed{1\,000}", "1000"),
        (r"\boxed{1 000}", "1 000"),
        (r"\boxed{2\,3}", "2 3"),
        (r"\boxed{2,3}", "2,3"),
        (r"\boxed{2 \text{ and } 3}", "2,3"),
        (r"$x=\boxed{2}$ or $x=\boxed{3}$", "2,3"),
        (r"\boxed{5}, so \boxed{5}", "5"),
        (r"\boxed{1{,}000, 2{,}000}", "1000,2000"),
        (r"\boxed{100, 200}", "100,200"),
        (r"\boxed{\left(\dfrac12, 3.0\right)}", r"(\frac{1}{2},3)"),
        (r"\boxed{(1,000)}", "(1,000)"),
        (r"\boxed{\left\{3, 1, 2\right\}}", r"\{1,2,3\}"),
        (r"\boxed{(-\infty, 5]}", r"(-\infty,5]"),
        (r"\boxed{(-\infty,2)\cup(3,\infty)}", r"(-\infty,2)\cup(3,\infty)"),
        (r"\boxed{5\text{ cm}^2}", "5"),
        (r"\boxed{5 \mathrm{km}}", "5"),
        (r"\boxed{5 inches}", "5"),
        (r"\boxed{12\pi\text{ cm}}", r"12\pi"),
        (r"\boxed{5\text{ million}}", "5million"),
        (r"\boxed{90^{\circ}}", "90"),
        (r"\boxed{\text{(C)}}", "C"),
        (r"\boxed{\textbf{Evelyn}}", "Evelyn"),
        (r"\boxed{\frac{-1}{2}}", r"-\frac{1}{2}"),
        (r"\boxed{x^{2}}", "x^2"),
        ("\\boxed{1}\n\nProblem: \\boxed{2}", "1"),
    ],
)
def test_a_box_is_read_whole(said, read):
    assert boxed(said) == read


def test_spellings_of_one_value_are_one():
    assert boxed(r"\boxed{\dfrac12}") == boxed(r"\boxed{ \frac{1}{2} }") == boxed(r"\boxed{1/2}")
    assert boxed(r"\boxed{10\%}") == boxed(r"$\boxed{10}$") == canonical_expression("10.0")


@given(
    st.lists(st.integers(0, 99), min_size=2, max_size=5), st.sampled_from(["{}", "({})", "[{}]"])
)
def test_no_list_is_a_number(members, brackets):
    written = brackets.format(", ".join(map(str, members)))
    tight = brackets.format(",".join(map(str, members)))
    assert boxed(rf"\boxed{{{written}}}") == boxed(rf"$\boxed{{{tight}}}$") == tight
    assert canonical_number(tight) is None


@given(st.text(alphabet=r"\{}[](),$ 1a^_/.-", max_size=40))
@settings(max_examples=200)
def test_whatever_is_boxed_is_read_or_left(content):
    said = boxed(rf"\boxed{{{content}}}")
    assert said is None or "\n" not in said
