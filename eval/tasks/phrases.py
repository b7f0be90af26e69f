"""The English phrases by which an answer denies, weakens, takes back or concludes.

Tables alone; ``labels`` reads with them. They apply to text in lower case in which every label has
become one private character (``LABEL``), so that a label may itself be a word of these tables
("no", "not urgent").
"""

from __future__ import annotations

import re

MARKS = "\ue000-\uf8ff"
LABEL = f"[{MARKS}]"


def _any(phrases: str) -> str:
    """Any of the phrases, parted by semicolons, each a pattern of whole words."""
    return rf"\b(?:{'|'.join(phrase.strip() for phrase in phrases.split(';'))})\b"


_DENIES = _any(r"""
    not; no; never; neither; nor; none; nobody; nothing; without; hardly; barely; scarcely; rarely;
    seldom; far from; short of; unlike; (?:opposite|reverse|inverse) (?:of|to|from);
    (?:contrary|opposed) to; (?:any|every)thing (?:but|except|other than); instead of; in place of;
    rather than; other than; less than; except(?: for)?; excluding; lack(?:s|ing)?; absence of;
    devoid of; free (?:of|from); fail(?:s|ed)? to; (?:refuse|hesitate|decline)[sd]? to;
    reluctant to; rul(?:e[sd]?|ing) out; reject(?:s|ed)?; excluded?; den(?:y|ies|ied); doubts?;
    doubtful; wrong(?:ly)?; incorrect(?:ly)?; false(?:ly)?; untrue; inaccurate; unlikely;
    mis(?:taken?|leading|placed|labell?ed); improbable; impossible; too \w+ to be;
    over(?=\s*(?:the )?$); (?:non|un|anti)(?=[\s-]*$)""")
NEGATION = re.compile(_DENIES)
"""Denies the label after it."""
WRONG = re.compile(
    _DENIES
    + "|"
    + _any("""
    out; off; (?:a|the) (?:stretch|error|exaggeration); too (?:strong|much|far); inappropriate;
    un(?:warranted|justified|suitable|tenable|founded); implausible""")
)
"""Denies the label before it, in a clause that says something of it."""
SAYS = re.compile(
    r"\s*(?:(?:it|that|this)\s+)?"
    + _any("""
    is; was; are; were; be; would; will; wo; can; ca; could; should; may; might; do; does; did; has;
    seems?; appears?; sounds?; looks?""")
)
"""Begins such a clause."""
TAKEN_BACK = re.compile(
    r"[\s:=,–—-]*(?:(?:no|nope|not|not at all|not really|false|wrong|incorrect|(?:quite )?the "
    r"(?:opposite|contrary|reverse)|i do not (?:think|believe) so)\s*(?:$|[.,!])|[✗✘❌])"
)
"""Denies the label right before it."""

TENTATIVE = re.compile(
    _any(r"""
    may; maybe; might; could(?! not); perhaps; possibl[ey]; potentially; either; between; whether;
    if; unless; lean(?:s|ed|ing)?; tend(?:s|ed|ing)?; tilt(?:s|ed|ing)?; skew(?:s|ed)?;
    veer(?:s|ing)?; edg(?:es|ing); inclined; clos(?:e|er|est) to; near(?:ly|s|er)?; almost;
    all but; towards?; border(?:s|ing|line); least; less; more(?= [^,]*than);
    (?<!rather )(?<!other )(?<!less )than; half; part(?:ly|ially); semi; quasi; somewhere;
    un(?:sure|certain|clear|decided); (?:hard|difficult) to; can not (?:say|tell|exclude|rule);
    depend(?:s|ing)?; not (?:be )?(?:rul|exclud)(?:e|ed|ing); not (?:unlikely|impossible)""")
)
"""Weakens the label after it, or before it in a clause that says something of it."""
AFTERTHOUGHT = re.compile(
    r"-\w|[\s,:–—-]*"
    + _any("at (?:best|most); maybe; perhaps; possibly; or (?:not|so); if; unless")
    + r"|[\s,]*(?:it )?depend|[\s,]*\?"
)
"""Weakens the label right before it."""
UNDECIDED = re.compile(_any("mixed; ambiguous; undecided; torn; (?:it )?depends"))
"""Weakens all that follows in its sentence."""

COORDINATOR = re.compile(
    r"\s*(?:(?:[/|&+]|[-–]|,?\s*"
    + _any("and/or; and; or; nor; to; through; versus; vs; as well as; plus")
    + r")|(?P<comma>,))\s*(?:(?:even|an?|the|rather|quite|very|more)\s+)*"
)
_RESTART = _any("""
    but; so; rather; instead; it; its; this; i; we; the; my; then; yet; just; only; simply; merely;
    clearly; definitely; certainly; more; overall; therefore; thus; hence; actually; probably;
    mostly; very; quite; strongly; and; answer; sentiment; label; final""")
BOUNDARY = re.compile(
    rf"(?<!\bnot)(?:,(?=\s*(?:{_RESTART}|{LABEL}))|:)|(?<!thing )(?<!\ball )\bbut\b|\s[-–—]+\s|—"
    r"|\band (?=(?:it|this|the|so|thus|hence|therefore|i|we|is|are|was)\b)"
)
"""Where a negation no longer reaches: a comma ends it only before what opens a clause anew."""

_GROUNDS = _any("""
    because; since; due to; owing to; given (?:that|the); despite; in spite of; notwithstanding;
    even (?:if|though)""")
REASON = re.compile(
    rf"{_GROUNDS}|(?:,\s*|(?<={LABEL})\s+)as\b(?! (?:well|opposed)\b|[^,]*{LABEL}$)"
)
FRONTED = re.compile(rf"^\s*(?:{_GROUNDS}|{_any('although; though; while; whereas')})[^,]*,")
"""A reason or concession at the head of a sentence."""
CONCLUSION = re.compile(
    r"(?:^|[,:–—]|\b(?:and|but|so|yet)\b)\s*"
    + _any("""
    overall; on balance; on the whole; all in all; in (?:sum|summary|conclusion|total|the end);
    to (?:sum up|conclude); ultimately; therefore; thus; hence;
    (?:(?:the|my) )?(?:final )?(?:answer|verdict|conclusion|choice|label)""")
)
CORRECTION = re.compile(
    r"[\s,–—-]*" + _any("no; wait; actually; correction; sorry; scratch that; i mean")
)
RETRACTION = re.compile(
    r"[\s,–—-]*"
    + _any("""
    or; and; but; also; not; however; yet; still; then again; maybe; perhaps; possibly; could;
    might; alternatively; on the other hand; on second thought; nevertheless""")
)
INTERJECTION = re.compile(r"^\s*(?:no|nope|yes|yeah|yep|well|ok|okay|sure)\s*[,.!:—-]")
BARE = re.compile(rf"[\s,:–—-]*(?:an? |the )?{LABEL}[\s,.!?;:–—-]*")
BULLET = re.compile(r"^\s*(?:[-*+•‣–]|\(?(?:\d{1,2}|[a-z])[.)])\s+")

CLEAN: tuple[tuple[str, str], ...] = (
    (r"(?<=\w)n't\b|(?<=\b(?:ca|wo|is|do))nt\b|(?<=\b(?:was|are|did|has))nt\b", " not"),
    (r"\b(does|would|could|should|were)nt\b", r"\1 not"),
    (r"\bcannot\b", "can not"),
    (rf"(?:≠|!=|¬|(?<!\w)!)\s*(?={LABEL})", " not "),
    (r"\.{2,}", ", "),
    (rf"~~\s*({LABEL})\s*~~", r" not \1 "),
    (r"</?[a-z][^<>]*>|\\[a-z]+", " "),  # tags, LaTeX
    (r"(?<![a-z])'|'(?![a-z])|[\"“”«»‹›`*_{}\[\]<>#$\\~]", " "),  # quotes, mark-up
    (r"[()]", ", "),
    (r"\b(vs|approx|etc)\.", r"\1"),
    (r"\b(?:no|without(?: an?y?)?|beyond(?: any)?) (?:doubt|question)\b|\bnothing but\b", " "),
    (r"\bnot (?:only|just|merely|simply|to mention)\b", " "),
    (r"\beither way\b|\bin (?:any|either) case\b", " "),
    (r"\bif not\b", "perhaps"),
    (r"\bcould not be (?:any )?more\b", "is very"),
    (rf"\brather ({LABEL}) than\b", r"\1 rather than"),
    (rf"\b(not|never|hardly)\s*[,–—]([^,–—{MARKS}]*)[,–—]", r"\1 "),  # "not, in my view, X"
    (rf",[^,{MARKS}]*,(?=\s*(?:that|is|was|to|as|can|should|would)\b)", " "),  # ", I think, is X"
    (r"\?\s*(?=(?:yes|yeah|yep|correct|right|true)\b)", " is right. "),
    (r"\?\s*(?=(?:no|nope|nah|wrong|false|hardly|never)\b)", " is wrong. "),
    (r",\s*(?=(?:no\s*,|(?:no )?wait\b|actually\b|correction\b|sorry\b|scratch that\b))", ". "),
    (r",\s*(?=i mean\b)", ". "),
)
"""What is replaced before reading, in this order."""
SENTENCE = re.compile(r"(?:[^.!?;]|(?<=\d)\.(?=\d))+[.!?;]*")
