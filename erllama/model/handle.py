"""`Model`: what a program holds of a loaded model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from erllama.actor import Ref
from erllama.clock import Clock
from erllama.errors import ActorDied
from erllama.model.gauges import Gauges
from erllama.model.job import Job, Sink
from erllama.model.messages import Detokenize, Tokenize
from erllama.model.request import check_prompt, make_request
from erllama.model.stream import EventBuffer, Stream
from erllama.model.submission import Submission, crashed
from erllama.sampling import fresh_seed
from erllama.types import Completion, ModelInfo, ModelStatus


class Directory(Protocol):
    """Where a `Model` finds its actor: the Runtime."""

    clock: Clock

    async def find(self, model_id: str, timeout: float | None) -> Ref:
        """The live actor; waits while it is being restarted."""

    def gauges(self, model_id: str) -> Gauges:
        """Raises `ModelNotFound`."""

    async def unload_model(self, model_id: str) -> None:
        """Raises `ModelNotFound`."""


class Model:
    """A loaded model. Made by `Runtime.load_model`; valid until it is unloaded.

    Request options of `complete` and `stream`: the fields of `Request` (`max_tokens`, `timeout`,
    `prefill_progress`) and of `SamplingParams` (`temperature`, `top_k`, `top_p`, `min_p`, `seed`),
    or `sampling=SamplingParams(...)`.
    """

    def __init__(self, directory: Directory, model_id: str) -> None:
        self._directory = directory
        self.id = model_id

    def __repr__(self) -> str:
        return f"<Model {self.id!r}>"

    async def complete(self, prompt: str | Sequence[int], **options: Any) -> Completion:
        """Continue `prompt` and return the whole result.

        Args:
            prompt: text, or token ids.
            options: see the class.

        Raises:
            RequestError: the prompt or an option cannot be used; `PromptTooLong`.
            QueueFull: too many requests wait.
            CallTimeout: `timeout` ran out.
            ModelNotFound: the model was unloaded.
            EngineCrashed, DecodeFailed: the engine failed; after a crash the model is loaded again.
            NotSupported: this model cannot generate.
        """
        job = self._job(prompt, options, sink=None)
        submission = await self._submit(job)
        return await submission.result()

    def stream(self, prompt: str | Sequence[int], **options: Any) -> Stream:
        """Continue `prompt` and give out the result as it comes.

        Nothing is sent before the stream is first awaited. Arguments and errors are those of
        `complete`; wrong options are refused here, everything else by the first await.
        """
        events = EventBuffer()
        job = self._job(prompt, options, sink=events)
        return Stream(events, lambda: self._submit(job))

    async def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Token ids of `text`.

        Args:
            add_special: add the tokens that begin or end a text, as the model was trained.
            parse_special: take the text of special tokens for those tokens.
        """
        tokens: list[int] = await self._call(Tokenize(text, add_special, parse_special))
        return tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`, special tokens rendered.

        Raises:
            RequestError: an id outside the vocabulary.
        """
        text: str = await self._call(Detokenize(tokens))
        return text

    def status(self) -> ModelStatus:
        """What the model does now; does not wait.

        Raises:
            ModelNotFound: it was unloaded.
        """
        return self._directory.gauges(self.id).snapshot(self._directory.clock.now())

    def info(self) -> ModelInfo:
        """The model and its context.

        Raises:
            ModelNotFound: it was unloaded.
        """
        info = self._directory.gauges(self.id).info
        if info is None:
            raise AssertionError("a Model is handed out after loading")
        return info

    async def unload(self) -> None:
        """End the model's requests and free its memory.

        Raises:
            ModelNotFound: it was unloaded before.
        """
        await self._directory.unload_model(self.id)

    def _job(
        self, prompt: str | Sequence[int], options: dict[str, Any], *, sink: Sink | None
    ) -> Job:
        request = make_request(options)
        seed = request.sampling.seed
        return Job(
            prompt=check_prompt(prompt),
            request=request,
            seed=fresh_seed() if seed is None else seed,
            asked=self._directory.clock.now(),
            sink=sink,
        )

    async def _submit(self, job: Job) -> Submission:
        return Submission(await self._directory.find(self.id, job.request.timeout), job)

    async def _call(self, payload: object) -> Any:
        ref = await self._directory.find(self.id, None)
        try:
            return await ref.call(payload)
        except ActorDied as died:
            raise crashed(died) from died
