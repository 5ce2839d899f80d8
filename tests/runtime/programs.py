"""What tests run in processes of their own."""

from __future__ import annotations

import asyncio
from typing import TypedDict

from erllama import NotSupported, Runtime


class Words(TypedDict):
    """What `use_vocabulary_alone` found."""

    error: str
    text: str
    n_ctx: int


def use_vocabulary_alone(path: str) -> Words:
    """Load only the vocabulary of a model, tokenize with it, and ask it to complete."""

    async def main() -> Words:
        async with Runtime() as runtime:
            model = await runtime.load_model(path, vocab_only=True)
            tokens = await model.tokenize("hello", add_special=False)
            text = await model.detokenize(tokens)
            try:
                await model.complete("hello")
            except NotSupported as refused:
                return {"error": str(refused), "text": text, "n_ctx": model.info().n_ctx}
            raise AssertionError("a vocabulary completed a prompt")

    return asyncio.run(main())
