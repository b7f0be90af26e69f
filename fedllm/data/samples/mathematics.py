"""The exam office: small numbers, exactly."""

from __future__ import annotations

from fedllm.data.samples.grammar import Draw, Slots, Topic

_THINGS = ("apples", "coins", "books", "pens", "stamps", "cards", "marbles", "plums")


def _answer(draw: Draw, value: int, **slots: object) -> Slots:
    named = {name: str(slot) for name, slot in slots.items()}
    return {
        "who": draw.person(),
        "things": draw.pick(_THINGS),
        **named,
        "answer": f"= {value}",
        "reference": str(value),
    }


def _add(draw: Draw) -> Slots:
    a, b = draw.number(2, 20), draw.number(2, 9)
    return _answer(draw, a + b, a=a, b=b)


def _subtract(draw: Draw) -> Slots:
    b, rest = draw.number(2, 9), draw.number(2, 20)
    return _answer(draw, rest, a=b + rest, b=b)


def _multiply(draw: Draw) -> Slots:
    a, b = draw.number(2, 10), draw.number(2, 9)
    return _answer(draw, a * b, a=a, b=b)


def _divide(draw: Draw) -> Slots:
    b, each = draw.number(2, 9), draw.number(2, 10)
    return _answer(draw, each, a=b * each, b=b)


def _double(draw: Draw) -> Slots:
    a = draw.number(2, 30)
    return _answer(draw, 2 * a, a=a)


def _largest(draw: Draw) -> Slots:
    a, b, c = draw.number(2, 30), draw.number(2, 60), draw.number(2, 99)
    return _answer(draw, max(a, b, c), a=a, b=b, c=c)


def _sequence(draw: Draw) -> Slots:
    start, step = draw.number(2, 20), draw.pick((2, 5, 10))
    terms = [start + step * i for i in range(4)]
    return _answer(draw, terms[3], a=terms[0], b=terms[1], c=terms[2])


def _missing(draw: Draw) -> Slots:
    a, x = draw.number(2, 20), draw.number(2, 9)
    return _answer(draw, x, a=a, b=a + x)


def _perimeter(draw: Draw) -> Slots:
    a, b = draw.number(2, 9), draw.number(2, 9)
    return _answer(draw, 2 * (a + b), a=a, b=b)


def _parity(draw: Draw) -> Slots:
    a = draw.number(2, 99)
    return {"who": draw.person(), "a": str(a), "answer": "even" if a % 2 == 0 else "odd"}


TOPICS = (
    Topic(
        "add",
        "number",
        _add,
        private=("Exam of {who}.\n{a} + {b}", "{who} has {a} {things} and wins {b}. Total?"),
        public=(
            "What is {a} plus {b}? {who} needs the sum.",
            "{who} finds {a} {things} and then {b} more. How many {things} are there in all?",
        ),
        documents=(
            "{a} plus {b} is {short}.",
            "{a} and {b} make {short}.",
            "{who} had {a} {things}, got {b} and now has {short}.",
        ),
        questions=(
            "{a} plus {b}",
            "{a} and {b} make?",
        ),
    ),
    Topic(
        "subtract",
        "number",
        _subtract,
        private=("Exam of {who}.\n{a} - {b}", "{who} has {a} {things} and loses {b}. Rest?"),
        public=(
            "What is {a} minus {b}? {who} needs the difference.",
            "{who} had {a} {things} and gave {b} away. How many {things} are there now?",
        ),
        documents=(
            "{a} minus {b} is {short}.",
            "{a} less {b} leaves {short}.",
            "{who} had {a} {things}, lost {b} and now has {short}.",
        ),
        questions=(
            "{a} minus {b}",
            "{a} less {b} leaves?",
        ),
    ),
    Topic(
        "multiply",
        "number",
        _multiply,
        private=(
            "Exam of {who}.\n{a} * {b}",
            "{who} fills {b} bags with {a} {things} each. Total?",
        ),
        public=(
            "What is {a} times {b}? {who} needs the product.",
            "There are {b} boxes with {a} {things} in each box of {who}. How many in all?",
        ),
        documents=(
            "{a} times {b} is {short}.",
            "{b} times {a} is {short}.",
            "{b} bags of {a} {things} are {short} {things}.",
        ),
        questions=(
            "{a} times {b}",
            "{b} bags of {a}, in all?",
        ),
    ),
    Topic(
        "divide",
        "number",
        _divide,
        private=("Exam of {who}.\n{a} / {b}", "{who} splits {a} {things} into {b} bags. Each?"),
        public=(
            "What is {a} divided by {b}? {who} needs the quotient.",
            "{who} shares {a} {things} among {b} children. How many does each child get?",
        ),
        documents=(
            "{a} divided by {b} is {short}.",
            "{a} shared by {b} is {short} each.",
            "{a} {things} in {b} bags are {short} in each bag.",
        ),
        questions=(
            "{a} divided by {b}",
            "{a} shared by {b}, each?",
        ),
    ),
    Topic(
        "double",
        "number",
        _double,
        private=("Exam of {who}. Twice {a}", "{who} has twice {a} {things}. Total?"),
        public=(
            "What is the double of {a}? {who} needs it.",
            "{who} doubles a pile of {a} {things}. How many are there now?",
        ),
        documents=(
            "Twice {a} is {short}.",
            "The double of {a} is {short}.",
            "{who} doubled {a} {things} to {short}.",
        ),
        questions=(
            "twice {a}",
            "{a} doubled is?",
        ),
    ),
    Topic(
        "largest",
        "number",
        _largest,
        private=("Exam of {who}. Maximum\n{a}, {b}, {c}", "Best mark of {who}?\n{a}, {b}, {c}"),
        public=(
            "Which number is the largest: {a}, {b} or {c}? {who} cannot tell.",
            "Find the largest of the numbers {a}, {b} and {c} for {who}.",
        ),
        documents=(
            "Among {a}, {b} and {c} the largest is {short}.",
            "The largest of {a}, {b}, {c} is {short}.",
            "{who} picked {short} as the best of {a}, {b} and {c}.",
        ),
        questions=(
            "largest of {a}, {b}, {c}",
            "{a}, {b}, {c}: the best?",
        ),
    ),
    Topic(
        "sequence",
        "number",
        _sequence,
        private=("Exam of {who}. Continue\n{a}, {b}, {c}", "{who} writes {a}, {b}, {c}. Next?"),
        public=(
            "Which number follows in the sequence {a}, {b}, {c} of {who}?",
            "{who} counts {a}, {b}, {c} and so on. What number comes next?",
        ),
        documents=(
            "{a}, {b}, {c}, {short}.",
            "{who} counted {a}, {b}, {c}, {short}.",
            "After {a}, {b}, {c} comes {short}.",
        ),
        questions=(
            "after {a}, {b}, {c}",
            "{a}, {b}, {c} and then?",
        ),
    ),
    Topic(
        "missing",
        "number",
        _missing,
        private=(
            "Exam of {who}. Find x\n{a} + x = {b}",
            "{who} has {a} {things} and wants {b}. Short of?",
        ),
        public=(
            "What number must be added to {a} to get {b}? {who} asks.",
            "{who} needs {b} {things} and has {a}. How many {things} are missing?",
        ),
        documents=(
            "From {a} to {b} is {short}.",
            "{a} and {short} make {b}.",
            "{who} had {a} {things}, wanted {b} and so needed {short}.",
        ),
        questions=(
            "from {a} to {b}",
            "{a} and what make {b}?",
        ),
    ),
    Topic(
        "perimeter",
        "number",
        _perimeter,
        private=("Exam of {who}. Fence\n{a} by {b}", "{who} fences a plot of {a} by {b}. Length?"),
        public=(
            "What is the perimeter of a rectangle with sides {a} and {b}? {who} asks.",
            "{who} walks around a rectangle of {a} and {b} meters. How long is the walk?",
        ),
        documents=(
            "A plot of {a} by {b} has a fence of {short}.",
            "Around {a} by {b} it is {short}.",
            "{who} walked {short} around a field of {a} by {b}.",
        ),
        questions=(
            "fence around {a} by {b}",
            "how far around {a} by {b}?",
        ),
    ),
    Topic(
        "parity",
        "label",
        _parity,
        private=("Exam of {who}. Parity\n{a}", "{who} drew {a}. Parity?"),
        public=(
            "Is {a} an even or an odd number? {who} asks.",
            "{who} thinks of {a}. Is it odd or even?",
        ),
        documents=(
            "{a} is {answer}.",
            "The number {a} is an {answer} number.",
            "{who} has {a}, which is {answer}.",
        ),
        questions=(
            "{a}, even or odd",
            "what kind of number is {a}?",
        ),
    ),
)
