"""The options of beam search, which looks for the most probable texts and draws nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from llmcli.cli.batch_options import BatchOptions
from llmcli.cli.generate_options import OutputOptions
from llmcli.errors import UsageError
from llmcli.sampling_params import flag

BeamsOption = Annotated[
    int | None,
    typer.Option(
        "--beams",
        metavar="N",
        min=1,
        show_default=False,
        help="Search for the most probable text with N beams; with --num-samples K, the K best.",
    ),
]
LengthPenaltyOption = Annotated[
    float | None,
    typer.Option(
        "--length-penalty",
        metavar="A",
        show_default="1",
        help="Beams are ranked by log-probability / length ** A: above 0 longer texts gain, below 0 shorter ones.",
    ),
]
# The sampling options that beam search follows: those that say which tokens may come, or what repetitions cost.
FOLLOWED = {
    "repetition_penalty", "presence_penalty", "frequency_penalty", "penalty_window", "dry_multiplier", "dry_base",
    "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "no_repeat_ngram", "logit_bias", "ban",
}  # fmt: skip


@dataclass(frozen=True)
class BeamOptions:
    """Beam search, where `beams` is given."""

    beams: BeamsOption = None
    length_penalty: LengthPenaltyOption = None

    def __post_init__(self) -> None:
        if self.length_penalty is not None and self.beams is None:
            raise UsageError("--length-penalty is given without --beams", "add --beams 4")

    def check_with(self, typed: Sequence[str], batch: BatchOptions, output: OutputOptions) -> None:
        """Raises `UsageError` for what beam search has no use for; `typed` are the sampling options on the command
        line."""
        if self.beams is None:
            return
        idle = {flag(name): True for name in typed if name not in FOLLOWED}
        idle |= {"--unordered": batch.unordered, "--batch-size": batch.batch_size is not None}
        idle |= {"--logprobs": output.logprobs is not None, "--trace": output.trace}
        for name, given in idle.items():
            if given:
                raise UsageError(f"{name} and --beams exclude each other", "leave out one of the two")
        if batch.num_samples is not None and batch.num_samples > self.beams:
            raise UsageError(
                f"--num-samples {batch.num_samples} is more than --beams {self.beams}", "search with more beams"
            )

    def followed(self, sampling: dict[str, Any]) -> dict[str, Any]:
        """The sampling options that hold here: settings about drawing give way to beam search."""
        if self.beams is None:
            return sampling
        return {name: value for name, value in sampling.items() if name in FOLLOWED}

    @property
    def asked(self) -> dict[str, Any]:
        """As arguments of `run_batch`."""
        return {"beams": self.beams, "length_penalty": 1.0 if self.length_penalty is None else self.length_penalty}
