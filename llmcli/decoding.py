"""How the tokens of one sequence are computed: from a saved prompt or from nothing, drafted ahead or one by one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llmcli.draft import Lookup, SmallModel, generate_drafted
from llmcli.generation import Drawn, Sequence, generate
from llmcli.model.transformer import CausalLM
from llmcli.prompt_cache import PromptCache


@dataclass(frozen=True)
class Decoder:
    """A `run.Drive`.

    draft         who guesses tokens ahead: `lookup` in the text itself, or a smaller model of the same vocabulary
    prompt_cache  where the keys and values of prompts are kept
    """

    draft: Literal["lookup"] | CausalLM | None = None
    prompt_cache: PromptCache | None = None

    def __call__(self, model: CausalLM, sequence: Sequence) -> Iterator[Drawn]:
        if self.prompt_cache is None:
            cache = model.new_cache()
        else:
            cache, sequence.reused = self.prompt_cache.fill(model, sequence.ids)
        if self.draft is None:
            return generate(model, sequence, cache)
        source = SmallModel(self.draft, model.config.vocab_size) if isinstance(self.draft, CausalLM) else Lookup()
        return generate_drafted(model, sequence, source, cache)
