"""Graphs of rules that refer to each other by number. Pure.

Each rule has alternatives, of which each is a list of the rules that it is made of.
"""

from __future__ import annotations

import itertools
from collections import Counter

from erllama.sampling.effort import Pause, paced


def made_of(rules: list[list[list[int]]], pause: Pause | None = None) -> list[bool]:
    """For each rule, whether all of one of its alternatives is made of rules of which that holds.

    It is the least such set (Dowling and Gallier 1984): none is in it for its own sake.
    """
    users: dict[int, list[list[int]]] = {}
    holds = [False] * len(rules)
    news = []
    for rule, alternatives in paced(enumerate(rules), pause):
        for refs in alternatives:
            waiting = [rule, len(refs)]
            for ref in refs:
                users.setdefault(ref, []).append(waiting)
            if not refs:
                news.append(rule)
    for _ in paced(itertools.count(), pause):
        if not news:
            break
        rule = news.pop()
        if holds[rule]:
            continue
        holds[rule] = True
        for waiting in users.get(rule, ()):
            waiting[1] -= 1
            if not waiting[1]:
                news.append(waiting[0])
    return holds


def endless_rules(rules: list[list[list[int]]], root: int, pause: Pause | None = None) -> set[int]:
    """The rules, of those that `root` leads to, that lead to themselves and never end.

    Those that are not made of anything, as they have no alternatives, are not among them.
    """
    ends = made_of(rules, pause)
    if all(ends):
        return set()
    never = _impossible(rules, pause)
    edges = [[ref for sequence in rule for ref in sequence] for rule in rules]
    inner = [[ref for ref in refs if not ends[ref] and not never[ref]] for refs in edges]
    component = cycles(inner, pause)
    size = Counter(component)
    met, todo = {root}, [root]
    while todo:
        new = set(edges[todo.pop()]) - met
        met |= new
        todo += new
    return {
        rule
        for rule in met
        if not (ends[rule] or never[rule]) and (size[component[rule]] > 1 or rule in inner[rule])
    }


def _impossible(rules: list[list[list[int]]], pause: Pause | None) -> list[bool]:
    """For each rule, whether each alternative has a rule of which that holds."""
    some: list[list[list[int]]] = []  # behind the rules, one for each alternative
    every: list[list[list[int]]] = []
    for alternatives in rules:
        first = len(rules) + len(some)
        some += [[[ref] for ref in refs] for refs in alternatives]
        every.append([list(range(first, first + len(alternatives)))])
    return made_of([*every, *some], pause)[: len(rules)]


def cycles(edges: list[list[int]], pause: Pause | None = None) -> list[int]:
    """For each node the number of its strongly connected component (Kosaraju and Sharir 1981)."""
    back: list[list[int]] = [[] for _ in edges]
    for node, targets in enumerate(edges):
        for target in targets:
            back[target].append(node)
    component = [-1] * len(edges)
    for number, start in paced(enumerate(reversed(_postorder(edges, pause))), pause):
        todo = [start]
        while todo:
            node = todo.pop()
            if component[node] < 0:
                component[node] = number
                todo += back[node]
    return component


def _postorder(edges: list[list[int]], pause: Pause | None) -> list[int]:
    order, seen = [], [False] * len(edges)
    for start in paced(range(len(edges)), pause):
        todo = [(start, False)]
        while todo:
            node, done = todo.pop()
            if done:
                order.append(node)
            elif not seen[node]:
                seen[node] = True
                todo.append((node, True))
                todo += [(target, False) for target in edges[node] if not seen[target]]
    return order
