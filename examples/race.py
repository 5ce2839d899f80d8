"""Two requests race, the loser is cancelled: `python examples/race.py [MODEL]`.

A model computes one request at a time, so the file is loaded twice; its weights are in memory
once. The two take turns at the process's one compute thread.
"""

from __future__ import annotations

import asyncio
import sys

import erllama

LENGTHS = {"short": 16, "long": None}  # None: until the model ends or its context is full


async def main(path: str) -> None:
    async with erllama.Runtime() as runtime:
        models = [await runtime.load_model(path, model_id=name) for name in LENGTHS]
        racers = {
            asyncio.create_task(
                model.complete("Once upon a time", max_tokens=LENGTHS[model.id], seed=1)
            ): model
            for model in models
        }
        done, others = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()  # ends its request within one step of the engine
        await asyncio.gather(*others, return_exceptions=True)
        for task in done:
            print(f"{racers[task].id} won with {len(task.result().tokens)} tokens")
        for task in others:
            print(f"{racers[task].id} was cancelled: {task.cancelled()}")
        # its model is free again at once
        again = await runtime.model("long").complete("The end", max_tokens=4, seed=1)
        print(f"long is free again, and wrote {len(again.tokens)} tokens")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else str(erllama.bundled_model())))
