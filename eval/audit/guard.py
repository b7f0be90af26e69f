"""What must not count: duplicates between members and non-members, and text that is public.

Two texts are near-duplicates when they are equal after normalisation or share ``OVERLAP`` of their
runs of ``RUN`` words (Jaccard). In a short text one other word breaks most runs, so that a member
and a non-member are near-duplicates as well when they have the same response, one that few have (a
label says nothing), and most of the rare words of their prompts in common, or a response of
``LONG`` words or more. A non-member that nearly equals a member was trained on all the same, and a
member that can be read in the public pool leaks nothing when it comes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from fedllm.eval.audit.population import Population
from fedllm.retrieval.contamination import words
from fedllm.types import Example

RUN = 3
OVERLAP = 0.7
LONG = 8
"""Words of a response that nobody writes twice by chance."""
RARE, FEW = 0.02, 4
"""Share of the texts, and their number in any case, that may hold what is rare."""
Shingles = frozenset[tuple[str, ...]]


def whole_text(example: Example) -> str:
    """All that is written in an example."""
    turns = [turn.content + turn.tool for turn in example.history]
    steps = [turn.content + turn.tool for turn in (*example.steps, example.response)]
    return "\n".join([*turns, example.instruction, example.input, *steps])


def shingles(example: Example) -> Shingles:
    """Runs of ``RUN`` normalised words; a shorter text is one run."""
    tokens = words(whole_text(example))
    size = min(RUN, len(tokens))
    return frozenset(tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1))


class Near:
    """Looks up which of a set of texts a text nearly equals."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._sets = [shingles(example) for example in examples]
        self._index: dict[tuple[str, ...], list[int]] = {}
        for number, found in enumerate(self._sets):
            for run in found:
                self._index.setdefault(run, []).append(number)

    def matches(self, example: Example) -> Iterator[int]:
        """Positions of the texts that ``example`` nearly equals."""
        own = shingles(example)
        shared: dict[int, int] = {}
        for run in own:
            for number in self._index.get(run, ()):
                shared[number] = shared.get(number, 0) + 1
        for number, count in shared.items():
            if count >= OVERLAP * (len(own) + len(self._sets[number]) - count):
                yield number


def distinct(examples: Sequence[Example]) -> list[Example]:
    """Without what nearly equals an earlier one."""
    near = Near(examples)
    gone: set[int] = set()
    for number, example in enumerate(examples):
        if number not in gone:
            gone.update(other for other in near.matches(example) if other > number)
    return [example for number, example in enumerate(examples) if number not in gone]


def same_secret(members: Sequence[Example], strangers: Sequence[Example]) -> set[int]:
    """Places of non-members that ask for a member's response in other words."""
    most = max(FEW, RARE * (len(members) + len(strangers)))
    prompts = [
        [set(words(_prompt(example))) for example in group] for group in (members, strangers)
    ]
    held = Counter(word for group in prompts for prompt in group for word in prompt)
    own, other = (
        [{word for word in prompt if held[word] <= most} for prompt in group] for group in prompts
    )
    responses = [
        [tuple(words(example.output)) for example in group] for group in (members, strangers)
    ]
    labels = {
        r for r, count in Counter(r for rows in responses for r in rows).items() if count > most
    }
    holders: dict[tuple[str, ...], list[int]] = {}
    for place, response in enumerate(responses[0]):
        holders.setdefault(response, []).append(place)
    return {
        place
        for place, response in enumerate(responses[1])
        for member in (() if response in labels else holders.get(response, ()))
        if len(response) >= LONG
        or 2 * len(own[member] & other[place]) > min(len(own[member]), len(other[place]))
    }


def _prompt(example: Example) -> str:
    turns = [turn.content for turn in example.history]
    return "\n".join([*turns, example.instruction, example.input])


def guarded(population: Population) -> Population:
    """Without public samples, and without pairs of near-duplicates across the two populations."""
    public = Near(population.public)

    def private(example: Example) -> bool:
        return next(public.matches(example), None) is None

    population = population.kept(
        lambda s: s.group not in ("member", "nonmember") or private(s.example),
        "nearly equal to a public example",
    )
    strangers = Near(population.examples("nonmember"))
    twins = {
        number for member in population.of("member") for number in strangers.matches(member.example)
    }
    twins |= same_secret(population.examples("member"), population.examples("nonmember"))
    gone = {population.of("nonmember")[number].id for number in twins}
    return population.kept(lambda s: s.id not in gone, "non-member nearly equal to a member")
