"""From logits to one token: filters in one documented order, then one draw.

    constraint -> logit bias -> ban, no-repeat n-gram, min-tokens -> repetition, frequency, presence penalty -> DRY
    -> temperature -> top-n-sigma -> top-k -> typical -> top-p -> min-p -> XTC -> mirostat -> draw

`rules` holds what is told of single tokens, `penalties` what looks back at the text, `cuts` what reads the logits
alone, `chain` the order, `drawing` the random numbers and the draw, `sampler` the composition.

Each filter is a pure function: logits (candidates) float32 in, the same shape out, -inf where a candidate is cut. At
least one candidate always stays. Equal logits rank by position, the first one highest, so a result never depends on
how a sort happened to order them. Temperature 0 takes the most probable token and needs no random number.

Each position of each sequence has a random number of its own (`Uniforms`), and the draw walks the candidates in the
order of their ids: the same logits at the same position give the same token, whatever else is computed beside them.
"""

from llmcli.sampling.chain import Filter, Place, filters
from llmcli.sampling.cuts import NEVER, min_p, mirostat, temperature, top_k, top_n_sigma, top_p, typical, xtc
from llmcli.sampling.drawing import CHANCES, Uniforms, draw
from llmcli.sampling.penalties import dry, frequency_penalty, presence_penalty, repetition_penalty
from llmcli.sampling.rules import (
    NO_RULES,
    Ban,
    Breakers,
    Constraint,
    TokenRules,
    forbid,
    keep,
    logit_bias,
    repeated_ngram_ends,
)
from llmcli.sampling.sampler import Choice, Sampler

__all__ = [
    "CHANCES",
    "NEVER",
    "NO_RULES",
    "Ban",
    "Breakers",
    "Choice",
    "Constraint",
    "Filter",
    "Place",
    "Sampler",
    "TokenRules",
    "Uniforms",
    "draw",
    "dry",
    "filters",
    "forbid",
    "frequency_penalty",
    "keep",
    "logit_bias",
    "min_p",
    "mirostat",
    "presence_penalty",
    "repeated_ngram_ends",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_n_sigma",
    "top_p",
    "typical",
    "xtc",
]
