"""How a sample item is written: topics, phrasings and the draw that fills them.

A topic is one sub-skill of a domain: phrasings with ``{slots}`` and a function that fills them.
Each topic is phrased three times: private phrasings sound like an organisation's own records and
serve private shards and tests; public phrasings sound like an open instruction set; documents are
plain sentences for pre-training. Private names and public names are disjoint halves of one table.

Which part a text may appear in is decided by the text itself (`part_of`), so private, test and
public items are disjoint for every seed and size without any bookkeeping.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

from fedllm.data.samples import names
from fedllm.errors import DataError
from fedllm.seeds import derive_seed
from fedllm.types import Example

T = TypeVar("T")
Part = Literal["private", "test", "public"]
Slots = dict[str, str]

_MISSES = 2000
"""Draws without a new text after which a topic counts as exhausted."""


class Draw:
    """The random choices of one call.

    Python's own generator, seeded by key: its scalar draws are several times faster than numpy's.

    Args:
        seed: A derived seed.
        part: Decides which half of the name tables is used.
    """

    def __init__(self, seed: int, part: Part) -> None:
        self.part = part
        self._random = Random(seed)
        self._half = 1 if part == "public" else 0

    def pick(self, options: Sequence[T]) -> T:
        """One of ``options``."""
        return options[int(self._random.random() * len(options))]

    def number(self, low: int, high: int) -> int:
        """A whole number in ``[low, high]``."""
        return low + int(self._random.random() * (high - low + 1))

    def two(self, options: Sequence[T]) -> tuple[T, T]:
        """Two different entries of ``options``."""
        first = self.number(0, len(options) - 1)
        second = (first + self.number(1, len(options) - 1)) % len(options)
        return options[first], options[second]

    def surname(self) -> str:
        """A family name of this part's half."""
        return self.pick(names.SURNAMES[self._half])

    def person(self) -> str:
        """A given name and a family name."""
        return f"{self.pick(names.GIVEN)} {self.surname()}"

    def company(self) -> str:
        """The name of a company that no fact table knows."""
        return self.pick(names.COMPANIES[self._half])

    def companies(self) -> tuple[str, str]:
        """Two different companies."""
        return self.two(names.COMPANIES[self._half])

    def project(self) -> str:
        """The name of a software project."""
        return self.pick(names.PROJECTS[self._half])

    def code(self, prefix: str) -> str:
        """A record number such as ``MR-4821``."""
        return f"{prefix}-{self.number(10, 99)}{self.number(10, 99)}"


@dataclass(frozen=True, slots=True)
class Topic:
    r"""One sub-skill of a domain.

    A phrasing is ``instruction`` or ``instruction\ninput``; it must contain enough slots to make
    thousands of distinct texts.
    """

    name: str
    checker: str
    fill: Callable[[Draw], Slots]
    """Returns the slots, ``answer`` among them, and ``reference`` where it is not the answer."""
    private: tuple[str, ...]
    public: tuple[str, ...]
    documents: tuple[str, ...] = ()
    """Plain sentences that state the same fact or skill, for pre-training."""
    questions: tuple[str, ...] = ()
    """Short questions in yet another wording, for pre-training; the short answer is ``short``."""


def part_of(query: str) -> Part:
    """The one part a text belongs to: 1 in 4 test, 1 in 2 private, 1 in 4 public."""
    bucket = hashlib.sha256(query.encode()).digest()[0] % 4
    return "test" if bucket == 0 else "public" if bucket == 1 else "private"


def fill(topic: Topic, draw: Draw) -> Slots:
    """The slots of one item, ``reference`` always among them."""
    slots = topic.fill(draw)
    slots.setdefault("reference", slots["answer"])
    slots["short"] = slots["answer"] if topic.checker == "code" else slots["reference"]
    return slots


def render(topic: Topic, draw: Draw) -> tuple[str, str, Slots]:
    """One phrasing of ``topic`` filled: instruction, input (may be empty), slots."""
    phrasings = topic.public if draw.part == "public" else topic.private
    slots = fill(topic, draw)
    instruction, _, given = draw.pick(phrasings).format_map(slots).partition("\n")
    return instruction, given, slots


def distinct_examples(domain: str, topic: Topic, draw: Draw) -> Iterator[Example]:
    """Endless distinct examples of one topic for the part of ``draw``.

    Raises:
        DataError: The topic has no further text for this part.
    """
    seen: set[str] = set()
    while True:
        for _ in range(_MISSES):
            instruction, given, slots = render(topic, draw)
            query = f"{instruction}\n{given}" if given else instruction
            if query not in seen and part_of(query) == draw.part:
                break
        else:
            raise DataError(
                f"sample topic {domain}/{topic.name} has only about {len(seen)} distinct "
                f"{draw.part} items; ask for fewer examples or for more topics"
            )
        seen.add(query)
        yield Example(
            instruction,
            slots["answer"],
            given,
            domain=domain,
            checker=topic.checker,
            reference=slots["reference"],
        )


def interleaved(
    domain: str, chosen: Sequence[Topic], n: int, seed: int, part: Part
) -> Iterator[Example]:
    """``n`` distinct examples, the chosen topics in equal shares and shuffled order."""
    streams = {
        topic.name: distinct_examples(
            domain, topic, Draw(derive_seed(seed, f"samples/{domain}/{topic.name}/{part}"), part)
        )
        for topic in chosen
    }
    order = [chosen[row % len(chosen)].name for row in range(n)]
    Random(derive_seed(seed, f"samples/{domain}/order/{part}")).shuffle(order)
    return (next(streams[name]) for name in order)
