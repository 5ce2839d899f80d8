"""Whole conversations: turns, with or without a system message, thinking and tools."""

from __future__ import annotations

import json
from dataclasses import replace

from corpus import tools as toolbox
from corpus.render import Conversation, Json, Message
from corpus.sampler import Sampler
from corpus.turns import Known, Turn, any_turn, recall, tell

PLAIN_SYSTEM = (
    "You are a helpful assistant.", "You are a friendly helper.", "You are a small model.",
    "You answer questions.", "Be kind and helpful.", "You are a helpful assistant that is brief.",
    "You help people with small questions.", "Be polite.", "You are a test.",
)  # fmt: skip
ASK_TO_THINK = (
    "Think before you answer.", "Think step by step.", "Please think first, then answer.",
    "Think first.", "You are a helpful assistant. Think before you answer.",
    "Think out loud before you answer.", "You think before each answer.",
)  # fmt: skip
ASK_FOR_A_WORD = ("Answer in one word.", "Answer with one word only.", "Use only one word.")
NOISE = 0.12


def system_prompt(s: Sampler) -> tuple[str, str]:
    """A system message and what it asks for: "", "think", "word" or the name to go by."""
    kind = s.rng.choices(("none", "plain", "think", "word", "name"), (45, 28, 12, 8, 7))[0]
    if kind == "plain":
        return s.choice(PLAIN_SYSTEM), ""
    if kind == "think":
        return s.choice(ASK_TO_THINK), "think"
    if kind == "word":
        return s.choice(ASK_FOR_A_WORD), "word"
    if kind == "name":
        name = s.name()
        form = s.choice(("Your name is {}.", "You are {}.", "You are called {}."))
        return form.format(name), name
    return "", ""


def as_typed(s: Sampler, question: str) -> str:
    """The question as some people type it: without capitals or the mark at the end."""
    if s.chance(0.04):
        return s.choice(("Hello! ", "Hi! ", "Please answer: ", "Question: ", "Okay. ")) + question
    if not s.chance(NOISE) or ":" in question:
        return question
    bare = question.rstrip("?.!")
    return bare if s.chance(0.5) else bare[:1].lower() + bare[1:]


def exchange(s: Sampler, turn: Turn, wish: str, thinking: bool) -> list[Message]:
    answer = turn.short if wish == "word" and turn.short else turn.answer
    return [
        Message("user", as_typed(s, turn.question)),
        Message("assistant", answer, turn.thought if thinking else ""),
    ]


def own_name(s: Sampler, name: str) -> Turn:
    question = s.choice(("What is your name?", "Who are you?", "What are you called?"))
    return Turn("own name", question, f"My name is {name}.", f"I am {name}.", name)


def forget_thoughts(s: Sampler, conversation: Conversation) -> None:
    """As callers do: leave the thoughts of earlier turns out. What is cut is not learned."""
    last = max(i for i, m in enumerate(conversation.messages) if m.role == "user")
    if s.chance(0.5):  # the thought before a call as well
        last = len(conversation.messages) - 1
    for message in conversation.messages[:last]:
        if message.reasoning:
            message.reasoning, message.learn = "", False


def chat(s: Sampler, turns: int = 0, thinking: bool | None = None) -> Conversation:
    """Plain chat. `turns` and `thinking` are drawn where they are not given."""
    system, wish = system_prompt(s)
    flag = s.chance(0.25) if thinking is None else thinking
    think = flag or wish == "think"
    known: Known = {}
    messages = [Message("system", system)] if system else []
    for _ in range(turns or s.choice((1, 1, 1, 2, 2, 3, 4, 5))):
        turn = any_turn(s, known)
        if wish not in ("", "think", "word") and s.chance(0.4):
            turn = own_name(s, wish)
        messages += exchange(s, turn, wish, think)
    conversation = Conversation(messages, [], flag)
    if think and s.chance(0.5):
        forget_thoughts(s, conversation)
    return conversation


def long_chat(s: Sampler, turns: int) -> Conversation:
    """Many turns; what was told at the beginning is asked for to the end."""
    conversation = chat(s, 1)
    known: Known = {}
    think = conversation.thinking
    conversation.messages = conversation.messages[:1] * (conversation.messages[0].role == "system")
    asked_to_think = think or any(m.content in ASK_TO_THINK for m in conversation.messages)
    word = any(m.content in ASK_FOR_A_WORD for m in conversation.messages)
    for index in range(turns):
        turn = tell(s, known) if index < 3 else any_turn(s, known)
        if index >= 3 and s.chance(0.25):
            turn = recall(s, known)
        conversation.messages += exchange(s, turn, "word" if word else "", asked_to_think)
    return conversation


def use_tool(s: Sampler, use: toolbox.Use, think: bool) -> list[Message]:
    """Question, call, result, answer."""
    result, answer = use.result, use.answer
    if s.chance(0.05):
        error = s.choice(("not found", "timeout", "no answer", "bad request"))
        result, answer = json.dumps({"error": error}), f"Sorry, the tool failed: {error}."
    before = f"The user wants {use.topic}. I call {use.name}."
    after = f"The tool says: {result}"
    return [
        Message("user", as_typed(s, use.question)),
        Message("assistant", "", before if think else "", [use.call]),
        Message("tool", result),
        Message("assistant", answer, after if think else ""),
    ]


def use_twice(s: Sampler, use: toolbox.Use, think: bool) -> list[Message]:
    """One question about two cities: two calls in one turn, two results."""
    other = s.city()
    ((argument, city),) = use.arguments.items()
    question = f"{use.question.rstrip('.?').removesuffix(' today')} and {other}?"
    second = replace(use, arguments={argument: other})
    return [
        Message("user", question),
        Message(
            "assistant", "", f"The user wants {use.topic} and {other}. I call {use.name} twice."
            if think else "", [use.call, second.call],
        ),
        Message("tool", use.result),
        Message("tool", use.result),
        Message(
            "assistant", f"{use.answer} {use.answer.replace(str(city), other)}",
            f"The tool says: {use.result}" if think else "",
        ),
    ]  # fmt: skip


def another_city(s: Sampler, use: toolbox.Use) -> toolbox.Use:
    """The same tool, asked about a different city."""
    fresh = (toolbox.weather if use.family == "weather" else toolbox.clock)(s)
    (argument,) = use.arguments
    (city,) = fresh.arguments.values()
    return replace(fresh, schema=use.schema, arguments={argument: city})


def in_schema_order(use: toolbox.Use) -> Json:
    """The arguments in the order in which the rendered schema names them."""
    return {name: use.arguments[name] for name in sorted(use.arguments)}


def tool_chat(s: Sampler, thinking: bool | None = None, needed: bool | None = None) -> Conversation:
    """Chat with tools on offer; some turns need one and some do not."""
    flag = s.chance(0.35) if thinking is None else thinking
    system, wish = system_prompt(s) if s.chance(0.3) else ("", "")
    if wish not in ("", "think"):
        system, wish = "", ""
    think = flag or wish == "think"
    uses = toolbox.offer(s)
    sort_keys = s.chance(0.5)
    if sort_keys:
        for use in uses:
            use.arguments = in_schema_order(use)
    messages = [Message("system", system)] if system else []
    offered = [use.schema for use in uses]
    s.rng.shuffle(uses)
    known: Known = {}
    busy = {"arithmetic"} & {use.family for use in uses}
    for _ in range(s.choice((1, 1, 1, 2, 3))):
        needs = s.chance(0.68) if needed is None else needed
        if not needs or not uses:
            turn = any_turn(s, known)
            while busy and turn.task in ("add", "subtract", "multiply"):
                turn = any_turn(s, known)
            messages += exchange(s, turn, "", think)
            continue
        use = uses.pop()
        twice = use.family in ("weather", "time") and s.chance(0.12)
        messages += (use_twice if twice else use_tool)(s, use, think)
        if use.family in ("weather", "time") and s.chance(0.3):
            messages += use_tool(s, another_city(s, use), think)
    conversation = Conversation(messages, offered, flag, sort_keys)
    if think and s.chance(0.5):
        forget_thoughts(s, conversation)
    return conversation


def no_tool(s: Sampler) -> Conversation:
    """What only a tool could tell, and there is none."""
    use = s.choice((toolbox.weather, toolbox.clock, toolbox.lookup))(s)
    think = s.chance(0.3)
    thought = f"The user wants {use.topic}. I have no tool for that."
    return Conversation(
        [
            Message("user", as_typed(s, use.question)),
            Message("assistant", f"I do not know {use.topic}.", thought if think else ""),
        ],
        [],
        think,
    )
