"""What generation gives: steps as they come, and the whole at the end. Plain values, no tensors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from llmcli.inspect.funnel import Funnel

FinishReason = Literal["eos", "stop", "complete", "length", "context", "interrupt"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and natural logarithms of its probability: in the model's own distribution, and in the one after all
    filters, None where it is 0. `bytes`: what the token stands for; None without a tokenizer."""

    id: int
    bytes: list[int] | None
    logprob: float | None
    filtered_logprob: float | None


@dataclass(frozen=True, slots=True)
class TokenLogprobs(TokenLogprob):
    """The same of a token that was chosen, with the most probable ones beside it: `top` of the model's own
    distribution, `top_filtered` of the one after all filters (fewer where fewer were left)."""

    top: list[TokenLogprob]
    top_filtered: list[TokenLogprob]


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token.

    text           what it adds to the text for certain; often empty while a character or a stop string is incomplete,
                   and all that was held back comes with the last step: the texts joined are the whole text
    prob           its probability in the distribution that it was drawn from, after all filters; for greedy the
                   model's own
    logprob        natural logarithm of its probability in the model's own distribution, before any filter
    finish_reason  None but for the last step: eos, stop, complete, length or context
    logprobs       None unless they were asked for
    trace          what each filter left, and the draw; None unless asked for
    """

    index: int
    id: int
    text: str
    prob: float
    logprob: float
    finish_reason: FinishReason | None
    logprobs: TokenLogprobs | None = None
    trace: "Funnel | None" = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds by a clock that never goes back, and what was saved.

    tokens_per_second  the rate after the first token; None for fewer than two tokens
    drafted, accepted  tokens that were guessed ahead, and those of them that were then drawn; None without drafts
    reused             tokens of the prompt whose keys and values came from a file; None where none was named
    """

    load: float
    first_token: float | None
    total: float
    tokens_per_second: float | None
    drafted: int | None = None
    accepted: int | None = None
    reused: int | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished generation.

    text           decode(prompt_ids + ids) less decode(prompt_ids), special tokens left out, up to a stop string
    ids            every id that was generated, an end-of-text id or those of a stop string included
    finish_reason  eos: the model ended the text; stop: a stop string came; complete: nothing more may follow by the
                   text's constraint, or a limit came where it allows an end; length: max_tokens; context: the context
                   is full; interrupt: it was cut off
    seed           of the random numbers; None for greedy, which uses none
    logprobs       those of each step; None unless they were asked for
    trace          that of each step; None unless asked for
    score          of beam search: the sum of the log-probabilities divided by length ** length penalty; else None
    """

    prompt: str | None
    prompt_ids: list[int]
    text: str
    ids: list[int]
    finish_reason: FinishReason
    seed: int | None
    timings: Timings
    logprobs: list[TokenLogprobs] | None = None
    trace: "list[Funnel] | None" = None
    score: float | None = None

    def __str__(self) -> str:
        return self.text
