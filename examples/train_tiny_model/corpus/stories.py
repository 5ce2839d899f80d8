"""Short stories: one hero, one friend, one thing, one trouble, one ending.

What is drawn at the beginning (names, kinds, thing, place) is all that the rest may speak of,
so a story that stays coherent is one that copies from its own beginning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from corpus import words
from corpus.sampler import Sampler


@dataclass(frozen=True)
class Cast:
    """Who and what a story is about."""

    hero: str
    kind: str
    he: str
    his: str
    friend: str
    friend_kind: str
    thing: str
    place: str
    mood: str

    @property
    def He(self) -> str:  # noqa: N802 - the word at the head of a sentence
        return self.he.capitalize()


def cast(s: Sampler, kind: str = "", hero: str = "") -> Cast:
    hero = hero or s.split(lambda: s.choice(words.NAMES))
    girl = hero in words.GIRLS
    friend = s.split(lambda: s.choice([name for name in words.NAMES if name != hero]))
    kind = kind or s.choice(words.ANIMALS)
    return Cast(
        hero=hero,
        kind=kind,
        he="she" if girl else "he",
        his="her" if girl else "his",
        friend=friend,
        friend_kind=s.choice([animal for animal in words.ANIMALS if animal != kind]),
        thing=f"{s.choice(words.COLOURS[:9])} {s.choice(words.THINGS[:16])}",
        place=s.choice(words.PLACES),
        mood=s.choice(("little", "young", "small", "kind")),
    )


def opening(s: Sampler, c: Cast) -> str:
    first = s.choice((
        f"Once upon a time, there was a {c.mood} {c.kind} named {c.hero}.",
        f"Once upon a time, a {c.mood} {c.kind} named {c.hero} lived near a {c.place}.",
    ))  # fmt: skip
    home = "" if "lived" in first else f" {c.He} lived near a {c.place}."
    return first + home + f" {c.hero} had a {c.thing} and loved it very much."


def lost(s: Sampler, c: Cast) -> list[str]:
    spot = s.choice(("under a tree", "behind a rock", "in the tall grass", "by the river"))
    return [
        (
            f"One day, {c.hero} could not find the {c.thing}. {c.He} looked and looked, but it was "
            f"gone. {c.hero} was very sad."
        ),
        (
            f"Then a {c.friend_kind} named {c.friend} came by. "
            f'"Why are you sad?" asked {c.friend}. "I lost my {c.thing}," said {c.hero}.'
        ),
        f"They searched the {c.place} together. At last, {c.friend} found the {c.thing} {spot}.",
    ]


def stuck(s: Sampler, c: Cast) -> list[str]:
    where = s.choice(("a tall tree", "a deep hole", "a high wall"))
    tool = s.choice(("a long rope", "a ladder", "a strong branch"))
    return [
        f"One windy day, the {c.thing} fell into {where}. {c.hero} could not reach it."
        if where == "a deep hole"
        else f"One windy day, the {c.thing} flew up onto {where}. {c.hero} could not reach it.",
        (
            f'"Please help me!" called {c.hero}. A {c.friend_kind} named {c.friend} heard {c.his} '
            "voice and came running."
        ),
        f"{c.friend} brought {tool}. With {tool}, they got the {c.thing} back.",
    ]


def shared(s: Sampler, c: Cast) -> list[str]:
    wish = s.choice(("to play with it", "to hold it", "to have one too"))
    return [
        (
            f"One morning, {c.hero} met a {c.friend_kind} named {c.friend} in the {c.place}. "
            f"{c.friend} saw the {c.thing} and wanted {wish}."
        ),
        (
            f'"No, it is mine!" said {c.hero}. {c.friend} went away and was sad. Soon {c.hero} '
            "felt sad too."
        ),
        (
            f'{c.hero} ran after {c.friend}. "I am sorry," said {c.hero}. "We can share the '
            f'{c.thing}."'
        ),
    ]


def storm(s: Sampler, c: Cast) -> list[str]:
    sky = s.choice(("rain", "snow"))
    home = s.choice(words.HOMES[:6])
    return [
        (
            f"One evening, {c.hero} went for a walk with the {c.thing}. Suddenly, {sky} began to "
            f"fall, and it was very cold."
        ),
        (
            f"{c.hero} saw a {home} with a light. A {c.friend_kind} named {c.friend} opened the "
            f'door. "Come in," said {c.friend}. "It is warm in my {home}."'
        ),
        (
            f"They drank hot tea until the {sky} stopped. {c.hero} gave the {c.thing} to "
            f"{c.friend} to say thank you."
        ),
    ]


PLOTS = (lost, stuck, shared, storm)


def ending(s: Sampler, c: Cast) -> str:
    return s.choice((
        f"{c.hero} and {c.friend} were happy. From that day on, they were best friends. The end.",
        (f'"Thank you, {c.friend}," said {c.hero}. They laughed and played until the sun went '
        "down. The end."),
        f"That night, {c.hero} went home with a smile. {c.He} had found a good friend. The end.",
    ))  # fmt: skip


def story(s: Sampler, kind: str = "", hero: str = "") -> str:
    """A whole story; `kind` and `hero` fix what it is about."""
    c = cast(s, kind, hero)
    plot = s.choice(PLOTS)
    text = " ".join([opening(s, c), *plot(s, c), ending(s, c)])
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
