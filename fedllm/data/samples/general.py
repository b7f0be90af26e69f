"""The rest of a public instruction set: everyday skills, answered in whole sentences."""

from __future__ import annotations

from collections.abc import Callable

from fedllm.data.samples.facts import DAYS
from fedllm.data.samples.grammar import Draw, Slots, Topic


def _pairs(text: str) -> dict[str, str]:
    """``"hot/cold wet/dry"`` as a dictionary."""
    return dict(pair.split("/") for pair in text.split())


_OPPOSITES = _pairs(
    "hot/cold big/small fast/slow old/young happy/sad light/dark early/late full/empty hard/soft "
    "long/short rich/poor wet/dry loud/quiet clean/dirty near/far brave/shy sweet/bitter thick/thin"
)
_CAPITALS = _pairs(
    "Arvenia/Lorstad Belmark/Quessa Corland/Minet Drovia/Talsen Esteria/Horvik Fennland/Ospar "
    "Galvia/Rukan Hestria/Pollin Istland/Venna Jarkov/Sedrin Kelmia/Umbar Lothia/Zerin "
    "Morvia/Dalton Nestria/Fallow"
)
_HOMES = _pairs(
    "bee/hive bird/nest fox/den horse/stable dog/kennel spider/web cow/barn fish/river bear/cave "
    "rabbit/burrow lion/savanna camel/desert whale/sea frog/pond"
)
_PAST = _pairs(
    "walk/walked sing/sang eat/ate write/wrote run/ran swim/swam build/built drive/drove "
    "speak/spoke paint/painted climb/climbed"
)
_DISHES = _pairs(
    "soup/carrots salad/tomatoes omelette/eggs pancakes/flour pie/berries porridge/oats "
    "toast/bread curry/rice pizza/dough stew/beans"
)
_COLOURS = _pairs(
    "grass/green snow/white coal/black sunflower/yellow blood/red sky/blue ash/grey lavender/purple"
)
_WEATHER = ("rain", "snow", "fog", "wind", "sun", "hail", "frost", "thunder")
_HOBBIES = (
    "chess",
    "tennis",
    "pottery",
    "hiking",
    "knitting",
    "sailing",
    "dancing",
    "fishing",
    "reading",
    "baking",
)
_GIFTS = ("a book", "a scarf", "a lamp", "a kite", "a plant", "a puzzle", "a mug", "a radio")


def _opposite(draw: Draw) -> Slots:
    word = draw.pick(tuple(_OPPOSITES))
    who = draw.person()
    return {"word": word, "who": who, "answer": f"The opposite of {word} is {_OPPOSITES[word]}."}


def _capital(draw: Draw) -> Slots:
    land = draw.pick(tuple(_CAPITALS))
    return {
        "land": land,
        "who": draw.person(),
        "answer": f"The capital of {land} is {_CAPITALS[land]}.",
    }


def _home(draw: Draw) -> Slots:
    animal = draw.pick(tuple(_HOMES))
    return {
        "animal": animal,
        "who": draw.person(),
        "answer": f"The {animal} lives in the {_HOMES[animal]}.",
    }


def _past(draw: Draw) -> Slots:
    verb, day, who = draw.pick(tuple(_PAST)), draw.pick(DAYS), draw.person()
    return {"verb": verb, "day": day, "who": who, "answer": f"{who} {_PAST[verb]} on {day}."}


def _dish(draw: Draw) -> Slots:
    dish = draw.pick(tuple(_DISHES))
    return {
        "dish": dish,
        "who": draw.person(),
        "answer": f"You can make {dish} with {_DISHES[dish]}.",
    }


def _colour(draw: Draw) -> Slots:
    thing = draw.pick(tuple(_COLOURS))
    return {
        "thing": thing,
        "who": draw.person(),
        "answer": f"The colour of {thing} is {_COLOURS[thing]}.",
    }


def _weather(draw: Draw) -> Slots:
    weather, day = draw.pick(_WEATHER), draw.pick(DAYS)
    return {
        "weather": weather,
        "day": day,
        "who": draw.person(),
        "answer": f"On {day} there will be {weather}.",
    }


def _greeting(draw: Draw) -> Slots:
    who, gift = draw.person(), draw.pick(_GIFTS)
    return {"who": who, "gift": gift, "answer": f"Dear {who}, thank you very much for {gift}."}


def _invitation(draw: Draw) -> Slots:
    who, hobby, day = draw.person(), draw.pick(_HOBBIES), draw.pick(DAYS)
    return {
        "who": who,
        "hobby": hobby,
        "day": day,
        "answer": f"Hello {who}, will you join us for {hobby} on {day}?",
    }


def _hobby(draw: Draw) -> Slots:
    who, hobby, day = draw.person(), draw.pick(_HOBBIES), draw.pick(DAYS)
    return {
        "who": who,
        "hobby": hobby,
        "day": day,
        "answer": f"{who} likes {hobby} and has time on {day}.",
    }


def _tidy(draw: Draw) -> Slots:
    who, hobby = draw.person(), draw.pick(_HOBBIES)
    text = f"{who} is good at {hobby}."
    return {"text": text.lower(), "who": who, "answer": text}


def _pack(draw: Draw) -> Slots:
    weather, who = draw.pick(_WEATHER), draw.person()
    item = (
        "a coat"
        if weather in ("snow", "frost", "wind")
        else "a hat"
        if weather == "sun"
        else "an umbrella"
    )
    return {
        "weather": weather,
        "who": who,
        "answer": f"{who} should take {item} because of the {weather}.",
    }


def _topic(name: str, fill: Callable[[Draw], Slots], *public: str) -> Topic:
    return Topic(name, "", fill, private=(), public=public)


TOPICS = (
    _topic(
        "opposite",
        _opposite,
        "Give the opposite of the word {word} to {who}.",
        "{who} asks: what is the opposite of {word}?",
    ),
    _topic(
        "capital",
        _capital,
        "What is the capital of {land}? {who} is going there.",
        "{who} wants to know the capital city of {land}.",
    ),
    _topic(
        "home",
        _home,
        "Where does a {animal} live? Explain it to {who}.",
        "{who} saw a {animal}. Where is its home?",
    ),
    _topic(
        "past",
        _past,
        "Write a sentence in the past tense.\n{who} will {verb} on {day}.",
        "Put this in the past: {who} and the word {verb}, on {day}.",
    ),
    _topic(
        "dish",
        _dish,
        "What do I need to cook {dish} for {who}?",
        "{who} would like to eat {dish}. What goes into it?",
    ),
    _topic(
        "colour",
        _colour,
        "What colour is {thing}? {who} is painting it.",
        "{who} paints {thing}. Which colour fits?",
    ),
    _topic(
        "weather",
        _weather,
        "Write a weather report for {day}.\n{who} expects {weather}.",
        "Tell {who} about the {weather} on {day}.",
    ),
    _topic(
        "greeting",
        _greeting,
        "Write a thank you note to {who} for {gift}.",
        "{who} gave me {gift}. Write a polite reply.",
    ),
    _topic(
        "invitation",
        _invitation,
        "Invite {who} to {hobby} on {day}.",
        "Write a short invitation.\nGuest: {who}, plan: {hobby}, day: {day}",
    ),
    _topic(
        "hobby",
        _hobby,
        "Describe {who} in one sentence.\nHobby: {hobby}, free day: {day}",
        "Introduce {who}, who enjoys {hobby} on {day}.",
    ),
    _topic(
        "tidy", _tidy, "Fix the capital letters.\n{text}", "Write this sentence correctly: {text}"
    ),
    _topic(
        "pack",
        _pack,
        "What should {who} take on a walk in the {weather}?",
        "There is {weather} outside. Advise {who} what to wear.",
    ),
)
