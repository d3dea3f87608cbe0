"""The forms of a weight matrix: each against the plain product, in every family, and by the bits per byte it costs."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from llmcli.model import cast, forms, pack
from llmcli.model.activations import ACTIVATIONS
from llmcli.model.checkpoint import load_model, load_packed
from llmcli.model.int4 import Int4
from llmcli.model.linear import Linear
from llmcli.model.processor import fast_float16
from llmcli.model.transformer import CausalLM
from llmcli.resolve import resolve
from llmcli.tokenizer import Tokenizer

from .conftest import Pair, assert_close, text
from .folders import copy_folder, edit_tensors
from .variants import VARIANTS

Pairs = Callable[[str], Pair]

pytestmark = pytest.mark.skipif(
    any(pack.lacking(dtype) for dtype in ("float32", "bfloat16", "float16-packed", "int8", "int4")),
    reason="this build of PyTorch, or this processor, lacks an operator of a packed form",
)

# Relative error of a product with random weights: the rounding of each format. A wrong scale would pass it by far.
ERRORS = {
    "float32": 1e-6,
    "bfloat16": 6e-3,
    "float16": 6e-3,
    "float16-packed": 6e-4,
    "int8": 3e-2,
    "int8-rows": 3e-2,
    "int4": 0.15,
}


def make(dtype: str, weight: Tensor, bias: Tensor | None) -> forms.Form:
    linear = Linear(weight.shape[1], weight.shape[0], bias is not None)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    linear.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
    form = pack.make_form(pack.Matrix("m", linear, (linear,), None), dtype, {})
    assert form is not None
    return form


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("shape", [(100, 64), (257, 96), (7, 160)])
@pytest.mark.parametrize("rows", [(1, 1), (1, 4), (1, 9), (3, 1), (2, 3), (5,)])
@torch.inference_mode()
def test_a_form_multiplies(dtype: str, shape: tuple[int, int], rows: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(shape, generator=generator) * 0.05, torch.randn(shape[0], generator=generator)
    x = torch.randn(*rows, shape[1], generator=generator)
    for each in (None, bias):
        y = make(dtype, weight, each)(x).float()
        wanted = F.linear(x, weight, each)
        assert y.shape == wanted.shape
        assert float((y - wanted).norm() / wanted.norm()) < ERRORS[dtype]


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rows", [1, 9])
@torch.inference_mode()
def test_a_form_multiplies_and_activates(dtype: str, activation: str, rows: int) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(96, 64, generator=generator) * 0.2, torch.randn(96, generator=generator)
    x = torch.randn(1, rows, 64, generator=generator)
    y = make(dtype, weight, bias).activated(x, activation).float()
    wanted = ACTIVATIONS[activation](F.linear(x, weight, bias))
    assert float((y - wanted).norm() / wanted.norm()) < ERRORS[dtype]


@pytest.mark.parametrize("dtype", ERRORS)
@torch.inference_mode()
def test_dense_is_what_is_multiplied(dtype: str) -> None:
    """The product of a form equals that of its own matrix far closer than that of the original, where 4 bits are."""
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(2)) * 0.05
    form = make(dtype, weight, None)
    x = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(3))
    wanted = F.linear(x, form.dense())
    assert float((form(x).float() - wanted).norm() / wanted.norm()) < 1e-2
    assert form.dense().shape == weight.shape


@torch.inference_mode()
def test_four_bits_need_whole_groups() -> None:
    assert isinstance(make("int4", torch.randn(8, 40), None), forms.Int8)
    assert isinstance(make("int4", torch.randn(8, 64), None), Int4)


@pytest.mark.parametrize("size", [1e5, 1e-5])
@torch.inference_mode()
def test_weights_outside_float16_are_held_in_bfloat16(size: float) -> None:
    for dtype in ("float16", "float16-packed"):
        assert isinstance(make(dtype, torch.randn(8, 8) * size, None), forms.BFloat16)


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 100)])
@torch.inference_mode()
def test_float16_is_packed_in_parts(bias: Tensor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = (torch.randn(n, 64, generator=torch.Generator().manual_seed(n)) for n in (100, 3))
    whole = make("float16-packed", weight, bias)
    monkeypatch.setattr(forms, "_PART", 30 * 64)
    parts = make("float16-packed", weight, bias)
    assert (len(whole.packed), len(parts.packed)) == (1, 4)
    assert torch.equal(parts.dense(), weight.half().float())
    torch.testing.assert_close(parts(x), whole(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "int8-rows"])
@torch.inference_mode()
def test_rows_of_int8_do_not_share_a_scale(dtype: str) -> None:
    """A row of huge activations leaves the others as exact as they are alone."""
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(4))
    form = make(dtype, weight, torch.ones(64))
    x = torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(5))
    both = form(torch.cat((x, x[:, :1] * 1e4), dim=1))
    torch.testing.assert_close(both[:, :2], form(x), rtol=1e-4, atol=1e-3)


def steps(model: CausalLM, ids: Tensor) -> Tensor:
    """The logits after each id, a decode step each."""
    cache = model.new_cache()
    return torch.cat([model(ids[:, i : i + 1], cache) for i in range(ids.shape[1])], dim=1)


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_every_family_in_packed_float32(pairs: Pairs, name: str) -> None:
    """Logits as `transformers` has them, in one pass and token by token."""
    pair = pairs(name)
    model, notes = load_packed(pair.folder, "float32")
    assert notes == []
    assert all(m.weight is None for m in model.modules() if isinstance(m, Linear))
    ids = text(24)
    assert_close(model(ids), pair.theirs(ids).logits, 1e-4)
    assert_close(steps(model, ids), model(ids), 1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float16-packed", "int8", "int8-rows", "int4"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gemma2", "olmo2", "gpt_neox", "phi3"])
@torch.inference_mode()
def test_small_forms_of_every_kind_of_block(pairs: Pairs, name: str, dtype: str) -> None:
    """These weights are random and large, so rounding shows: the distributions stay near, in one pass and by steps."""
    pair, ids = pairs(name), text(24)
    model, _ = load_packed(pair.folder, dtype)
    wanted = pair.ours(ids).log_softmax(-1)
    limit = {"bfloat16": 0.05, "float16": 0.05, "float16-packed": 1e-3, "int8": 0.1, "int8-rows": 0.1, "int4": 1.5}[
        dtype
    ]
    for logits in (model(ids), steps(model, ids)):
        divergence = F.kl_div(logits.log_softmax(-1), wanted, reduction="none", log_target=True).sum(-1)
        assert float(divergence.mean()) < limit


# --- what rounding costs real models, in bits per byte: some seconds each ---


@pytest.fixture(scope="module")
def passages(shared: Path) -> list[str]:
    """Texts that neither model was trained on."""
    import json
    import lzma

    with lzma.open(shared / "corpus/valid.jsonl.xz", "rt", encoding="utf-8") as file:
        return [json.loads(next(file))["text"][2000:3600] for _ in range(4)]


def bits_per_byte(model: CausalLM, tokenizer: Tokenizer, texts: list[str], by_steps: bool = False) -> float:
    """Over the texts, each on its own: in one pass, or a token a step as generation goes."""
    bits, size = 0.0, 0
    for each in texts:
        ids = tokenizer.encode(each, special=True)[: 72 if by_steps else 400]
        x = torch.tensor([ids])
        logits = steps(model, x) if by_steps else model(x)
        logprobs = logits[0, :-1].double().log_softmax(-1)
        bits -= float(logprobs.gather(1, x[0, 1:, None]).sum()) / math.log(2)
        size += len(tokenizer.decode(ids).encode())
    return bits / size


def real(name: str, shared: Path) -> Path:
    return resolve("stories") if name == "stories" else shared / "models" / name


LIMITS = {"float16": 0.1, "float16-packed": 0.1, "bfloat16": 0.1, "int8": 0.5, "int8-rows": 0.5, "int4": 4.0}
"""Percent of float32's bits per byte."""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["one pass", "steps", "steps in bags"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("stories", each) for each in LIMITS] + [("stories260K", each) for each in LIMITS if each != "int4"],
)
@torch.inference_mode()
def test_bits_per_byte(
    shared: Path, passages: list[str], name: str, dtype: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "steps in bags":  # from the 16th token on, as if that made a long text
        monkeypatch.setattr("llmcli.model.blocked_cache.LONG", 16)
        monkeypatch.setattr("llmcli.model.transformer.tiles", lambda: False)
    folder = real(name, shared)
    tokenizer, by_steps = Tokenizer.from_folder(folder), way != "one pass"
    texts = passages[:2] if by_steps else passages
    exact = bits_per_byte(load_model(folder), tokenizer, texts, by_steps)
    rounded = bits_per_byte(load_packed(folder, dtype)[0], tokenizer, texts, by_steps)
    assert (rounded / exact - 1) * 100 < LIMITS[dtype]


def scale_norm(tensors: dict[str, Tensor], norm: str, readers: list[str], channels: list[int], factor: float) -> None:
    """The same function with some channels of a norm's output times `factor`."""
    tensors[norm] = tensors[norm].float()
    tensors[norm][channels] *= factor
    for name in readers:
        tensors[name] = tensors[name].float()
        tensors[name][:, channels] /= factor


def with_outliers(folder: Path, target: Path, factor: float) -> Path:
    """A function-preserving variant of a Llama-family model: in each norm some channels are `factor` times larger."""

    def edit(tensors: dict[str, Tensor]) -> None:
        layers = {name.split(".")[2] for name in tensors if ".layers." in name}
        tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"].clone())
        for layer in sorted(layers):
            at = f"model.layers.{layer}."
            readers = [f"{at}self_attn.{each}_proj.weight" for each in "qkv"]
            scale_norm(tensors, f"{at}input_layernorm.weight", readers, [3, 17, 40], factor)
            readers = [f"{at}mlp.{each}_proj.weight" for each in ("gate", "up")]
            scale_norm(tensors, f"{at}post_attention_layernorm.weight", readers, [5, 21], factor)
        scale_norm(tensors, "model.norm.weight", ["lm_head.weight"], [2, 33], factor)

    return edit_tensors(copy_folder(folder, target), edit)


@pytest.mark.slow
@pytest.mark.parametrize("by_steps", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "int8-rows"])
@torch.inference_mode()
def test_int8_survives_channels_with_huge_activations(
    passages: list[str], tmp_path: Path, dtype: str, by_steps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_outliers(resolve("stories"), tmp_path / "outliers", 64.0)
    tokenizer = Tokenizer.from_folder(folder)
    exact = bits_per_byte(load_model(folder), tokenizer, passages, by_steps)
    assert exact == pytest.approx(bits_per_byte(load_model(resolve("stories")), tokenizer, passages, by_steps))
    rounded = bits_per_byte(load_packed(folder, dtype)[0], tokenizer, passages, by_steps)
    assert (rounded / exact - 1) * 100 < 2.0
    monkeypatch.setattr(pack, "UNEVEN", math.inf)  # as if nothing told the channels' sizes
    naive = bits_per_byte(load_packed(folder, dtype)[0], tokenizer, passages, by_steps)
    # By steps fbgemm fits its range to the one row, so less is lost: 0.4 % of 288 tokens, where a prompt loses 2.6.
    assert naive > rounded + (0.001 if by_steps and dtype == "int8" else 0.003) * exact


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float16-packed", "bfloat16"])
@torch.inference_mode()
def test_activations_past_what_float16_holds(passages: list[str], tmp_path: Path, dtype: str) -> None:
    """A norm whose outputs pass 65,504, and a feed-forward network whose hidden values do."""
    folder = with_outliers(resolve("stories"), tmp_path / "outliers", 1e5)

    def edit(tensors: dict[str, Tensor]) -> None:
        for name in [each for each in tensors if each.endswith("up_proj.weight")]:
            down = name.replace("up_proj", "down_proj")
            tensors[name], tensors[down] = tensors[name].float() * 3e4, tensors[down].float() / 3e4

    edit_tensors(folder, edit)
    tokenizer, texts = Tokenizer.from_folder(folder), passages[:2]
    exact = bits_per_byte(load_model(folder), tokenizer, texts, by_steps=True)
    model, _ = load_packed(folder, dtype)
    assert (bits_per_byte(model, tokenizer, texts, by_steps=True) / exact - 1) * 100 < 0.1
    exact = bits_per_byte(load_model(folder), tokenizer, texts)
    assert (bits_per_byte(model, tokenizer, texts) / exact - 1) * 100 < 0.1


@torch.inference_mode()
def test_an_overflow_repeats_the_step_and_leaves_the_cache_right(tmp_path: Path) -> None:
    folder = with_outliers(resolve("stories"), tmp_path / "outliers", 1e5)
    ids = torch.tensor([[0, 30, 31, 32, 33]])
    model, _ = load_packed(folder, "float16")
    cache = model.new_cache()
    logits = torch.cat([model(ids[:, i : i + 1], cache) for i in range(5)], dim=1)
    assert cache.length == 5
    assert model.narrow[0].wide
    assert_close(logits, load_model(folder)(ids), 2e-2)


def test_what_a_build_lacks_is_said_and_computed_plainly(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "lacking", lambda dtype: f"the {dtype} product")
    pair, ids = pairs("llama"), text(9)
    model, notes = load_packed(pair.folder, "int8")
    assert len(notes) == 1
    assert "int8" in notes[0]
    assert_close(model(ids), pair.ours(ids), 1e-5)


@pytest.mark.parametrize("by_onednn", [False, True])
@torch.inference_mode()
def test_float16_becomes_bfloat16_either_way(monkeypatch: pytest.MonkeyPatch, by_onednn: bool) -> None:
    if by_onednn and not fast_float16():
        pytest.skip("oneDNN has no instructions for float16 here")
    monkeypatch.setattr(cast, "fast_float16", lambda: by_onednn)
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)
    weight = numbers[numbers.isfinite()].view(-1, 64)  # every number of float16
    found = cast.half_to_bfloat16(weight)
    assert found.is_mkldnn == by_onednn
    assert torch.equal(found.to_dense() if by_onednn else found, weight.double().bfloat16())
