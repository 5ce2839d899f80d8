"""How good the exported files are, in llama.cpp, on what training never saw.

Held out are names, cities, pairs of numbers and pairings of a fact with a wording (see
`corpus.sampler`). Replies are greedy; an answer counts when it is the wanted text exactly.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from corpus import words
from corpus.chats import chat, long_chat, no_tool, tool_chat
from corpus.render import BOS, END, Conversation, Message, assistant_text, prompt
from corpus.sampler import Sampler
from corpus.turns import TASKS, tell_story
from runner import Runner

SINGLE = [task for task in TASKS if task is not tell_story]


@dataclass(frozen=True)
class Case:
    """A prompt and the reply that is wanted."""

    task: str
    prompt: str
    wanted: str


@dataclass(frozen=True)
class Reply:
    text: str
    ended: bool

    @property
    def thinks(self) -> bool:
        return self.text.startswith("<think>\n") and "\n</think>\n\n" in self.text

    @property
    def answer(self) -> str:
        return answer_of(self.text)


def answer_of(text: str) -> str:
    return text.partition("\n</think>\n\n")[2] if text.startswith("<think>") else text


def cases(task: str, conversation: Conversation) -> Iterator[Case]:
    """One case for each reply in a conversation, after the right replies before it."""
    for index, message in enumerate(conversation.messages):
        if message.role == "assistant" and message.learn:
            before = replace(conversation, messages=conversation.messages[:index])
            yield Case(task, prompt(before), assistant_text(message, conversation.sort_keys))


def single_cases(s: Sampler, samples: int) -> Iterator[Case]:
    """Each task of one turn, a third of them with thinking."""
    for task in SINGLE:
        for _ in range(samples):
            turn, thinking = task(s, {}), s.chance(0.33)
            found = Conversation(chat_of(turn.question, turn.answer, turn.thought * thinking))
            yield from cases(task.__name__, replace(found, thinking=thinking))


def chat_of(question: str, answer: str, thought: str) -> list[Message]:
    return [Message("user", question), Message("assistant", answer, thought)]


def with_history(s: Sampler, samples: int) -> Iterator[Case]:
    """The last reply of chats of five turns, with all kinds of system messages."""
    found = 0
    while found < samples:
        case = list(cases("chat with history", chat(s, 5)))[-1]
        if "Once upon" not in case.wanted:
            found += 1
            yield case


def long_cases(s: Sampler, samples: int) -> Iterator[Case]:
    """Replies that stand 1,500 tokens or more into a chat, but for those `report` leaves out."""
    for _ in range(max(1, samples // 4)):
        found = cases("long chat", long_chat(s, 75))
        late = [case for case in found if 5500 < len(case.prompt) < 6500]
        yield from [case for case in late if "Once upon" not in case.wanted][:4]


def tool_cases(s: Sampler, samples: int) -> Iterator[Case]:
    for _ in range(samples):
        for case in cases("", tool_chat(s)):
            if "Once upon" in case.wanted:
                continue
            if "<tool_call>" in case.wanted:
                yield replace(case, task="tool call")
            elif "<|tool|>" in case.prompt[case.prompt.rindex("<|user|>") :]:
                yield replace(case, task="answer from a tool's result")
            else:
                yield replace(case, task="tool offered, not needed")
        yield from cases("no tool for it", no_tool(s))


def all_cases(samples: int) -> list[Case]:
    s = Sampler("evaluation", testing=True)
    sources: Iterable[Iterator[Case]] = (
        single_cases(s, samples), with_history(s, samples), tool_cases(s, samples),
        long_cases(s, samples),
    )  # fmt: skip
    return [case for source in sources for case in source]


def ask(runner: Runner, case: Case) -> Reply:
    tokens = runner.tokenize(case.prompt)
    reply, ended = runner.greedy(tokens, most=450)
    return Reply(runner.text(reply), ended)


class Score:
    """Right answers of all, by what was measured."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.all: Counter[str] = Counter()
        self.wrong: list[tuple[str, str, str]] = []

    def add(self, what: str, right: bool) -> None:
        self.right[what] += right
        self.all[what] += 1

    def lines(self) -> list[str]:
        return [
            f"{what}: {self.right[what] / self.all[what]:.3f} ({self.right[what]}/{self.all[what]})"
            for what in self.all
        ]


def calls_in(answer: str) -> list[object] | None:
    """The calls of a reply as JSON values, or None where one is not valid."""
    parts = answer.split("<tool_call>\n")[1:]
    try:
        return [json.loads(part.split("\n</tool_call>")[0]) for part in parts]
    except ValueError:
        return None


def score_case(score: Score, case: Case, reply: Reply) -> None:
    right = reply.ended and reply.answer == answer_of(case.wanted)
    score.add(case.task, right)
    if not right:
        score.wrong.append((case.task, case.wanted, reply.text))
    if case.wanted.startswith("<think>"):
        score.add("thinks when asked to", reply.thinks)
    else:
        score.add("does not think when not asked to", not reply.text.startswith("<think>"))
    if case.task == "tool call":
        score.add("tool call is valid JSON", bool(calls_in(reply.answer)))
        score.add("tool call has name and arguments right",
                  calls_in(reply.answer) == calls_in(answer_of(case.wanted)))  # fmt: skip


def score_story(score: Score, text: str, ended: bool) -> None:
    """Names must stay the two that the story introduced, and the thing its colour."""
    score.add("story ends by itself", ended and text.rstrip().endswith("The end."))
    named = {name for name in words.NAMES if name in text}
    things = {thing for thing in words.THINGS[:16] for colour in words.COLOURS[:9]
              if f"{colour} {thing}" in text}  # fmt: skip
    score.add("story keeps to its two characters and one thing", len(named) == 2 == len(things) + 1)


def score_stories(score: Score, runner: Runner, samples: int) -> None:
    for name in [*words.GIRLS, *words.BOYS][:samples]:
        for kind in ("fox", "owl"):
            start = f"Once upon a time, there was a little {kind} named {name}."
            reply, ended = runner.greedy(runner.tokenize(BOS + start))
            score_story(score, start + runner.text(reply), ended)


def report(runner: Runner, samples: int) -> Score:
    """Every measurement, over `samples` cases of each task."""
    score = Score()
    for case in all_cases(samples):
        length = len(runner.tokenize(case.prompt))
        if length < 1900 and (length >= 1500 or case.task != "long chat"):
            score_case(score, case, ask(runner, case))
    score_stories(score, runner, samples)
    return score


def agreement(model: Runner, draft: Runner, samples: int) -> float:
    """The share of the model's own greedy tokens that the draft would choose as well."""
    prompts = [case.prompt for case in all_cases(max(1, samples // 4))]
    prompts += [f"{BOS}Once upon a time"] + [
        f"{BOS}Once upon a time, there was a little {kind}" for kind in words.ANIMALS
    ]
    same = total = 0
    for before in map(model.tokenize, prompts):
        if len(before) > 1500:
            continue
        reply, ended = model.greedy(before)
        reply += model.tokenize(END) * ended
        chosen = draft.choices(before + reply)[len(before) - 1 : -1]
        same += int((chosen == reply).sum())
        total += len(reply)
    return same / total
