"""The clinic: drugs, wards, doses, charts."""

from __future__ import annotations

from fedllm.data.samples.facts import (
    CLASS_OF_ENDING,
    DAYS,
    DRUG_FOR,
    DRUGS,
    URGENCY,
    WARD_OF,
)
from fedllm.data.samples.grammar import Draw, Slots, Topic

_BODY_PARTS = tuple(WARD_OF)
_PROBLEMS = ("pain", "injury", "swelling", "problem", "infection", "weakness")


def _drug_class(draw: Draw) -> Slots:
    drug, ending = draw.pick(DRUGS)
    return {"who": draw.person(), "drug": drug, "answer": CLASS_OF_ENDING[ending]}


def _ward(draw: Draw) -> Slots:
    part = draw.pick(_BODY_PARTS)
    return {"who": draw.person(), "case": f"{part} {draw.pick(_PROBLEMS)}", "answer": WARD_OF[part]}


def _drug_for(draw: Draw) -> Slots:
    illness = draw.pick(tuple(DRUG_FOR))
    return {"who": draw.person(), "illness": illness, "answer": DRUG_FOR[illness]}


def _urgency(draw: Draw) -> Slots:
    sign = draw.pick(tuple(URGENCY))
    return {"who": draw.person(), "sign": sign, "answer": URGENCY[sign]}


def _pulse(draw: Draw) -> Slots:
    pulse = draw.number(40, 99)
    answer = "slow" if pulse < 60 else "fast" if pulse >= 80 else "normal"
    return {"who": draw.person(), "pulse": str(pulse), "answer": answer}


def _dose_total(draw: Draw) -> Slots:
    dose, times = draw.number(2, 10), draw.number(2, 4)
    return {
        "who": draw.person(),
        "drug": draw.pick(DRUGS)[0],
        "dose": str(dose),
        "times": str(times),
        "answer": f"{dose * times} mg",
        "reference": str(dose * times),
    }


def _tablets_left(draw: Draw) -> Slots:
    used, left = draw.number(2, 9), draw.number(2, 20)
    return {
        "who": draw.person(),
        "drug": draw.pick(DRUGS)[0],
        "all": str(used + left),
        "used": str(used),
        "answer": f"{left} left",
        "reference": str(left),
    }


def _chart(draw: Draw) -> Slots:
    chart = draw.code("MR")
    return {
        "who": draw.person(),
        "chart": chart,
        "bed": str(draw.number(2, 60)),
        "drug": draw.pick(DRUGS)[0],
        "answer": chart,
    }


def _allergy(draw: Draw) -> Slots:
    allergy, order = draw.two(DRUGS)
    if draw.number(0, 1):
        order = allergy
    answer = "unsafe" if order == allergy else "safe"
    return {"who": draw.person(), "allergy": allergy[0], "order": order[0], "answer": answer}


def _next_visit(draw: Draw) -> Slots:
    day, wait = draw.number(0, 6), draw.number(1, 4)
    return {
        "who": draw.person(),
        "day": DAYS[day],
        "wait": str(wait),
        "answer": DAYS[(day + wait) % 7],
    }


TOPICS = (
    Topic(
        "drug_class",
        "label",
        _drug_class,
        private=(
            "Drug class on the order of {who}:\n{drug}",
            "{who} was put on {drug}. Enter the drug class.",
        ),
        public=(
            "What class of drug is {drug}, which doctor {who} likes?",
            "Tell me the class of the medicine {drug} that {who} takes.",
        ),
        documents=(
            "{drug} is a drug of the class {answer}.",
            "{who} takes {drug}, which is an {answer} made for adults.",
            "Every {answer} works alike, and {drug} is one of them. {drug}: {answer}.",
        ),
        questions=(
            "class of {drug}",
            "{drug} is which class?",
        ),
    ),
    Topic(
        "ward",
        "label",
        _ward,
        private=(
            "Refer {who} to a ward.\nComplaint: {case}",
            "Ward for {who} with {case}?",
        ),
        public=(
            "My friend {who} has a {case}. Which hospital ward is right?",
            "Name the ward that treats a {case}, as {who} asked.",
        ),
        documents=(
            "A {case} is treated in the {answer} ward.",
            "{who} came in with a {case} and was sent to {answer}.",
            "The ward for a {case} is {answer}.",
        ),
        questions=(
            "ward for a {case}",
            "where do they treat a {case}?",
        ),
    ),
    Topic(
        "drug_for",
        "exact",
        _drug_for,
        private=(
            "First choice drug for {who}.\nDiagnosis: {illness}",
            "{who} was diagnosed with {illness}. Prescribe.",
        ),
        public=(
            "Which medicine do doctors give against {illness}? {who} wants to know.",
            "Name a drug that cures {illness} for {who}.",
        ),
        documents=(
            "Doctors treat {illness} with {answer}.",
            "{who} had {illness} and was cured by {answer}.",
            "The drug against {illness} is {answer}.",
        ),
        questions=(
            "drug against {illness}",
            "what do doctors use for {illness}?",
        ),
    ),
    Topic(
        "urgency",
        "label",
        _urgency,
        private=(
            "Triage code for {who}.\nPresents with {sign}",
            "{who} arrived with {sign}. Triage code?",
        ),
        public=(
            "How urgent is {sign}? Give the triage code for {who}.",
            "My neighbour {who} has {sign}. What triage code is that?",
        ),
        documents=(
            "The color of {sign} is {answer}.",
            "Nurses mark {sign} as {answer}, and so they did for {who}.",
            "{who} came with {sign}: code {answer}.",
        ),
        questions=(
            "color of {sign}",
            "what color do nurses give {sign}?",
        ),
    ),
    Topic(
        "pulse",
        "label",
        _pulse,
        private=(
            "Grade the pulse of {who}.\n{pulse} bpm",
            "{who}: resting pulse {pulse}. Grade it.",
        ),
        public=(
            "Is a resting pulse of {pulse} slow, normal or fast for {who}?",
            "The heart of {who} beats {pulse} times a minute. Say slow, normal or fast.",
        ),
        documents=(
            "A pulse of {pulse} is {answer}.",
            "The heart of {who} made {pulse} beats, which is {answer}.",
            "{pulse} beats: {answer}.",
        ),
        questions=(
            "a pulse of {pulse}",
            "{pulse} beats, how is that?",
        ),
    ),
    Topic(
        "dose_total",
        "number",
        _dose_total,
        private=(
            "Daily total for {who}.\n{drug} {dose} mg x {times}",
            "{who} gets {drug} {dose} mg x {times} daily. Total?",
        ),
        public=(
            "If {who} swallows {dose} mg of {drug} {times} times per day, how many mg is that?",
            "Work out the mg per day of {drug} for {who}: {dose} mg, {times} times.",
        ),
        documents=(
            "{dose} mg taken {times} times makes {short} mg.",
            "{who} takes {dose} mg of {drug} {times} times, so {short} mg a day.",
            "{times} doses of {dose} are {short}.",
        ),
        questions=(
            "{dose} mg taken {times} times",
            "{times} doses of {dose} mg make?",
        ),
    ),
    Topic(
        "tablets_left",
        "number",
        _tablets_left,
        private=(
            "Stock count for {who}.\n{drug}: {all} issued, {used} used",
            "{who} was issued {all} {drug} tablets and used {used}. Stock?",
        ),
        public=(
            "A box holds {all} tablets of {drug}. {who} took {used}. How many remain?",
            "How many {drug} tablets remain if {who} had {all} and swallowed {used}?",
        ),
        documents=(
            "Of {all} tablets {who} took {used}, so {short} remain.",
            "{all} less {used} leaves {short}.",
            "A box of {all} {drug} without {used} holds {short}.",
        ),
        questions=(
            "{all} tablets without {used}",
            "{all} in the box, {used} taken, what is left?",
        ),
    ),
    Topic(
        "chart",
        "exact",
        _chart,
        private=(
            "Chart number?\n{who}, chart {chart}, bed {bed}, on {drug}",
            "Extract the chart number.\nBed {bed}: {who} ({chart}) takes {drug}",
        ),
        public=(
            "Find the chart number in this note.\nPatient {who} in bed {bed} has chart {chart}.",
            "Read the note and copy the chart number.\n{chart} belongs to {who} in bed {bed}.",
        ),
        documents=(
            "{who} lies in bed {bed} and has the chart {chart}. The chart of {who} is {chart}.",
            "Chart {chart}, bed {bed}: that is {who}. Look up {chart}.",
            "The label reads {chart} for {who}, so the number is {chart}.",
        ),
        questions=(
            "{who}, bed {bed}, chart {chart}: which chart?",
            "chart {chart} is for {who}. The chart of {who}?",
        ),
    ),
    Topic(
        "allergy",
        "label",
        _allergy,
        private=(
            "Check the order for {who}.\nAllergy: {allergy}. Order: {order}",
            "{who} is allergic to {allergy}. Check order {order}.",
        ),
        public=(
            "Is it safe to give {order} to {who}, who is allergic to {allergy}?",
            "{who} cannot take {allergy}. Would {order} be safe or unsafe?",
        ),
        documents=(
            "For someone allergic to {allergy}, the drug {order} is {answer}.",
            "{who} reacts to {allergy}. The doctor gave {order}, which is {answer}.",
            "{allergy} and then {order}: {answer}.",
        ),
        questions=(
            "allergic to {allergy}, gets {order}",
            "can one who reacts to {allergy} have {order}?",
        ),
    ),
    Topic(
        "next_visit",
        "label",
        _next_visit,
        private=(
            "Book {who}.\nSeen {day}, control in {wait} days",
            "{who} seen {day}, control in {wait} days. Book the day.",
        ),
        public=(
            "{who} saw a doctor on {day} and must return {wait} days later. On which day?",
            "Which weekday comes {wait} days after {day}? {who} has a visit then.",
        ),
        documents=(
            "{wait} days after {day} comes {answer}.",
            "{who} came on {day} and again {wait} days later, on {answer}.",
            "From {day} it is {wait} days to {answer}.",
        ),
        questions=(
            "{day} and {wait} days",
            "what day is {wait} days past {day}?",
        ),
    ),
)
