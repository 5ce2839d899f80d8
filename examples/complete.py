"""Complete a text: `python examples/complete.py [MODEL]`."""

from __future__ import annotations

import asyncio
import sys

import erllama


async def main(path: str) -> None:
    async with erllama.load(path) as model:
        completion = await model.complete("Once upon a time", max_tokens=32, seed=1)
    print(completion.text)
    print(
        f"{completion.usage.completion_tokens} tokens, {completion.finish_reason}; "
        f"first after {completion.timings.ttft_ms:.0f} ms",
        file=sys.stderr,
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else str(erllama.bundled_model())))
