"""Show a text while it is written: `python examples/streaming.py [MODEL]`."""

from __future__ import annotations

import asyncio
import sys

import erllama


async def main(path: str) -> None:
    async with (
        erllama.load(path) as model,
        model.stream("Once upon a time", max_tokens=64, seed=1) as stream,
    ):
        async for event in stream:
            match event:
                case erllama.Text(text):
                    print(text, end="", flush=True)
                case erllama.Done(completion):
                    print(f"\n[{completion.finish_reason}]")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else str(erllama.bundled_model())))
