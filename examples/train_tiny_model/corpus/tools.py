"""Tools that a caller may offer: schema, question, call, result, and the answer in words.

The names of a tool and of its arguments vary, and one family draws them at random, so that the
only way to call right is to copy from the schema that is offered.
"""

# ruff: noqa: SIM905 - lists of names read best as text

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from corpus import words
from corpus.render import Json
from corpus.sampler import Sampler


@dataclass
class Use:
    """One tool and one use of it."""

    family: str
    schema: Json
    question: str
    arguments: Json
    result: str
    answer: str
    topic: str  # what the thought says is wanted

    @property
    def name(self) -> str:
        return str(self.schema["name"])

    @property
    def call(self) -> Json:
        return {"name": self.name, "arguments": self.arguments}


def schema(s: Sampler, name: str, description: str, arguments: dict[str, tuple[str, str]]) -> Json:
    """An OpenAI-style function; `arguments` maps names to (type, description)."""
    described = s.chance(0.4)
    properties: Json = {
        argument: {"type": kind, "description": about} if described and about else {"type": kind}
        for argument, (kind, about) in arguments.items()
    }
    parameters: Json = {"type": "object", "properties": properties}
    if s.chance(0.85):
        parameters["required"] = list(arguments)
    return {"name": name, "description": description, "parameters": parameters}


def as_result(s: Sampler, key: str, value: str | int, *more: tuple[str, str | int]) -> str:
    """A tool's result: a JSON object, or the bare value."""
    if not more and s.chance(0.3):
        return str(value)
    return json.dumps(dict([(key, value), *more]), ensure_ascii=False)


def weather(s: Sampler) -> Use:
    city = s.city()
    name = s.choice(
        "get_weather weather current_weather weather_lookup fetch_weather check_weather "
        "get_current_weather get_forecast weather_report city_weather".split()
    )
    argument = s.choice(("city", "city", "location", "place", "town", "city_name"))
    question = s.choice((
        "What is the weather in {}?", "What's the weather in {}?", "How is the weather in {}?",
        "Tell me the weather in {}.", "What is the weather like in {} today?",
        "How is the weather in {} today?", "Is it warm in {}?",
    )).format(city)  # fmt: skip
    about = s.choice((
        "Get the weather in a city.", "Tells the weather of a place.", "Current weather",
        "Get the current weather for a city.", "Weather report for a town",
    ))  # fmt: skip
    degrees = s.number(-9, 39)
    sky = s.choice("sunny cloudy rainy windy snowy foggy clear stormy".split())
    warm = s.choice(("temperature", "temp", "temp_c", "degrees", "celsius"))
    look = s.choice(("condition", "sky", "weather", "conditions", "summary"))
    both = f"It is {sky} and {degrees} degrees in {city}."
    result, answer = s.choice((
        (as_result(s, warm, degrees, (look, sky)), both),
        (as_result(s, look, sky, (warm, degrees)), both),
        (as_result(s, "city", city, (warm, degrees), (look, sky)), both),
        (s.choice(("{0}, {1} degrees", "{1} degrees and {0}", "{0} and {1} degrees", "{1}C, {0}"))
         .format(sky, degrees), both),
        (as_result(s, look, sky), f"It is {sky} in {city}."),
        (json.dumps({warm: degrees}), f"It is {degrees} degrees in {city}."),
    ))  # fmt: skip
    spec = schema(s, name, about, {argument: ("string", "The city")})
    if s.chance(0.15):
        offer_units(spec, argument)
    topic = f"the weather in {city}"
    return Use("weather", spec, question, {argument: city}, result, answer, topic)


def offer_units(spec: Json, required: str) -> None:
    """Add an argument that may be left out, and is."""
    units: Json = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    spec["parameters"] = {
        "type": "object",
        "properties": {required: {"type": "string"}, "unit": units},
        "required": [required],
    }


def clock(s: Sampler) -> Use:
    city = s.city()
    name = s.choice("get_time time_in current_time get_current_time clock local_time".split())
    argument = s.choice(("city", "place", "location", "town"))
    question = s.choice((
        "What time is it in {}?", "What is the time in {}?", "Tell me the time in {}.",
    )).format(city)  # fmt: skip
    about = s.choice(("Get the time in a city.", "Tells the current time.", "Local time of a city"))
    now = f"{s.number(0, 23):02}:{s.number(0, 59):02}"
    spec = schema(s, name, about, {argument: ("string", "The city")})
    return Use(
        "time", spec, question, {argument: city}, as_result(s, "time", now),
        f"It is {now} in {city}.", f"the time in {city}",
    )  # fmt: skip


# word, sign, names of the tool, descriptions of it
SUMS = (
    ("plus", "+", ("add", "add_numbers", "sum", "plus"),
     ("Add two numbers.", "Add two integers.", "Returns the sum of two numbers.",
      "Adds a and b")),
    ("minus", "-", ("subtract", "minus", "difference"),
     ("Subtract two numbers.", "Take one number from another.")),
    ("times", "*", ("multiply", "times", "product"),
     ("Multiply two numbers.", "Multiply two integers.", "Returns the product.")),
)  # fmt: skip


def arithmetic(s: Sampler) -> Use:
    word, sign, names, abouts = s.choice(SUMS)
    most = s.choice((20, 99, 999))
    a, b = s.split(lambda: (s.number(1, most), s.number(1, most)))
    value = {"plus": a + b, "minus": a - b, "times": a * b}[word]
    form = s.choice(("What is {} {} {}?", "How much is {} {} {}?", "{} {} {}"))
    question = form.format(a, s.choice((word, sign)), b)
    answer = f"{a} {word} {b} is {value}."
    result = as_result(s, s.choice(("result", "value", "answer")), value)
    about = s.choice(abouts)
    if s.chance(0.3):
        argument = s.choice(("expression", "formula", "input"))
        name = s.choice(("calculator", "calculate", "calc", "evaluate"))
        about = s.choice(("Calculate an expression.", "A calculator", "Works out a sum."))
        spec = schema(s, name, about, {argument: ("string", "The sum")})
        call: Json = {argument: f"{a} {sign} {b}"}
    else:
        left, right = s.choice((("a", "b"), ("x", "y"), ("first", "second"), ("left", "right")))
        kind = s.choice(("integer", "number"))
        spec = schema(s, s.choice(names), about, {left: (kind, ""), right: (kind, "")})
        call = {left: a, right: b}
    return Use("arithmetic", spec, question, call, result, answer, f"{a} {word} {b}")


def search(s: Sampler) -> Use:
    topic = s.split(lambda: f"{s.choice(words.COLOURS)} {s.choice(words.THINGS)}s")
    name = s.choice(("search", "web_search", "search_web", "lookup", "find", "search_docs"))
    argument = s.choice(("query", "q", "text", "term", "topic"))
    question = s.choice(("Search for {}.", "Look up {}.", "Find {}.", "Search the web for {}."))
    about = s.choice(("Search the web.", "Search for a text.", "Looks things up."))
    found = f"{s.name()} has {s.number(2, 40)} {topic}"
    spec = schema(s, name, about, {argument: ("string", "What to search for")})
    return Use(
        "search", spec, question.format(topic), {argument: topic},
        as_result(s, s.choice(("result", "text", "found")), found), f"I found this: {found}.",
        topic,
    )  # fmt: skip


def message(s: Sampler) -> Use:
    who = s.name()
    text = s.split(lambda: s.choice((
        f"the {s.choice(words.THINGS)} is {s.choice(words.COLOURS)}",
        f"I am in {s.city()}", f"come at {s.number(1, 12)}", "dinner is ready",
    )))  # fmt: skip
    name = s.choice(("send_message", "message", "send", "send_text", "notify"))
    to, body = s.choice((("to", "text"), ("name", "message"), ("recipient", "body")))
    spec = schema(
        s, name, s.choice(("Send a message to someone.", "Sends a text to a person.")),
        {to: ("string", "Who gets it"), body: ("string", "What to say")},
    )  # fmt: skip
    question = s.choice(("Tell {} that {}.", "Send {} the message: {}.", "Let {} know that {}."))
    return Use(
        "message", spec, question.format(who, text), {to: who, body: text},
        as_result(s, "status", s.choice(("sent", "ok", "done"))), f"I told {who} that {text}.",
        f"a message to {who}",
    )  # fmt: skip


def timer(s: Sampler) -> Use:
    minutes = s.split(lambda: s.number(1, 90))
    name = s.choice(("set_timer", "timer", "start_timer", "set_alarm"))
    argument = s.choice(("minutes", "time", "duration"))
    spec = schema(s, name, s.choice(("Set a timer.", "Starts a timer in minutes.")),
                  {argument: ("integer", "Minutes")})  # fmt: skip
    question = s.choice(("Set a timer for {} minutes.", "Start a timer for {} minutes."))
    return Use(
        "timer", spec, question.format(minutes), {argument: minutes},
        as_result(s, "status", s.choice(("set", "ok", "done"))),
        f"The timer is set for {minutes} minutes.", f"a timer for {minutes} minutes",
    )  # fmt: skip


ATTRIBUTES = (
    "height age price owner colour score size weight email address phone population rank title "
    "speed length status balance depth leader mayor river author number date level"
).split()


def lookup(s: Sampler) -> Use:
    """Any attribute of anything, under any name: `get_height`, `find_owner`, …"""
    attribute = s.split(lambda: s.choice(ATTRIBUTES) if s.chance(0.85) else s.made_up(2).lower())
    thing = s.choice((s.name, s.city))()
    form = s.choice(("get_{}", "{}_of", "find_{}", "lookup_{}", "{}", "get_{}_of", "fetch_{}"))
    argument = s.choice("name key id item subject of who what target place thing person".split())
    about = s.choice(("Get the {}.", "Looks up the {} of something.", "Find the {} by name."))
    question = s.choice(("What is the {} of {}?", "Tell me the {} of {}.", "Find the {} of {}."))
    values: list[str | int] = [s.number(1, 9999), s.made_up(2), s.choice(words.NAMES)]
    value = s.choice(values)
    spec = schema(s, form.format(attribute), about.format(attribute), {argument: ("string", "")})
    key = s.choice((attribute, attribute, "result", "value"))
    return Use(
        "lookup", spec, question.format(attribute, thing), {argument: thing},
        as_result(s, key, value), f"The {attribute} of {thing} is {value}.",
        f"the {attribute} of {thing}",
    )  # fmt: skip


def dice(s: Sampler) -> Use:
    name = s.choice(("roll_dice", "roll_die", "roll", "dice", "throw_dice"))
    spec = schema(s, name, s.choice(("Roll a die.", "Throws the dice.")), {})
    question = s.choice(("Roll a die.", "Roll the dice.", "Please roll a die.", "Throw the dice."))
    value = s.number(1, 6)
    return Use(
        "dice", spec, question, {}, as_result(s, "result", value), f"You rolled {value}.",
        "a roll of the dice",
    )  # fmt: skip


FAMILIES: dict[Callable[[Sampler], Use], float] = {
    weather: 5, clock: 2.5, arithmetic: 4, search: 2, message: 2, timer: 1.5, lookup: 5, dice: 1,
}  # fmt: skip


def any_use(s: Sampler) -> Use:
    return s.rng.choices(list(FAMILIES), list(FAMILIES.values()))[0](s)


def offer(s: Sampler, most: int = 3) -> list[Use]:
    """Uses of one to `most` tools of different families, in any order."""
    uses: dict[str, Use] = {}
    for _ in range(s.number(1, most)):
        use = any_use(s)
        uses.setdefault(use.family, use)
    found = list(uses.values())
    s.rng.shuffle(found)
    return found
