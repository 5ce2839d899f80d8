"""The commands and their options."""

from __future__ import annotations

import logging
import pathlib
from typing import Annotated, Any

import typer

from erllama.bundled import bundled_model
from erllama.checked import describe
from erllama.cli.cache import collect_rows, list_rows, verify_rows
from erllama.cli.info import show_info
from erllama.cli.interrupts import run_command
from erllama.cli.run import RunOptions
from erllama.cli.run import run as run_model
from erllama.cli.version import show_version
from erllama.config import ContextConfig
from erllama.errors import ConfigError, RequestError
from erllama.model.request import Request
from erllama.sampling import SamplingParams

app = typer.Typer(
    help="Run language models on llama.cpp.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        raise typer.Exit(run_command(lambda _: show_version()))


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            help="Show the versions of erllama, llama-cpp-python and llama.cpp, and what they use "
            "of the processor.",
        ),
    ] = False,
) -> None:
    """Options of `erllama` itself."""


_SAMPLING = describe(SamplingParams)
_DEFAULTS = SamplingParams()


def _sampling_option(name: str) -> Any:
    default = getattr(_DEFAULTS, name)
    text = _SAMPLING[name] + ("" if default is None else f" Default: {default}.")
    return typer.Option(f"--{name.replace('_', '-')}", help=text)


Json = Annotated[bool, typer.Option("--json", help="Write JSON, one object per line.")]


def _hush(quiet: bool) -> bool:
    if quiet:
        logging.getLogger("erllama").setLevel(logging.ERROR)
    return quiet


Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show neither progress nor warnings.", callback=_hush),
]


@app.command()
def run(
    first: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="A GGUF file; the bundled model if left out. A sole argument is the MODEL if it "
            "is an existing file or ends in .gguf, else the PROMPT.",
        ),
    ] = None,
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            show_default=False,
            help="The text to continue; '-' reads it from standard input, without its last "
            "newline. Left out: a chat, in which every line of standard input is a turn.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", "-n", help=describe(Request)["max_tokens"]),
    ] = None,
    temperature: Annotated[float | None, _sampling_option("temperature")] = None,
    top_k: Annotated[int | None, _sampling_option("top_k")] = None,
    top_p: Annotated[float | None, _sampling_option("top_p")] = None,
    min_p: Annotated[float | None, _sampling_option("min_p")] = None,
    seed: Annotated[int | None, _sampling_option("seed")] = None,
    n_ctx: Annotated[
        int | None,
        typer.Option("--n-ctx", "-c", help=describe(ContextConfig)["n_ctx"]),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", "-t", help=describe(ContextConfig)["n_threads"]),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", help="What the model is told before a chat; implies --chat."),
    ] = None,
    think: Annotated[
        bool | None,
        typer.Option(
            "--think/--no-think",
            show_default=False,
            help="Whether the model is asked to think; implies --chat.",
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Answer PROMPT as a user's message instead of continuing it."),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Continue a text, or chat.

    Ctrl-C stops a reply; a second one, or one at the prompt, leaves.
    """
    path, prompt = _model_and_prompt(first, second)
    sampling = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
    }
    try:
        options = RunOptions(
            path=path,
            prompt=prompt,
            context=ContextConfig(n_ctx=n_ctx, n_threads=threads),
            sampling=SamplingParams(**_given(sampling)),
            max_tokens=Request(max_tokens=max_tokens).max_tokens,
            system=system,
            think=think,
            answer=chat or system is not None or think is not None,
            json=json,
            quiet=quiet,
        )
    except (ConfigError, RequestError) as wrong:
        raise typer.BadParameter(str(wrong)) from None
    raise typer.Exit(run_command(lambda interrupts: run_model(options, interrupts)))


@app.command()
def info(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A GGUF file.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a model file is, after loading it."""
    path = pathlib.Path(model)
    raise typer.Exit(run_command(lambda _: show_info(path, json=json, quiet=quiet)))


cache_app = typer.Typer(help="Look after the KV cache on disk.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

CacheDir = Annotated[
    str | None,
    typer.Option("--cache-dir", help="The cache_dir of the runtime; by default that of `run`."),
]


@cache_app.command("ls")
def cache_ls(cache_dir: CacheDir = None, json: Json = False) -> None:
    """List the rows: their place in the context, size, hits, age and tier."""
    raise typer.Exit(run_command(lambda _: list_rows(cache_dir, json=json)))


@cache_app.command("verify")
def cache_verify(cache_dir: CacheDir = None, json: Json = False) -> None:
    """Read every row back and check it; bad ones are moved aside."""
    raise typer.Exit(run_command(lambda _: verify_rows(cache_dir, json=json)))


@cache_app.command("gc")
def cache_gc(cache_dir: CacheDir = None, json: Json = False) -> None:
    """Remove rows that no prompt can reach any more."""
    raise typer.Exit(run_command(lambda _: collect_rows(cache_dir, json=json)))


def _model_and_prompt(first: str | None, second: str | None) -> tuple[pathlib.Path, str | None]:
    if first is None:
        return bundled_model(), None
    if second is not None or first.endswith(".gguf") or _is_file(first):
        return pathlib.Path(first), second
    return bundled_model(), first


def _is_file(text: str) -> bool:
    try:
        return pathlib.Path(text).is_file()
    except OSError:  # a prompt can be too long for a file's name
        return False


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
