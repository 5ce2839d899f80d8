"""Schemas whose every value has another one of the same schema in it: these never end. Pure."""

from __future__ import annotations

import urllib.parse
from typing import Any, ClassVar

from erllama.errors import InvalidGrammar
from erllama.sampling.graph import endless_rules

_CONTAINERS = ("object", "array")
_ROOT = 0


def check_endings(schema: Any) -> None:
    """Refuse a schema with a definition that only values without end would match.

    Args:
        schema: one that `erllama.sampling.json_schema.read_schema` takes.

    Raises:
        InvalidGrammar: names the definition.
    """
    needs = _Needs(schema)
    endless = endless_rules(needs.rules, _ROOT)
    for pointer, rule in needs.definitions.items():
        if rule in endless:
            raise InvalidGrammar(
                "never ends, as each value of it needs another one inside; leave a way out, such "
                "as anyOf with null, minItems of 0, or a property that is not required",
                field="json_schema",
                path=pointer,
            )


class _Needs:
    """What a value of each schema cannot do without, as rules (see `graph`).

    Attributes:
        definitions: the rules of the root and of all that a reference means, by JSON pointer.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self.rules: list[list[list[int]]] = [[]]
        self.definitions = {"": _ROOT}
        todo = [""]
        for pointer in todo:  # grows
            known = len(self.definitions)
            body = self._schema(self._at(pointer))
            self.rules[self.definitions[pointer]] = [[body]]
            todo += list(self.definitions)[known:]

    def _rule(self, alternatives: list[list[int]]) -> int:
        self.rules.append(alternatives)
        return len(self.rules) - 1

    def _schema(self, schema: Any) -> int:
        """The rule of a value."""
        if not isinstance(schema, dict):
            return self._rule([] if schema is False else [[]])
        needs = [self._schema(one) for one in schema.get("allOf", ())]
        needs += [
            self._rule([[self._schema(one)] for one in schema[key]])
            for key in ("anyOf", "oneOf")
            if key in schema
        ]
        if "$ref" in schema:
            needs.append(self._definition(urllib.parse.unquote(schema["$ref"][1:])))
        if "const" not in schema and "enum" not in schema:
            needs.append(self._container(schema))
        return self._rule([needs])

    def _container(self, schema: dict[str, Any]) -> int:
        """Of what the keywords of objects and arrays say, where the value may be one."""
        types = schema.get("type", [*_CONTAINERS, "null"])
        ways: list[list[int]] = []
        for one in types if isinstance(types, list) else [types]:
            needs, parts = self._PARTS[one](self, schema) if one in self._PARTS else ([], [])
            enough = self._rule([needs])
            ways += [[enough], *([enough, part] for part in parts)]
        return self._rule(ways)

    def _definition(self, pointer: str) -> int:
        if pointer not in self.definitions:
            self.definitions[pointer] = self._rule([])
        return self.definitions[pointer]

    def _object(self, schema: dict[str, Any]) -> tuple[list[int], list[int]]:
        """What an object cannot do without, and all that it may have."""
        named = {name: self._schema(one) for name, one in schema.get("properties", {}).items()}
        patterns = [self._schema(one) for one in schema.get("patternProperties", {}).values()]
        others = self._schema(schema.get("additionalProperties", True))
        required, parts = schema.get("required", ()), [*named.values(), *patterns, others]
        needs = [named.get(name, others) for name in required if name in named or not patterns]
        if schema.get("minProperties", 0) >= 1 and not required:
            needs.append(self._rule([[part] for part in parts]))
        return needs, parts

    def _array(self, schema: dict[str, Any]) -> tuple[list[int], list[int]]:
        """What an array cannot do without, and all that it may have."""
        first = [self._schema(one) for one in schema.get("prefixItems", ())]
        others = self._schema(schema.get("items", True))
        least = int(schema.get("minItems", 0))
        return [*first[:least], *([others] if least > len(first) else [])], [*first, others]

    def _at(self, pointer: str) -> Any:
        target = self._root
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            target = target[key] if isinstance(target, dict) else target[int(key)]
        return target

    _PARTS: ClassVar = {"object": _object, "array": _array}
