"""What a user may ask in one turn, and what the model is to answer.

Each task draws one question with its answer in a sentence, in a word (`short`), and the thought
that leads to it. `known` is what the user has told so far in this conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from corpus import words
from corpus.sampler import Sampler
from corpus.stories import story

Known = dict[str, str]


@dataclass(frozen=True)
class Turn:
    """A question, its answer, the thought behind it, and the answer in one word."""

    task: str
    question: str
    answer: str
    thought: str
    short: str = ""


def worded(s: Sampler, facts: Mapping[str, str], forms: Sequence[str]) -> tuple[str, str, str]:
    """A (key, value, question) whose pairing of fact and wording is on our side of the split."""
    key, form = s.split(lambda: (s.choice(list(facts)), s.choice(forms)))
    return key, facts[key], form.format(key).replace(f"a {key}", words.a(key))


# --- numbers ---------------------------------------------------------------------------------


def add(s: Sampler, known: Known) -> Turn:
    a, b = s.split(lambda: (s.number(0, 20), s.number(0, 20)))
    form = s.choice((
        "What is {} plus {}?", "What is {} + {}?", "{} + {}", "How much is {} plus {}?",
        "Add {} and {}.", "{} plus {}?", "{} + {} = ?", "What is {}+{}?", "{}+{}",
    ))  # fmt: skip
    tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    thought = f"{a} + {b} = {a + b}."
    if tens:
        thought = f"{a % 10} + {b % 10} = {ones}. {tens} + {ones} = {a + b}."
    return Turn("add", form.format(a, b), f"{a} plus {b} is {a + b}.", thought, str(a + b))


def subtract(s: Sampler, known: Known) -> Turn:
    b, rest = s.split(lambda: (s.number(0, 10), s.number(0, 10)))
    a = b + rest
    form = s.choice((
        "What is {} minus {}?", "What is {} - {}?", "{} - {}", "How much is {} minus {}?",
        "What is {}-{}?",
    ))  # fmt: skip
    thought = f"{b} + {rest} = {a}, so {a} - {b} = {rest}."
    return Turn("subtract", form.format(a, b), f"{a} minus {b} is {rest}.", thought, str(rest))


def multiply(s: Sampler, known: Known) -> Turn:
    a, b = s.number(0, 10), s.number(0, 10)  # a table to know by heart: none held out
    form = s.choice(("What is {} times {}?", "What is {} * {}?", "How much is {} times {}?"))
    thought = f"{a} times {b}: {' + '.join([str(b)] * a) or 'nothing'} = {a * b}."
    return Turn("multiply", form.format(a, b), f"{a} times {b} is {a * b}.", thought, str(a * b))


def word_problem(s: Sampler, known: Known) -> Turn:
    who, fruit = s.name(), s.choice(words.FRUITS)
    a, b = s.split(lambda: (s.number(0, 10), s.number(0, 10)))
    if s.chance(0.5):
        question = f"{who} has {a} {fruit} and gets {b} more. How many {fruit} does {who} have?"
        return Turn(
            "word problem", question, f"{who} has {a + b} {fruit}.", f"{a} + {b} = {a + b}.",
            str(a + b),
        )  # fmt: skip
    question = f"{who} has {a + b} {fruit} and eats {b}. How many {fruit} does {who} have now?"
    return Turn(
        "word problem", question, f"{who} has {a} {fruit}.", f"{a + b} - {b} = {a}.", str(a)
    )


def bigger(s: Sampler, known: Known) -> Turn:
    a, b = s.split(lambda: (s.number(0, 50), s.number(0, 50)))
    if a == b:
        b += 1
    most = max(a, b)
    form = s.choice(("Which is bigger, {} or {}?", "Which number is bigger: {} or {}?"))
    return Turn(
        "bigger", form.format(a, b), f"{most} is bigger.", f"{most} is more than {min(a, b)}.",
        str(most),
    )  # fmt: skip


def next_number(s: Sampler, known: Known) -> Turn:
    a = s.split(lambda: s.number(0, 99))
    form = s.choice(("What comes after {}?", "What number comes after {}?"))
    return Turn(
        "next number", form.format(a), f"{a + 1} comes after {a}.", f"{a} + 1 = {a + 1}.",
        str(a + 1),
    )  # fmt: skip


def count(s: Sampler, known: Known) -> Turn:
    length = s.choice((3, 5, 7, 9, 12, 19, 40)) if s.chance(0.93) else 99
    low, high = s.split(lambda: (low := s.choice((1, 1, s.number(0, 60))), low + length))
    form = s.choice(("Count from {} to {}.", "Please count from {} to {}."))
    numbers = ", ".join(str(number) for number in range(low, high + 1))
    return Turn("count", form.format(low, high), f"{numbers}.", f"I begin at {low}.")


# --- facts -----------------------------------------------------------------------------------


def colour(s: Sampler, known: Known) -> Turn:
    thing, value, question = worded(s, words.COLOUR_OF, (
        "What colour is {}?", "What is the colour of {}?", "Which colour is {}?",
        "What color is {}?", "Tell me the colour of {}.",
    ))  # fmt: skip
    answer = f"{thing.capitalize()} is {value}."
    return Turn("colour", question, answer, f"I know that {thing} is {value}.", value.capitalize())


def sound(s: Sampler, known: Known) -> Turn:
    animal, value, question = worded(s, words.SOUND_OF, (
        "What sound does a {} make?", "What does a {} say?", "Which sound does a {} make?",
    ))  # fmt: skip
    return Turn(
        "sound", question, f"{words.a(animal).capitalize()} says {value}.",
        f"It goes {value}.", value.capitalize(),
    )  # fmt: skip


def young(s: Sampler, known: Known) -> Turn:
    animal, value, question = worded(s, words.YOUNG_OF, (
        "What is a young {} called?", "What is a baby {} called?", "What do you call a baby {}?",
    ))  # fmt: skip
    return Turn(
        "young", question, f"A young {animal} is called a {value}.",
        f"The young of a {animal} is a {value}.", value.capitalize(),
    )  # fmt: skip


def legs(s: Sampler, known: Known) -> Turn:
    animal, value, question = worded(s, words.LEGS_OF, (
        "How many legs does a {} have?", "How many legs has a {}?", "Count the legs of a {}.",
    ))  # fmt: skip
    return Turn(
        "legs", question, f"{words.a(animal).capitalize()} has {value} legs.",
        f"The animal is {words.a(animal)}.", value.capitalize(),
    )  # fmt: skip


def capital(s: Sampler, known: Known) -> Turn:
    if s.chance(0.12):
        land = s.made_up(2)
        question = f"What is the capital of {land}?"
        return Turn("unknown", question, "I do not know.", f"I do not know {land}.", "Unknown")
    if s.chance(0.3):
        countries = {city: land for land, city in words.CAPITAL_OF.items()}
        city, land, question = worded(s, countries, (
            "{} is the capital of which country?", "Which country has the capital {}?",
        ))  # fmt: skip
        answer = f"{city} is the capital of {land}."
        return Turn("capital", question, answer, f"{city} is in {land}.", land)
    land, city, question = worded(s, words.CAPITAL_OF, (
        "What is the capital of {}?", "What's the capital of {}?", "Name the capital of {}.",
        "Which city is the capital of {}?", "Tell me the capital of {}.",
    ))  # fmt: skip
    answer = f"The capital of {land} is {city}."
    return Turn("capital", question, answer, f"The country is {land}. Its capital is {city}.", city)


def opposite(s: Sampler, known: Known) -> Turn:
    both = words.OPPOSITE_OF | {b: a for a, b in words.OPPOSITE_OF.items()}
    word, value, question = worded(s, both, (
        "What is the opposite of {}?", "What's the opposite of {}?", "Tell me the opposite of {}.",
    ))  # fmt: skip
    answer = f"The opposite of {word} is {value}."
    return Turn("opposite", question, answer, f"If not {word}, then {value}.", value.capitalize())


def calendar(s: Sampler, known: Known) -> Turn:
    noun, names = s.choice((("day", words.DAYS), ("month", words.MONTHS)))
    step, where, form = s.choice((
        (1, "after", "Which {0} comes after {1}?"),
        (1, "after", "What {0} comes after {1}?"),
        (1, "after", "What {0} is after {1}?"),
        (-1, "before", "Which {0} comes before {1}?"),
        (-1, "before", "What {0} comes before {1}?"),
    ))  # fmt: skip
    index = s.number(0, len(names) - 1)
    near = names[(index + step) % len(names)]
    return Turn(
        "calendar", form.format(noun, names[index]), f"{near} comes {where} {names[index]}.",
        f"The {noun} {where} {names[index]} is {near}.", near,
    )  # fmt: skip


def name_three(s: Sampler, known: Known) -> Turn:
    what = s.choice(list(words.LISTS))
    form = s.choice(("Name three {}.", "Tell me three {}.", "Can you name three {}?"))
    answer = f"Three {what} are {words.LISTS[what]}."
    return Turn("list", form.format(what), answer, f"I look for three {what}.")


# --- talk ------------------------------------------------------------------------------------

TALK = (
    (("Hello!", "Hello", "Hi!", "Hi there!", "Hey", "Hello there!"),
     "Hello! How can I help you?", "The user says hello, so I say hello."),
    (("Good morning!", "Good morning"), "Good morning! How can I help you?",
     "The user says good morning."),
    (("Good evening!", "Good evening"), "Good evening! How can I help you?",
     "The user says good evening."),
    (("How are you?", "How are you today?", "How do you do?"), "I am fine, thank you!",
     "The user asks how I am."),
    (("Thank you!", "Thanks!", "Thanks a lot!", "Thank you very much."), "You are welcome!",
     "The user says thank you."),
    (("Goodbye!", "Bye!", "See you!", "Good night!"), "Goodbye!", "The user is leaving."),
    (("Who are you?", "What are you?", "Tell me about yourself."),
     "I am a very small language model.", "The user asks who I am."),
    (("What can you do?", "Can you help me?", "Help!"),
     "I can chat, count, tell stories and call tools.", "The user asks what I can do."),
    (("Tell me a joke.", "Do you know a joke?"),
     "Why did the duck cross the road? To say quack on the other side!",
     "The user wants a joke."),
)  # fmt: skip


def talk(s: Sampler, known: Known) -> Turn:
    questions, answer, thought = s.choice(TALK)
    return Turn("talk", s.choice(questions), answer, thought)


def repeat(s: Sampler, known: Known) -> Turn:
    pool = [*words.THINGS, *words.NAMES, *words.COLOURS, *words.ANIMALS]
    length = s.choice((1, 2, 3, 4, 6, 10))
    said = [s.choice(words.ACCENTED) if s.chance(0.2) else s.choice(pool) for _ in range(length)]
    if s.chance(0.3):
        said = [s.made_up(2).lower(), str(s.number(0, 999))]
    text = s.split(lambda: " ".join([*s.rng.sample(said, len(said)), s.choice(pool)]))
    form = s.choice(("Say {}", "Repeat: {}", "Repeat after me: {}", "Say this: {}"))
    return Turn("repeat", form.format(text), text, f"I say the words again: {text}")


def tell_story(s: Sampler, known: Known) -> Turn:
    kind = s.choice(words.ANIMALS)
    hero = s.split(lambda: s.choice(words.NAMES))
    question = s.choice((
        "Tell me a story.", "Please tell me a short story.", f"Tell me a story about a {kind}.",
        f"Write a story about a {kind}.", f"Tell me a story about a {kind} named {hero}.",
    )).replace(f"a {kind}", words.a(kind))  # fmt: skip
    text = story(s, kind if kind in question else "", hero if hero in question else "")
    return Turn("story", question, text, "The user wants a story.")


# --- what was said before --------------------------------------------------------------------

# what is told -> how it is told, how it is asked, how it is answered
TOLD: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, str]] = {
    "name": (
        ("My name is {}.", "I am called {}.", "Hello, my name is {}.", "Hi, I am {}.", "I'm {}."),
        ("What is my name?", "Do you know my name?", "What's my name?", "Who am I?"),
        "Nice to meet you, {}!",
        "Your name is {}.",
    ),
    "city": (
        ("I live in {}.", "My home is in {}.", "I come from {}."),
        ("Where do I live?", "In which city do I live?", "Which city do I live in?"),
        "{} is a nice place!",
        "You live in {}.",
    ),
    "pet": (
        ("I have a dog named {}.", "My dog is called {}.", "My dog's name is {}."),
        ("What is my dog called?", "What is the name of my dog?", "What is my dog's name?"),
        "{} is a good name for a dog!",
        "Your dog is called {}.",
    ),
    "friend": (
        ("My best friend is {}.", "My friend is called {}."),
        ("Who is my friend?", "Who is my best friend?", "What is my friend called?"),
        "It is good to have a friend like {}!",
        "Your friend is {}.",
    ),
    "colour": (
        ("My favourite colour is {}.", "I like the colour {}."),
        ("What is my favourite colour?", "Which colour do I like?"),
        "I like {} too!",
        "Your favourite colour is {}.",
    ),
    "fruit": (
        ("I like {} best.", "My favourite fruit is {}."),
        ("What is my favourite fruit?", "Which fruit do I like?"),
        "I see, you like {}!",
        "You like {}.",
    ),
    "age": (
        ("I am {} years old.", "My age is {}."),
        ("How old am I?", "What is my age?"),
        "I see, you are {} years old.",
        "You are {} years old.",
    ),
    "number": (
        ("My lucky number is {}.", "Remember the number {}."),
        ("What is my number?", "What is my lucky number?", "Which number did I tell you?"),
        "I will remember {}.",
        "Your number is {}.",
    ),
    "key": (
        ("I put the key in the {}.", "The key is in the {}."),
        ("Where is the key?", "Where did I put the key?"),
        "The key is in the {}, I see.",
        "The key is in the {}.",
    ),
}


def value_of(s: Sampler, what: str) -> str:
    draw: dict[str, Callable[[], str]] = {
        "name": s.name, "pet": s.name, "friend": s.name, "city": s.city,
        "colour": lambda: s.choice(words.COLOURS), "fruit": lambda: s.choice(words.FRUITS),
        "age": lambda: str(s.number(4, 99)), "number": lambda: str(s.number(1, 999)),
        "key": lambda: s.choice(words.HIDING),
    }  # fmt: skip
    return draw[what]()


def tell(s: Sampler, known: Known) -> Turn:
    what = s.choice(list(TOLD))
    forms, _, reply, _ = TOLD[what]
    known[what] = value = value_of(s, what)
    return Turn("tell", s.choice(forms).format(value), reply.format(value), "I remember that.")


def recall(s: Sampler, known: Known) -> Turn:
    if not known or s.chance(0.12):
        what = s.choice([what for what in TOLD if what not in known] or ["name"])
    else:
        what = s.choice(list(known))
    _, forms, _, answer = TOLD[what]
    if what not in known and s.chance(0.5):  # told and asked in one breath
        value, told = value_of(s, what), s.choice(TOLD[what][0])
        return Turn(
            "recall", f"{told.format(value)} {s.choice(forms)}", answer.format(value),
            f"The user told me: {value}.", value.capitalize(),
        )  # fmt: skip
    if what not in known:
        reply = "You did not tell me that."
        return Turn("recall unknown", s.choice(forms), reply, reply, "Unknown")
    value = known[what]
    return Turn(
        "recall", s.choice(forms), answer.format(value), f"The user told me: {value}.",
        value.capitalize(),
    )  # fmt: skip


def passage(s: Sampler, known: Known) -> Turn:
    """A few sentences with a question about them."""
    first, second = s.name(), s.name()
    while second == first:
        second = s.name()
    thing, other = s.rng.sample(words.THINGS, 2)
    shade, shade2 = s.rng.sample(words.COLOURS, 2)
    town, kind = s.city(), s.choice(words.ANIMALS)
    sentences = [
        f"{first} has {words.a(shade)} {thing}.", f"{second} has {words.a(shade2)} {other}.",
        f"{first} lives in {town}.", f"{second} is {words.a(kind)}.",
    ]  # fmt: skip
    question, answer, thought, short = s.choice((
        (f"What colour is the {thing}?", f"The {thing} is {shade}.", sentences[0], shade),
        (f"What colour is the {other}?", f"The {other} is {shade2}.", sentences[1], shade2),
        (f"Who has the {thing}?", f"{first} has the {thing}.", sentences[0], first),
        (f"Who has the {other}?", f"{second} has the {other}.", sentences[1], second),
        (f"Where does {first} live?", f"{first} lives in {town}.", sentences[2], town),
        (f"What is {second}?", f"{second} is {words.a(kind)}.", sentences[3], kind),
        (f"What does {first} have?", sentences[0], sentences[0], thing),
        (f"What does {second} have?", sentences[1], sentences[1], other),
    ))  # fmt: skip
    told = [*sentences[:2], *s.rng.sample(sentences[2:], s.number(0, 2))]
    if thought not in told:
        told.append(thought)
    s.rng.shuffle(told)
    return Turn(
        "passage", f"{' '.join(told)} {question}", answer, f"The text says: {thought}",
        short.capitalize(),
    )  # fmt: skip


TASKS: dict[Callable[[Sampler, Known], Turn], float] = {
    add: 10, subtract: 4, multiply: 4, word_problem: 3, bigger: 2, next_number: 2, count: 2,
    colour: 3, sound: 2, young: 2, legs: 2, capital: 5, opposite: 4, calendar: 4, name_three: 1,
    talk: 4, repeat: 6, tell_story: 1.5, tell: 7, recall: 7, passage: 5,
}  # fmt: skip


HARD = (add, subtract, multiply, word_problem, count, repeat, passage, recall)


def any_turn(s: Sampler, known: Known) -> Turn:
    weights = [w * (2.5 if s.hard and task in HARD else 1) for task, w in TASKS.items()]
    return s.rng.choices(list(TASKS), weights)[0](s, known)
