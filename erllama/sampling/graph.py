"""Graphs of rules that refer to each other by number. Pure."""

from __future__ import annotations


def made_of(rules: list[list[list[int]]]) -> list[bool]:
    """For each rule, whether all of one of its alternatives is made of rules of which that holds.

    It is the least such set (Dowling and Gallier 1984): none is in it for its own sake.
    """
    users: dict[int, list[list[int]]] = {}
    holds = [False] * len(rules)
    news = []
    for rule, alternatives in enumerate(rules):
        for refs in alternatives:
            waiting = [rule, len(refs)]
            for ref in refs:
                users.setdefault(ref, []).append(waiting)
            if not refs:
                news.append(rule)
    while news:
        rule = news.pop()
        if holds[rule]:
            continue
        holds[rule] = True
        for waiting in users.get(rule, ()):
            waiting[1] -= 1
            if not waiting[1]:
                news.append(waiting[0])
    return holds


def cycles(edges: list[list[int]]) -> list[int]:
    """For each node the number of its strongly connected component (Kosaraju and Sharir 1981)."""
    back: list[list[int]] = [[] for _ in edges]
    for node, targets in enumerate(edges):
        for target in targets:
            back[target].append(node)
    component = [-1] * len(edges)
    for number, start in enumerate(reversed(_postorder(edges))):
        todo = [start]
        while todo:
            node = todo.pop()
            if component[node] < 0:
                component[node] = number
                todo += back[node]
    return component


def _postorder(edges: list[list[int]]) -> list[int]:
    order, seen = [], [False] * len(edges)
    for start in range(len(edges)):
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
