"""The one label that an answer chooses, or nothing.

The grammar, over the answer's first line (with what follows where that only leads in, "Answer:",
and with the lines of bare labels after one)::

    answer    = sentence { sentence }
    sentence  = { clause }                      reasons ("because ...", "despite ...") left out
    clause    = { word } group { word }
    group     = label { coordinator label }     coordinators: "and", "or", "/", ",", "to", "vs", ...
    label     = the whole word, whatever its case, quotes and mark-up

A label is *denied* by an odd number of negations in its own clause, before it ("far from positive",
"would not say it is positive") or after it ("positive is wrong"); a group shares the denial before
its first label, unless mere commas part it. It is *tentative* after "maybe", "leaning", "between",
"if" and the like, and in a question. A group of all labels repeats the question and says nothing.

The first sentence that leaves a label undenied decides. A later one counts where it takes back
("or ...", "however ...", another bare label), corrects ("no, ...", "actually ...") or concludes
("overall ...", "answer: ...").

The answer chooses a label where no other is left undenied, none denies the label itself and one
mention at least is not tentative; otherwise the choice is left open. The phrases (``phrases``) are
English; labels of any language are read where they stand alone.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedllm.eval.tasks import phrases

_FIRST = ord(phrases.MARKS[0])
_STARTS = r"(?:is|and|or|nor|to|vs|it|this|that|there|the|they|we|i|because|since|as|but)\b"
"""What may follow the answer "no", unlike the noun after the article."""
_INVISIBLE = rf"[\u00ad\u200b-\u200d\u2060\ufeff{phrases.MARKS}]"


@dataclass(frozen=True, slots=True)
class Mention:
    """One label in a sentence and how it is meant."""

    mark: str
    """The character that stands for the label."""
    denied: bool
    tentative: bool


def strict_label(answer: str, labels: Sequence[str]) -> str | None:
    """The label that the answer chooses; None where it names none or leaves the choice open.

    Args:
        answer: What the model wrote.
        labels: The labels in the form to return; their case does not matter in the answer.
    """
    names, spellings = _spellings(tuple(labels))
    lines = [line.strip() for line in _fold(answer).splitlines() if line.strip()]
    if not lines or not names:
        return None
    marked = [spellings.sub(lambda m: chr(_FIRST + (m.lastindex or 0) - 1), line) for line in lines]
    standing = _standing(_clean(_statement(marked)), len(names))
    live = {mention.mark for mention in standing if not mention.denied}
    firm = {mention.mark for mention in standing if not (mention.denied or mention.tentative)}
    denied = {mention.mark for mention in standing if mention.denied}
    if len(live) != 1 or firm != live or live & denied:
        return None
    return names[ord(live.pop()) - _FIRST]


@lru_cache(maxsize=64)
def _spellings(labels: tuple[str, ...]) -> tuple[list[str], re.Pattern[str]]:
    """The labels, the longest first, and a pattern whose groups they are."""
    names = sorted({_fold(name).strip(): name for name in labels}.values(), key=len, reverse=True)
    return names, re.compile("|".join(f"({_spelling(_fold(name))})" for name in names))


def _spelling(name: str) -> str:
    """A label as a word of its own: a number is no part of another, an article is no label, nor
    is the "no" of "no effect" once the answer has begun.
    """
    words = r"[\s_-]+".join(map(re.escape, name.split()))
    if name[:1].isalnum():
        words = (r"(?<!\d[.,])(?<![-−+.])" if name[0].isdigit() else "") + r"(?<![^\W_])" + words
    if name[-1:].isalnum():
        words += r"(?![^\W_])" + (r"(?![.,]\d|%)" if name[-1].isdigit() else "")
    if name == "no":
        return rf"(?:^no\b|{words}(?!\s+(?!{_STARTS})[^\W\d_]))"
    return words + (r"(?!\s+(?!(?:is|and|or|nor|to|vs)\b)[^\W\d_])" if name in ("a", "i") else "")


def _fold(text: str) -> str:
    """Lower case, one form per character, no invisible ones."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("‘", "'")
    return re.sub(_INVISIBLE, "", text)


def _statement(lines: list[str]) -> str:
    """What is read: the first line, after those that only lead in, or a list of bare labels."""
    start = 0
    while start < len(lines) - 1 and _leads_in(lines[start]):
        start += 1
    listed = []
    for line in lines[start:]:
        item = _clean(phrases.BULLET.sub("", line))
        if not phrases.BARE.fullmatch(item) or item.endswith("?"):
            break
        listed.append(item.rstrip(" .,;!"))
    return " / ".join(listed) if listed else phrases.BULLET.sub("", lines[start])


def _leads_in(line: str) -> bool:
    """A heading or "Answer:" without a label."""
    heads = line[:1] == "#" or line.rstrip("*_ ").endswith(":")
    return heads and not re.search(phrases.LABEL, line)


def _clean(text: str) -> str:
    for pattern, replacement in phrases.CLEAN:
        text = re.sub(pattern, replacement, text)
    return " ".join(text.split())


def _standing(statement: str, labels: int) -> list[Mention]:
    """The mentions that the statement stands by."""
    standing: list[Mention] = []
    decided = concluded = False
    for sentence in phrases.SENTENCE.findall(statement):
        found, concludes = _read(sentence, labels)
        chosen = any(not mention.denied for mention in found)
        revises = phrases.CORRECTION.match(sentence) or (concludes and not concluded)
        adds = concludes or phrases.RETRACTION.match(sentence) or phrases.BARE.fullmatch(sentence)
        if decided and chosen and revises:
            standing, concluded = found, concludes
        elif decided and adds:
            standing.extend(found)
        elif not decided and not sentence.endswith("?"):
            standing.extend(found)
            decided, concluded = chosen, concludes
    return standing


def _read(sentence: str, labels: int) -> tuple[list[Mention], bool]:
    """A sentence's mentions, and whether they are its conclusion."""
    main = phrases.INTERJECTION.sub("", sentence, count=1)
    main = phrases.FRONTED.sub("", main, count=1)
    main = phrases.REASON.split(main, maxsplit=1)[0]
    main += "?" if sentence.endswith("?") else ""
    for conclusion in reversed(list(phrases.CONCLUSION.finditer(main))):
        found = list(_mentions(main[conclusion.end() :].lstrip(" ,"), labels))
        if any(not mention.denied for mention in found):
            return found, True
    return list(_mentions(main, labels)), False


def _mentions(text: str, labels: int) -> Iterator[Mention]:
    """Every label of a sentence as it is meant; a group of all labels is left out."""
    marks = list(re.finditer(phrases.LABEL, text))
    cuts = [*marks, *phrases.BOUNDARY.finditer(text)]
    opens, ends = sorted(cut.end() for cut in cuts), sorted(cut.start() for cut in cuts)
    opens, ends = [0, *opens], [*ends, len(text)]
    undecided = phrases.UNDECIDED.search(text)
    weak_from = undecided.end() if undecided else len(text)
    if text.endswith("?"):
        weak_from = 0
    for group, shares in _groups(text, marks):
        denials = 0
        whole = len({mark[0] for mark in group}) == labels > 1
        for place, mark in enumerate(group):
            before = text[opens[bisect_right(opens, mark.start()) - 1] : mark.start()]
            after = text[mark.end() : ends[bisect_left(ends, mark.end())]]
            if place == 0 or not shares:
                denials = len(phrases.NEGATION.findall(before))
            if place == 0 and whole and denials % 2 == 0:
                break
            yield _mention(text, mark, before, after, denials, mark.start() >= weak_from)


def _groups(text: str, marks: list[re.Match[str]]) -> Iterator[tuple[list[re.Match[str]], bool]]:
    """Labels that only coordinators part; whether they share a denial, as mere commas do not."""
    group: list[re.Match[str]] = []
    shares = False
    for mark in marks:
        glue = phrases.COORDINATOR.fullmatch(text, group[-1].end(), mark.start()) if group else None
        if group and (glue is None or (shares and glue["comma"])):  # "a, b or c" ends with c
            yield group, shares
            group, shares = [], False
        elif glue:
            shares = not glue["comma"]
        group.append(mark)
    if group:
        yield group, shares


def _mention(
    text: str, mark: re.Match[str], before: str, after: str, denials: int, weak: bool
) -> Mention:
    """The label at ``mark``, from its clause before and after it."""
    said = after if phrases.SAYS.match(after) else ""
    denials += len(phrases.WRONG.findall(said)) + bool(phrases.TAKEN_BACK.match(text, mark.end()))
    tentative = (
        weak
        or phrases.TENTATIVE.search(f"{before}|{said}")
        or phrases.AFTERTHOUGHT.match(text, mark.end())
    )
    return Mention(mark[0], denials % 2 == 1, bool(tentative))
