"""Every option of every configuration holds its limits and explains itself."""

from __future__ import annotations

import pathlib
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from erllama.checked import Checked, describe
from erllama.config import ContextConfig, ModelConfig, RuntimeConfig
from erllama.errors import ConfigError
from erllama.sampling import SamplingParams

STRUCTS: tuple[type[Checked], ...] = (ModelConfig, ContextConfig, RuntimeConfig, SamplingParams)
FIELDS = [(struct, name) for struct in STRUCTS for name in struct.__struct_fields__]
Case = tuple[type[Checked], str, Any]


def metas(hint: Any) -> Iterator[msgspec.Meta]:
    """The limits of a field itself, not of the items in it."""
    for found in getattr(hint, "__metadata__", ()):
        if isinstance(found, msgspec.Meta):
            yield found
    for part in typing.get_args(hint):
        if typing.get_origin(part) is not tuple and part is not Ellipsis:
            yield from metas(part)


def limits(struct: type[Checked], name: str) -> tuple[list[Any], list[Any]]:
    """Values just inside and just outside the limits of a field."""
    inside: list[Any] = []
    outside: list[Any] = []
    for meta in metas(typing.get_type_hints(struct, include_extras=True)[name]):
        step = meta.multiple_of or 1
        if meta.ge is not None:
            inside.append(meta.ge)
            outside.append(meta.ge - step)
        if meta.gt is not None:
            inside.append(meta.gt + 1e-6)
            outside.append(meta.gt)
        if meta.le is not None:
            inside.append(meta.le)
            outside.append(meta.le + step)
        if meta.multiple_of is not None:
            outside.append(meta.multiple_of + 1)
        if meta.min_length is not None:
            outside.append("x" * (meta.min_length - 1))
        if meta.max_length is not None and name != "tensor_split":
            outside.append("x" * (meta.max_length + 1))
    return inside, outside


INSIDE: list[Case] = [(s, n, value) for s, n in FIELDS for value in limits(s, n)[0]]
OUTSIDE: list[Case] = [(s, n, value) for s, n in FIELDS for value in limits(s, n)[1]]


def test_the_limits_were_found() -> None:
    assert len(INSIDE) > 30
    assert len(OUTSIDE) > 35


@pytest.mark.parametrize(("struct", "name", "value"), INSIDE)
def test_a_value_at_its_limit_is_accepted(struct: type[Checked], name: str, value: Any) -> None:
    assert getattr(struct(**{name: value}), name) == value


@pytest.mark.parametrize(("struct", "name", "value"), OUTSIDE)
def test_a_value_past_its_limit_is_refused(struct: type[Checked], name: str, value: Any) -> None:
    with pytest.raises(struct.error) as refused:
        struct(**{name: value})
    assert str(refused.value).startswith(f"{struct.__name__}.{name}: expected ")
    assert describe(struct)[name] in str(refused.value)


@pytest.mark.parametrize(("struct", "name"), FIELDS)
def test_every_field_has_a_description_that_is_a_sentence(struct: type[Checked], name: str) -> None:
    text = describe(struct)[name]
    assert text.endswith(".")
    assert text[0].isupper()


@pytest.mark.parametrize(("struct", "name"), FIELDS)
def test_every_field_refuses_what_is_of_no_type(struct: type[Checked], name: str) -> None:
    with pytest.raises(struct.error, match=rf"{struct.__name__}\.{name}"):
        struct(**{name: object()})


@pytest.mark.parametrize("struct", STRUCTS)
def test_all_defaults_are_valid_and_can_be_copied(struct: type[Checked]) -> None:
    assert struct(**msgspec.structs.asdict(struct())) == struct()


@pytest.mark.parametrize(
    ("struct", "name", "choices"),
    [
        (ModelConfig, "split_mode", "'none', 'layer', 'row', 'tensor'"),
        (ModelConfig, "fingerprint_mode", "'safe', 'gguf_chunked', 'fast_unsafe'"),
        (ContextConfig, "type_k", "'f32', 'f16', 'bf16', 'q8_0', 'q5_1', 'q5_0', 'q4_1', 'q4_0'"),
        (ContextConfig, "rope_scaling", "'none', 'linear', 'yarn', 'longrope'"),
    ],
)
def test_a_wrong_choice_lists_the_right_ones(
    struct: type[Checked], name: str, choices: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        struct(**{name: "wrong"})
    assert f"expected one of {choices}, got 'wrong'" in str(refused.value)


@pytest.mark.parametrize(
    ("struct", "wrong", "right"),
    [
        (ModelConfig, "gpu_layer", "gpu_layers"),
        (ContextConfig, "nctx", "n_ctx"),
        (RuntimeConfig, "cachedir", "cache_dir"),
    ],
)
def test_an_unknown_option_names_the_nearest(struct: type[Checked], wrong: str, right: str) -> None:
    with pytest.raises(TypeError, match=f"did you mean '{right}'"):
        struct(**{wrong: 1})


def test_a_fingerprint_belongs_to_its_mode() -> None:
    for options in ({"fingerprint": "mine"}, {"fingerprint_mode": "fast_unsafe"}):
        with pytest.raises(ConfigError, match=r"ModelConfig\.fingerprint: give it together"):
            ModelConfig(**options)  # type: ignore[arg-type]
    assert ModelConfig(fingerprint="mine", fingerprint_mode="fast_unsafe").fingerprint == "mine"


def test_a_quantized_v_cache_needs_flash_attention() -> None:
    with pytest.raises(ConfigError, match="q8_0 needs flash attention"):
        ContextConfig(type_v="q8_0", flash_attn=False)
    assert ContextConfig(type_v="q8_0", flash_attn=None).type_v == "q8_0"
    assert ContextConfig(type_v="bf16", flash_attn=False).type_v == "bf16"


def test_a_tensor_split_holds_its_limits() -> None:
    assert ModelConfig(tensor_split=(1, 0.5)).tensor_split == (1.0, 0.5)
    for wrong in ((-1.0,), (1.0,) * 17, ("a",), 1.0):
        with pytest.raises(ConfigError, match=r"ModelConfig\.tensor_split"):
            ModelConfig(tensor_split=wrong)  # type: ignore[arg-type]


def test_a_path_is_accepted_for_the_cache_folder() -> None:
    config = RuntimeConfig(cache_dir=pathlib.Path("some") / "where")  # type: ignore[arg-type]
    assert config.cache_dir == "some/where"
