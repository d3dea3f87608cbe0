"""One head, step by step, as a textbook computes it (Vaswani et al. 2017, arXiv:1706.03762, section 3.2)."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from llmcli.errors import UsageError
from llmcli.inspect.attention import kv_head
from llmcli.inspect.document import ShownToken
from llmcli.inspect.patterns import entropies
from llmcli.inspect.running import Floats, batch_of, fitting_ids, shown_tokens
from llmcli.model.attend import attention_weights, causal_mask, full_mask
from llmcli.model.config import ModelConfig
from llmcli.model.layers import Attention as AttentionLayer
from llmcli.model.recorder import Recorder

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt


@dataclass(frozen=True)
class Step:
    """One tensor of the computation, and the operation that gave it from those before.

    values  float32; NaN where a score is masked
    """

    name: str
    operation: str
    values: Floats


@dataclass(frozen=True)
class Spread:
    """What one way of scaling does to the softmax.

    std      standard deviation of the scores of all visible pairs
    entropy  mean over queries of the entropy of the weights, bits
    """

    std: float
    entropy: float


@dataclass(frozen=True)
class HeadSteps:
    """One head computed on a text. `scale` is the factor on QK^T, 1 / sqrt(head_dim) but for a few families."""

    tokens: list[ShownToken]
    layer: int
    head: int
    kv_head: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    steps: list[Step]
    scaled: Spread
    unscaled: Spread

    def values(self, name: str) -> Floats:
        """The tensor of a step."""
        return next(step.values for step in self.steps if step.name == name)


POINTS = ("attention_norm", "query", "key", "value", "rotated_query", "rotated_key", "scores", "weights", "heads")


@torch.inference_mode()
def head_steps(pipeline: "Pipeline", text: "Prompt", *, layer: int, head: int) -> HeadSteps:
    """Every step of one head on a text, the model's own tensors.

    Raises `UsageError` for a layer or head that is not there, `ContextLengthError` for a text that is too long.
    """
    config = pipeline.model.config
    if not 0 <= layer < config.num_layers or not 0 <= head < config.num_heads:
        raise UsageError(
            f"there is no head {head} in layer {layer}", f"there are {config.num_layers} layers of {config.num_heads}"
        )
    ids = fitting_ids(pipeline, text)
    recorder = Recorder({"embedding", "block", *POINTS}, {layer: [head]})
    pipeline.model.hidden_states(batch_of(pipeline, ids), tap=recorder)
    module = cast(AttentionLayer, pipeline.model.blocks[layer].attention)
    products = _products(recorder, config, layer, head)
    mask = full_mask(
        causal_mask(len(ids), len(ids), module.window, products.device), products[None, None], products[None, None]
    )
    scores = recorder["scores", layer][0, 0].float()
    return HeadSteps(
        tokens=shown_tokens(pipeline, ids),
        layer=layer,
        head=head,
        kv_head=kv_head(config, head),
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        scale=module.scale,
        steps=_steps(recorder, config, module, head, products, mask),
        scaled=_spread(scores, mask),
        unscaled=_spread(products, mask),
    )


def _products(recorder: Recorder, config: ModelConfig, layer: int, head: int) -> Tensor:
    """QK^T of the head, (queries, keys) float32, before any scale."""
    q = recorder["rotated_query", layer][0, head].float()
    return q @ recorder["rotated_key", layer][0, kv_head(config, head)].float().T


def _steps(
    recorder: Recorder, config: ModelConfig, module: AttentionLayer, head: int, products: Tensor, mask: Tensor
) -> list[Step]:
    layer, d, hidden = module.layer, config.head_dim, config.hidden_size
    group = kv_head(config, head)
    entering = recorder["embedding", -1] if layer == 0 else recorder["block", layer - 1]
    scores = recorder["scores", layer][0, 0].float()
    summed = recorder["heads", layer][0, head]
    output = _projected(module, summed, head)
    matrix = f"({hidden}, {d})"
    extra = (" + bias" if config.qkv_bias else "") + (", normed" if config.qk_norm != "none" else "")
    bias = " + bias" if config.qkv_bias else ""
    norm = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}[config.norm]
    named = [("hidden states", "what enters the block", entering[0])]
    if config.norm_placement != "post":
        named.append(("normed", f"{norm} of the hidden states", recorder["attention_norm", layer][0]))
    source = named[-1][0]
    named += [
        ("Q", f"{source} x W_Q {matrix} of head {head}{extra}", recorder["query", layer][0, head]),
        ("K", f"{source} x W_K {matrix} of kv head {group}{extra}", recorder["key", layer][0, group]),
        ("V", f"{source} x W_V {matrix} of kv head {group}{bias}", recorder["value", layer][0, group]),
    ]
    q, k = "Q", "K"
    if config.rotates(layer):
        q, k = "rotated Q", "rotated K"
        named += [
            (
                q,
                "Q, channel pairs rotated by position",
                recorder["rotated_query", layer][0, head],
            ),
            (k, "K, rotated likewise; V is not", recorder["rotated_key", layer][0, group]),
        ]
    cap = (
        f", then {config.attention_softcap:g} tanh(. / {config.attention_softcap:g})"
        if config.attention_softcap
        else ""
    )
    named += [
        ("QK^T", f"{q} x {k} transposed ({d}, {len(products)})", products),
        ("scores", f"QK^T x {module.scale:.4g}{_meaning(module.scale, d)}{cap}", scores),
        (
            "masked scores",
            "scores, later tokens struck out" + _window(module.window),
            scores.masked_fill(~mask, math.nan),
        ),
        ("weights", "softmax of each row: positive, sums to 1", recorder["weights", layer][0, 0]),
        ("weighted sum", f"weights x V ({len(products)}, {d})", summed),
        ("output", f"weighted sum x W_O ({d}, {hidden}), the rows of head {head}", output),
    ]
    return [Step(name, operation, tensor.float().cpu().numpy()) for name, operation, tensor in named]


def _projected(module: AttentionLayer, summed: Tensor, head: int) -> Tensor:
    """What one head's weighted sum (n, head_dim) becomes in the output projection, without its bias: (n, hidden)."""
    alone = torch.zeros(len(summed), module.num_heads, module.head_dim, dtype=summed.dtype, device=summed.device)
    nothing = module.o(alone.flatten(1))
    alone[:, head] = summed
    return cast(Tensor, module.o(alone.flatten(1)) - nothing)


def _meaning(scale: float, d: int) -> str:
    return f" = 1/sqrt({d})" if math.isclose(scale, d**-0.5, rel_tol=1e-6) else ", this family's own scale"


def _window(window: int | None) -> str:
    return "" if window is None else f", and those more than {window - 1} before"


def _spread(scores: Tensor, mask: Tensor) -> Spread:
    visible = scores[mask].double()
    weights = attention_weights(scores, mask).float().cpu().numpy()
    return Spread(float(visible.std(correction=0)), float(np.mean(entropies(weights))))
