"""The options that save computing and change no id: drafts, and saved prompts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmcli.errors import UsageError
from llmcli.files import check_target

if TYPE_CHECKING:
    from llmcli.decoding import Decoder
    from llmcli.pipeline import Pipeline

DraftOption = Annotated[
    Literal["lookup"] | None,
    typer.Option(
        "--draft",
        show_default=False,
        help="Guess tokens ahead, and check several in one pass; lookup: what followed the same words before.",
    ),
]
DraftModelOption = Annotated[
    str | None,
    typer.Option(
        "--draft-model", metavar="MODEL", show_default=False, help="A smaller model of the same vocabulary guesses."
    ),
]
PromptCacheOption = Annotated[
    Path | None,
    typer.Option(
        "--prompt-cache",
        metavar="FILE",
        show_default=False,
        help="Keep the prompt's keys and values there, and reuse as many as the next prompt begins with.",
    ),
]


@dataclass(frozen=True)
class SpeedOptions:
    """Ways to the same tokens in less time. Raises `UsageError` for two drafts, and for a file that plainly cannot be
    written."""

    draft: DraftOption = None
    draft_model: DraftModelOption = None
    prompt_cache: PromptCacheOption = None

    def __post_init__(self) -> None:
        if self.draft is not None and self.draft_model is not None:
            raise UsageError("--draft and --draft-model exclude each other", "leave out one of the two")
        if self.prompt_cache is not None:
            check_target(self.prompt_cache)

    @property
    def named(self) -> str | None:
        """The first option of the group that was given; None where none was."""
        given = {"--draft": self.draft, "--draft-model": self.draft_model, "--prompt-cache": self.prompt_cache}
        return next((name for name, value in given.items() if value is not None), None)

    def check_with(self, record: Path | None, beams: int | None) -> None:
        """Raises `UsageError` for beam search, which draws nothing, and where the run is to be repeatable id by id:
        tokens that are computed together, or apart, are rounded otherwise than one by one, and what is repeated is one
        by one."""
        for name, given in (("--record", record), ("--beams", beams)):
            if given is not None and self.named is not None:
                raise UsageError(f"{name} and {self.named} exclude each other", "leave out one of the two")

    @property
    def drafts(self) -> bool:
        """Whether most steps compute several tokens. With lookup most texts have few that do, and stay in the number
        format that is fastest for a single one."""
        return self.draft_model is not None

    def decoder(self, pipeline: "Pipeline") -> "Decoder":
        """What computes the tokens; the smaller model is loaded here."""
        if self.draft_model is None:
            return pipeline.decoder(draft=self.draft, prompt_cache=self.prompt_cache)
        from llmcli.pipeline import Pipeline

        small = Pipeline.load(self.draft_model, device=pipeline.device, dtype=pipeline.dtype)
        return pipeline.decoder(draft=small, prompt_cache=self.prompt_cache)
