"""The guided walk from a text to its next token, stage by stage, with the model's own numbers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from llmcli.errors import UsageError
from llmcli.inspect.explain_block import OpenedBlock, WalkRecorder, block_order, lengths, norm_stage
from llmcli.inspect.explain_stages import (
    FIRST,
    IN_BLOCK,
    BlockRow,
    Blocks,
    Decoding,
    Embedding,
    Encoding,
    Exponential,
    LmHead,
    Norm,
    Sampling,
    Softmax,
    Stage,
    Walk,
)
from llmcli.inspect.funnel import Candidate, entropy_bits, funnel
from llmcli.inspect.lens import lens
from llmcli.inspect.logits import FunnelToken, most_probable
from llmcli.inspect.running import Floats, batch_of, fitting_ids, last_logits, shown_token, shown_tokens
from llmcli.sampling_params import SamplingParams, merged

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt

NAMES = ("encoding", "embedding", "block", *IN_BLOCK, "blocks", "lm_head", "softmax", "sampling", "decoding")
"""What `only` may name: kinds of stages, or `block`, all stages of the opened block."""

_OF_THE_WHOLE_TEXT = ("seed", "max_tokens", "stop", "ignore_eos", "logprobs")
"""Sampling parameters that change nothing about one draw, and the seed, which is told beside it."""


@torch.inference_mode()
def explain(
    pipeline: "Pipeline",
    text: "Prompt",
    *,
    layer: int = 0,
    only: str | None = None,
    limit: int = 5,
    **params: Any,
) -> Walk:
    """The walk on a text: block `layer` is opened, `limit` tokens are told of each distribution.

    `only` keeps the stages that one of `NAMES` names; they keep their numbers in the whole walk. `params` as for
    `Pipeline.stream`: the token drawn is the one that it draws. Raises `UsageError`, `ContextLengthError`.
    """
    config = pipeline.model.config
    if not 0 <= layer < config.num_layers:
        raise UsageError(f"there is no layer {layer}", f"this model has {config.num_layers}, counted from 0")
    if only is not None and only not in NAMES:
        raise UsageError(f"there is no stage {only!r}", f"there are {', '.join(NAMES)}")
    chosen = merged(pipeline.defaults, params)
    ids = fitting_ids(pipeline, text)
    recorder = WalkRecorder(layer, config.num_layers)
    logits = last_logits(pipeline, ids)  # by the pass of `generate`: that of all tokens rounds otherwise
    pipeline.model.hidden_states(batch_of(pipeline, ids), tap=recorder)
    sampling = _sampling(pipeline, ids, logits, chosen, limit)
    stages = [
        _encoding(pipeline, text, ids),
        _embedding(pipeline, ids, recorder["embedding", -1][0]),
        *OpenedBlock(pipeline, ids, layer, recorder).stages(),
        _blocks(pipeline, ids, recorder),
        _final_norm(pipeline, recorder),
        _lm_head(pipeline, ids, logits, limit),
        _softmax(pipeline, logits, limit),
        sampling,
        _decoding(pipeline, ids, sampling),
    ]
    numbered = [replace(stage, number=number) for number, stage in enumerate(stages)]
    return Walk(config, shown_tokens(pipeline, ids), layer, block_order(config), len(numbered), _kept(numbered, only))


def _kept(stages: list[Stage], only: str | None) -> list[Stage]:
    if only is None:
        return stages
    if only == "block":
        return [stage for stage in stages if stage.layer is not None]
    return [stage for stage in stages if stage.kind == only]


def _encoding(pipeline: "Pipeline", text: "Prompt", ids: Sequence[int]) -> Encoding:
    words: str | None = text if isinstance(text, str) else None
    added = 0 if words is None else len(ids) - len(pipeline.encode(words))
    if words is None and pipeline.has_tokenizer:
        words = pipeline.decode(ids)
    characters = len(words or "")
    return Encoding(
        kind="encoding",
        input=(characters,),
        output=(len(ids),),
        text=words,
        characters=characters,
        bytes=len((words or "").encode()),
        added=added,
    )


def _embedding(pipeline: "Pipeline", ids: list[int], vectors: Tensor) -> Embedding:
    model, config = pipeline.model, pipeline.model.config
    place = batch_of(pipeline, ids)[0]
    learned = config.learned_positions
    return Embedding(
        kind="embedding",
        input=(len(ids),),
        output=tuple(vectors.shape),
        table=(config.vocab_size, config.hidden_size),
        scale=config.embedding_scale,
        positions=(config.context_length, config.hidden_size) if learned else None,
        rows=_first(model.embedding(place)),
        position_rows=_first(model.positions(torch.arange(len(ids), device=place.device))) if learned else None,
        vectors=_first(vectors),
        lengths=lengths(vectors),
    )


def _first(x: Tensor) -> Floats:
    """(n, hidden) -> (n, FIRST)."""
    found: Floats = x[:, :FIRST].float().cpu().numpy()
    return found


def _blocks(pipeline: "Pipeline", ids: list[int], recorder: WalkRecorder) -> Blocks:
    entering, *rows = lens(pipeline, ids, limit=1).rows

    def length(point: str, layer: int) -> float:
        return float(lengths(recorder[point, layer][0, -1]))

    size = (len(ids), pipeline.model.config.hidden_size)
    return Blocks(
        kind="blocks",
        input=size,
        output=size,
        length=length("embedding", -1),
        says=entering.top[0],
        rows=[
            BlockRow(
                row.layer,
                length("attention_out", row.layer),
                length("ffn_out", row.layer),
                length("block", row.layer),
                row.top[0],
            )
            for row in rows
        ],
    )


def _final_norm(pipeline: "Pipeline", recorder: WalkRecorder) -> Norm:
    config = pipeline.model.config
    before, after = recorder["block", config.num_layers - 1][0], recorder["final_norm", config.num_layers][0]
    return norm_stage(config, "before lm_head", before, after, cast(float, pipeline.model.norm.eps), layer=None)


def _lm_head(pipeline: "Pipeline", ids: list[int], logits: Tensor, limit: int) -> LmHead:
    config = pipeline.model.config
    return LmHead(
        kind="lm_head",
        input=(len(ids), config.hidden_size),
        output=(len(ids), config.vocab_size),
        matrix=(config.vocab_size, config.hidden_size),
        tied=config.tied,
        softcap=config.final_softcap,
        logits=logits.numpy(),
        lowest=float(logits.min()),
        highest=float(logits.max()),
        top=most_probable(pipeline, logits, limit),
    )


def _softmax(pipeline: "Pipeline", logits: Tensor, limit: int) -> Softmax:
    exponentials = (logits.double() - logits.double().max()).exp()
    top = most_probable(pipeline, logits, limit)
    return Softmax(
        kind="softmax",
        input=tuple(logits.shape),
        output=tuple(logits.shape),
        total=float(exponentials.sum()),
        sum=float(logits.double().softmax(0).sum()),
        entropy=entropy_bits(logits),
        top=[Exponential(each.token, each.logit, float(exponentials[each.token.id]), each.prob) for each in top],
    )


def _sampling(pipeline: "Pipeline", ids: list[int], logits: Tensor, chosen: SamplingParams, limit: int) -> Sampling:
    from llmcli.pipeline import fresh_seed

    seed = None if chosen.greedy else fresh_seed() if chosen.seed is None else chosen.seed
    found = funnel(logits, ids, chosen, seed=seed, limit=len(logits), rules=pipeline.rules(chosen))

    def named(each: Candidate) -> FunnelToken:
        return FunnelToken(shown_token(pipeline, each.id), each.model_prob, each.prob)

    low = sum(each.prob for each in found.candidates if each.id < found.drawn.id)
    return Sampling(
        kind="sampling",
        input=tuple(logits.shape),
        output=(1,),
        params={name: value for name, value in vars(chosen).items() if name not in _OF_THE_WHOLE_TEXT},
        filters=list(found.stages),
        candidates=[named(each) for each in found.candidates[:limit]],
        drawn=named(found.drawn),
        seed=found.seed,
        uniform=found.uniform,
        low=low,
        high=low + found.drawn.prob,
    )


def _decoding(pipeline: "Pipeline", ids: list[int], sampling: Sampling) -> Decoding:
    token = sampling.drawn.token
    known = pipeline.has_tokenizer and token.id < pipeline.tokenizer.vocab_size
    decoder = pipeline.tokenizer.stream(ids, skip_special=True) if known else None
    return Decoding(
        kind="decoding",
        input=(1,),
        output=(len(ids) + 1,),
        token=token,
        bytes=list(pipeline.tokenizer.token_bytes(token.id)) if known else None,
        text=None if decoder is None else decoder.push(token.id),
        ends=token.id in pipeline.eos_ids,
        context=pipeline.context_length,
    )
