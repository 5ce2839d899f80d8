"""`Model`: what a program holds of a loaded model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Unpack, overload

from erllama.actor import Ref
from erllama.checked import shown
from erllama.clock import Clock
from erllama.errors import (
    ActorDied,
    Busy,
    CallTimeout,
    MailboxFull,
    QueueFull,
    RequestError,
)
from erllama.model.adapter_options import check_adapter, check_scale, file_path
from erllama.model.chat import chat_prompt, has_tools, remember, render, thinking_variables
from erllama.model.chat_memory import ChatMemory
from erllama.model.embed_job import EmbedJob, check_inputs
from erllama.model.gauges import Gauges
from erllama.model.job import Job
from erllama.model.messages import (
    CachedPrefix,
    Detokenize,
    Embed,
    EndSession,
    Evict,
    LoadAdapter,
    SetAdapterScale,
    Tokenize,
    UnloadAdapter,
)
from erllama.model.request import (
    Prompt,
    Request,
    check_ids,
    check_prompt,
    check_text,
    check_timeout,
    make_request,
)
from erllama.model.stream import EventBuffer, Stream
from erllama.model.submission import Submission, crashed
from erllama.model.verify import judge
from erllama.option_types import DraftOptions, RequestOptions, SessionlessOptions
from erllama.sampling import fresh_seed
from erllama.sampling.params import MAX_SEED
from erllama.types import Adapter, Completion, ModelInfo, ModelStatus, Prefill, Verified

_MOST_COMPLETIONS = 256


class Directory(Protocol):
    """Where a `Model` finds its actor: the Runtime."""

    clock: Clock

    async def find(self, model_id: str, timeout: float | None) -> Ref:
        """The live actor; waits while it is being restarted."""

    def gauges(self, model_id: str) -> Gauges:
        """Raises `ModelNotFound`."""

    def chats(self, model_id: str) -> ChatMemory:
        """Raises `ModelNotFound`."""

    async def unload_model(self, model_id: str) -> None:
        """Raises `ModelNotFound`."""


class Model:
    """A loaded model. Made by `Runtime.load_model`; valid until it is unloaded.

    Request options of `complete`, `stream`, `chat` and `stream_chat` (`RequestOptions` as a type,
    for functions that pass them on): the fields of `Request`
    (`max_tokens`, `stop`, `stop_token_ids`, `timeout`, `prefill_progress`, `stream_buffer`,
    `parent_key`, `session_id`, `priority`, `cache_salt`, `exact`, `thinking`,
    `thinking_budget_tokens`) and of `SamplingParams` (`temperature`, `top_k`, `top_p`, `min_p`,
    `typical_p`, `repeat_penalty`, `repeat_last_n`, `frequency_penalty`, `presence_penalty`,
    `dry_multiplier`, `dry_base`, `dry_allowed_length`, `dry_penalty_last_n`,
    `dry_sequence_breakers`, `xtc_probability`, `xtc_threshold`, `mirostat`, `mirostat_tau`,
    `mirostat_eta`, `logit_bias`, `ignore_eos`, `logprobs`, `grammar`, `json_schema`,
    `json_whitespace`, `regex`, `seed`), or `sampling=SamplingParams(...)`.
    """

    def __init__(self, directory: Directory, model_id: str) -> None:
        self._directory = directory
        self.id = model_id

    def __repr__(self) -> str:
        return f"<Model {self.id!r}>"

    async def complete(
        self, prompt: str | Sequence[int], **options: Unpack[RequestOptions]
    ) -> Completion:
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
        job = self._job(prompt, options)
        submission = await self._submit(job)
        return await submission.result()

    async def completions(
        self, prompt: str | Sequence[int], *, n: int, **options: Unpack[SessionlessOptions]
    ) -> list[Completion]:
        """Continue `prompt` in `n` ways, side by side as far as there are sequences.

        A prompt of at least 128 tokens is computed once, where rows are cached; the others have
        it restored. If one fails or the call is cancelled, all end.

        Args:
            prompt: text, or token ids.
            n: how many, 1 to 256.
            options: those of `complete`, but `session_id`. With `seed` the i-th completion, from 0,
                is that of `complete` with `seed + i`.

        Raises:
            As `complete`.
        """
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= _MOST_COMPLETIONS:
            raise RequestError(f"n: expected an int from 1 to {_MOST_COMPLETIONS}, got {shown(n)}")
        _check_no_session(options, "completions")
        jobs = [self._job(prompt, options) for _ in range(n)]
        if jobs[0].request.sampling.seed is not None:
            for i, job in enumerate(jobs):
                job.seed = (job.seed + i) % (MAX_SEED + 1)
        tasks = [asyncio.create_task(self._answer(job)) for job in jobs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, job: Job) -> Completion:
        return await (await self._submit(job)).result()

    def stream(self, prompt: str | Sequence[int], **options: Unpack[RequestOptions]) -> Stream:
        """Continue `prompt` and give out the result as it comes.

        Nothing is sent before the stream is first awaited. Arguments and errors are those of
        `complete`; wrong options are refused here, everything else by the first await.
        """
        job = self._job(prompt, options)
        job.sink = events = EventBuffer(job.request.stream_buffer)
        return Stream(events, lambda: self._submit(job))

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        **options: Unpack[RequestOptions],
    ) -> Completion:
        """The assistant's next message of a chat.

        Thinking and calls of tools are told apart from the text by the model's markers
        (`info().thinking_markers`, `info().tool_call_markers`). Where the chat goes on an earlier
        one of this model, as its template writes it, the earlier tokens are used as they were, so
        the cache has them. A reply is written back best as the model wrote it: its `content` with
        `text`, and in the names that the template has for them, `thinking` and `tool_calls`.

        Args:
            messages, tools, variables: those of `apply_chat_template`.
            options: see the class.

        Raises:
            NotSupported: the model has no chat template.
            As `complete`; a `RequestError` also for messages or tools that cannot be used.
        """
        job = self._chat_job(make_request(options))
        submission = await self._submit_chat(job, messages, tools, variables)
        return await submission.result()

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        **options: Unpack[RequestOptions],
    ) -> Stream:
        """`chat`, given out as it comes.

        Nothing is sent before the stream is first awaited; wrong options are refused here,
        everything else by the first await.
        """
        job = self._chat_job(make_request(options))
        job.sink = events = EventBuffer(job.request.stream_buffer)
        return Stream(events, lambda: self._submit_chat(job, messages, tools, variables))

    async def prefill(
        self, prompt: str | Sequence[int], **options: Unpack[RequestOptions]
    ) -> Prefill:
        """Compute `prompt` and keep it in the cache; nothing is generated.

        It is there when this returns, in memory; `Cache.flush` waits until it is in files too.
        Arguments and errors are those of `complete`; sampling options change nothing.
        """
        job = self._job(prompt, options, prefill_only=True)
        done = await (await self._submit(job)).result()
        return Prefill(
            finish_key=done.finish_key,
            context_tokens=done.context_tokens,
            cache=done.cache,
            timings=done.timings,
        )

    async def cached_prefix(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, from the first on, need not be computed here.

        Of what was computed before this call and is still being saved, what begins like `tokens`
        is waited for.

        Raises:
            RequestError: no token ids.
        """
        found: int = await self._call(CachedPrefix(check_ids(tokens, name="tokens")))
        return found

    async def draft(
        self, tokens: Sequence[int], n: int, **options: Unpack[DraftOptions]
    ) -> list[int]:
        """The `n` tokens that the model itself would go on with, or fewer if it ends before.

        Args:
            tokens: the context.
            n: at least 1.
            options: those of `complete`, but `session_id`; greedy unless they say otherwise.

        Raises:
            As `complete`.
        """
        _check_no_session(options, "draft")
        chosen: DraftOptions = {"temperature": 0, **options}
        done = await self.complete(check_ids(tokens, name="tokens"), max_tokens=n, **chosen)
        return done.tokens

    async def verify(
        self,
        tokens: Sequence[int],
        candidates: Sequence[int],
        **options: Unpack[SessionlessOptions],
    ) -> Verified:
        """How many of `candidates` the model would have chosen itself, in one forward pass.

        Nothing is generated, and the context that `tokens` stand for is untouched wherever it is.

        Args:
            tokens: the context; at least one.
            candidates: token ids that may follow it, such as another model's `draft`.
            options: those of `complete` that concern neither sampling nor sessions.

        Raises:
            As `complete`.
        """
        _check_no_session(options, "verify")
        context = check_ids(tokens, name="tokens")
        guessed = check_ids(candidates, name="candidates")
        if not context:
            raise RequestError("tokens: is empty; give at least one token")
        job = self._job(context + guessed, options, prefill_only=True)
        job.verify_from = len(context) - 1
        await (await self._submit(job)).result()
        return judge(guessed, job.likeliest)

    @overload  # a str is a Sequence[str] too, but this one comes first
    async def embed(  # type: ignore[overload-overlap]
        self, prompt: str | Sequence[int], *, normalize: bool = True, timeout: float | None = None
    ) -> list[float]: ...

    @overload
    async def embed(
        self,
        prompt: Sequence[str] | Sequence[Sequence[int]],
        *,
        normalize: bool = True,
        timeout: float | None = None,
    ) -> list[list[float]]: ...

    async def embed(
        self,
        prompt: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]],
        *,
        normalize: bool = True,
        timeout: float | None = None,
    ) -> list[float] | list[list[float]]:
        """The vector of a prompt; of a list of prompts a list of vectors.

        The vectors of a prompt's tokens are pooled as the model was trained (`info().pooling`); a
        model that pools by `rank` gives the scores of its classifier, which are never normalised.
        A decoder has to be loaded with `embeddings=True`. Requests go on in between.

        Args:
            prompt: text, or token ids; or a list (or tuple) of such, at most 10,000, which are
                computed up to `n_seq_max` at a time.
            normalize: scale each vector to length 1 (Euclidean).
            timeout: seconds to wait; None: no limit.

        Raises:
            RequestError: a prompt cannot be used; `PromptTooLong`.
            QueueFull: too many calls wait.
            CallTimeout: `timeout` ran out.
            NotSupported: this model cannot embed.
            ModelNotFound: the model was unloaded.
            EngineCrashed, EngineStuck, DecodeFailed: the engine failed.
        """
        prompts, many = check_inputs(prompt)
        check_timeout(timeout)
        ref = await self._directory.find(self.id, timeout)
        try:
            vectors = await ref.call(Embed(EmbedJob(prompts, bool(normalize))), timeout=timeout)
        except CallTimeout:
            raise CallTimeout(f"timeout: the vectors were not there after {timeout:g} s") from None
        except MailboxFull as full:
            raise QueueFull(f"{full}; try again later", retry_after=1.0) from None
        except ActorDied as died:
            raise crashed(died) from died
        found: list[list[float]] = vectors
        return found if many else found[0]

    async def load_adapter(self, path: str | os.PathLike[str], *, scale: float = 1.0) -> Adapter:
        """Load a LoRA adapter in GGUF; every request that comes after has it.

        Requests that came before go on without it, side by side with the new ones. Rows in the
        cache are told apart by the adapters' bytes and scales.

        Args:
            path: the file, as `convert_lora_to_gguf.py` of llama.cpp makes it.
            scale: how strongly it is in force; 0: not at all.

        Raises:
            ModelLoadError: the file cannot be read, or was not made for this model.
            RequestError: a scale that is no number up to a million; too many adapters.
            NotSupported: this model takes no adapters.
            ModelNotFound: the model was unloaded.
        """
        message = LoadAdapter(str(file_path(path)), check_scale(scale))
        adapter: Adapter = await self._call(message)
        return adapter

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Have new requests do without an adapter.

        Requests that have it keep it; behind the last of them its memory is freed.

        Raises:
            RequestError: it is not loaded.
        """
        await self._call(UnloadAdapter(check_adapter(adapter).id))

    async def set_adapter_scale(self, adapter: Adapter, scale: float) -> None:
        """Have new requests use an adapter with another scale; see `load_adapter`.

        Raises:
            RequestError: it is not loaded, or the scale cannot be used.
        """
        await self._call(SetAdapterScale(check_adapter(adapter).id, check_scale(scale)))

    def adapters(self) -> list[Adapter]:
        """The adapters in force for new requests, in the order of loading; does not wait.

        Raises:
            ModelNotFound: the model was unloaded.
        """
        return list(self._directory.gauges(self.id).adapters)

    async def end_session(self, session_id: str) -> None:
        """Forget a session: its sequence is free. What was computed stays in the cache.

        Raises:
            SessionBusy: a request of the session is running.
            RequestError: `session_id` is no text.
        """
        await self._call(EndSession(check_text(session_id, name="session_id")))

    async def evict(self) -> None:
        """Wait until the requests that run now are over and what they computed is in the cache.

        Streams that wait for their readers are not waited for: what they have so far is saved.
        Idle sessions give up their sequences.
        """
        await self._call(Evict())

    async def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Token ids of `text`.

        Args:
            add_special: as `complete` has a prompt: with the token for the beginning, where the
                model was trained with one and the text does not spell it, and without one for the
                end. Of an encoder as `embed` has it: with all that it was trained with.
            parse_special: take the text of special tokens for those tokens.

        Raises:
            RequestError: no text, or one with half of a surrogate pair.
        """
        message = Tokenize(check_text(text), bool(add_special), bool(parse_special))
        tokens: list[int] = await self._call(message)
        return tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`, special tokens rendered.

        Raises:
            RequestError: no token ids, or one outside the vocabulary.
        """
        text: str = await self._call(Detokenize(check_ids(tokens, name="tokens")))
        return text

    async def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a chat, written as the model's chat template writes it.

        Args:
            messages: what was said, such as `[{"role": "user", "content": "Hello"}]`.
            tools: descriptions of the tools that the model may call, as JSON schemas.
            add_generation_prompt: end with what introduces the assistant's next message.
            variables: more variables for the template, such as `{"enable_thinking": True}`.

        Raises:
            NotSupported: the model has no chat template.
            RequestError: the messages cannot be used, or the template fails.
            ModelNotFound: the model was unloaded.
        """
        info = self.info()
        text = await render(
            info,
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            variables=variables,
        )
        return await self._ids(text, True)

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
            Busy: it is being loaded for the first time.
        """
        info = self._directory.gauges(self.id).info
        if info is None:
            raise Busy(f"model {self.id!r} is still being loaded; wait for load_model")
        return info

    async def unload(self) -> None:
        """End the model's requests and free its memory.

        Raises:
            ModelNotFound: it was unloaded before.
        """
        await self._directory.unload_model(self.id)

    def _job(
        self,
        prompt: str | Sequence[int],
        options: Mapping[str, Any],
        *,
        prefill_only: bool = False,
    ) -> Job:
        return self._make_job(check_prompt(prompt), make_request(options), prefill_only)

    def _make_job(self, prompt: Prompt, request: Request, prefill_only: bool = False) -> Job:
        seed = request.sampling.seed
        return Job(
            prompt=prompt,
            request=request,
            seed=fresh_seed(os.urandom(8)) if seed is None else seed,
            asked=self._directory.clock.now(),
            sink=None,
            prefill_only=prefill_only,
        )

    def _chat_job(self, request: Request) -> Job:
        job = self._make_job("", request)
        job.marked = True
        return job

    async def _submit_chat(
        self,
        job: Job,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
    ) -> Submission:
        info, memory = self.info(), self._directory.chats(self.id)
        text = await render(
            info,
            messages,
            tools=tools,
            add_generation_prompt=True,
            variables=variables,
            defaults=thinking_variables(job.request),
        )
        prompt = await chat_prompt(
            info,
            memory,
            text,
            salt=job.request.cache_salt,
            tokenize=self._ids,
            detokenize=self.detokenize,
        )
        job.continue_chat(prompt.tokens, text=prompt.text, keys=prompt.keys, tools=has_tools(tools))
        submission = await self._submit(job)
        submission.reply.add_done_callback(lambda reply: remember(memory, prompt, job, reply))
        return submission

    async def _ids(self, text: str, add_special: bool) -> list[int]:
        return await self.tokenize(text, add_special=add_special)

    async def _submit(self, job: Job) -> Submission:
        return Submission(await self._directory.find(self.id, job.request.timeout), job)

    async def _call(self, payload: object) -> Any:
        ref = await self._directory.find(self.id, None)
        try:
            return await ref.call(payload)
        except ActorDied as died:
            raise crashed(died) from died


def _check_no_session(options: Mapping[str, Any], what: str) -> None:
    """Refuse what would leave guesses in a session.

    Raises:
        RequestError: a session is named.
    """
    if options.get("session_id") is not None:
        raise RequestError(
            f"session_id: {what} leaves every session as it is; leave it out, the context is found "
            "in the cache"
        )
