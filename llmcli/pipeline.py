"""The three stages joined, the only place that sees both text and tensors: encode, generate, decode."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from llmcli.batch import BATCH_SIZE
from llmcli.batch_run import BatchPrompt, run_batch
from llmcli.chat import Message, chat_ids
from llmcli.decoding import Decoder
from llmcli.device import choose_device, set_threads
from llmcli.errors import ContextLengthError, TokenizerError, UsageError
from llmcli.generation import check_ids, generate
from llmcli.generation_config import read_generation_config
from llmcli.inspect.api import Views
from llmcli.model.cache import KV_DTYPES, kv_dtype_name
from llmcli.model.loading import load
from llmcli.model.transformer import CausalLM
from llmcli.prompt_cache import PromptCache
from llmcli.resolve import TOKENIZER_FILES, resolve
from llmcli.results import Generation
from llmcli.run import Drive, Run
from llmcli.sampling import TokenRules
from llmcli.sampling_params import SamplingParams, merged
from llmcli.token_rules import token_rules
from llmcli.tokenizer import Tokenizer
from llmcli.transcript import Request, fresh_seed

__all__ = ["Pipeline", "Prompt", "Request", "Run", "Truncate", "fresh_seed"]

Truncate = Literal["left", "right"]
Prompt = str | Sequence[int]


class Pipeline(Views):
    """A model and its tokenizer, ready to run. Made by `Pipeline.load` or `llmcli.load`."""

    def __init__(self, model: CausalLM, tokenizer: Tokenizer | None, folder: Path, name: str, dtype: str) -> None:
        self.model = model
        self.folder = folder
        self.name = name
        self.dtype = dtype
        self.load_seconds = 0.0
        self.context_length = model.config.context_length
        self._tokenizer = tokenizer
        self.defaults, eos_ids, self.notes = read_generation_config(folder)
        self.eos_ids = frozenset(eos_ids) | frozenset(model.config.eos_token_ids)

    @classmethod
    def load(
        cls,
        name: str | Path = "stories",
        *,
        device: str = "auto",
        dtype: str = "float32",
        packed: bool = True,
        texts: int = 1,
        drafts: bool = False,
        threads: int | None = None,
        kv_dtype: str = "auto",
        tokenizer: Tokenizer | None = None,
    ) -> "Pipeline":
        """A built-in model, a folder, or a hub id, ready to run.

        device: auto, cpu, cuda or mps. dtype: one of `model.loading.DTYPES`; `packed`, `texts` and `drafts` say what
        for, see there. threads: of the whole process; None leaves them as they are. kv_dtype: that of the KV cache, see
        `model.cache`. `tokenizer` spares reading it again. A folder without a tokenizer runs on ids alone. Raises
        `ModelError`, `UsageError`.
        """
        start = time.perf_counter()
        if kv_dtype not in KV_DTYPES:
            raise UsageError(f"there is no KV cache in {kv_dtype!r}", f"choose one of {', '.join(KV_DTYPES)}")
        place = choose_device(device)
        if threads is not None:
            set_threads(threads)
        folder = resolve(str(name))
        if tokenizer is None and any((folder / each).is_file() for each in TOKENIZER_FILES):
            tokenizer = Tokenizer.from_folder(folder)
        model, dtype, notes = load(folder, dtype, device=place, packed=packed, texts=texts, drafts=drafts)
        pipeline = cls(model, tokenizer, folder, str(name), dtype)
        pipeline.notes += notes
        pipeline.model.kv_dtype = KV_DTYPES[kv_dtype]
        pipeline.load_seconds = time.perf_counter() - start
        return pipeline

    @property
    def kv_dtype(self) -> str:
        """The number format of new KV caches, as it was asked for."""
        return kv_dtype_name(self.model.kv_dtype)

    @property
    def device(self) -> str:
        """Where the model is: cpu, cuda or mps."""
        return next(self.model.parameters()).device.type

    # --- text and ids ---

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise TokenizerError(f"{self.folder} has no tokenizer", "give token ids instead of text")
        return self._tokenizer

    def encode(self, text: str, *, special: bool = False, parse_special: bool = False) -> list[int]:
        """The ids of a text. `special` adds what the tokenizer adds to a prompt; `parse_special` reads special tokens
        out of the text."""
        return self.tokenizer.encode(text, special=special, parse_special=parse_special)

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of ids."""
        return self.tokenizer.decode(ids, skip_special=skip_special)

    def bytes_of(self, token_id: int) -> bytes | None:
        """The bytes that an id stands for; None without a tokenizer, and for an id that it has no token for."""
        if self._tokenizer is None or token_id >= self._tokenizer.vocab_size:
            return None
        try:
            return self._tokenizer.token_bytes(token_id)
        except UsageError:
            return None

    def prompt_ids(self, prompt: Prompt, *, parse_special: bool = False) -> list[int]:
        """The ids that generation starts from: the text's, with what the tokenizer adds; for an empty text at least the
        beginning-of-text id. Ids are taken as they are. Raises `UsageError` where there is nothing to start from."""
        if not isinstance(prompt, str):
            return list(prompt)
        ids = self.tokenizer.encode(prompt, special=True, parse_special=parse_special)
        if ids:
            return ids
        if self.tokenizer.bos_id is None:
            raise UsageError("the prompt is empty, and this model has no beginning-of-text id", "give some text")
        return [self.tokenizer.bos_id]

    def chat_ids(self, prompt: str, system: str | None = None, *, parse_special: bool = False) -> list[int]:
        """The ids of one user turn in the model's own chat template, which says itself where special tokens stand."""
        messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": prompt})
        return chat_ids(self.tokenizer, self.folder, messages, parse_special=parse_special)

    # --- the context ---

    def set_context(self, length: int) -> bool:
        """Runs with another context length from now on. Returns whether it is more than the model declares.

        Raises `UsageError` past the end of a learned table of positions.
        """
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise UsageError(f"--context is {length!r}", "give a whole number of 1 or more")
        declared = self.model.config.context_length
        if length > declared and self.model.config.learned_positions:
            raise UsageError(
                f"--context {length}: this model has a learned position for each of {declared} tokens and no more",
                f"give at most {declared}",
            )
        self.context_length = length
        return length > declared

    def fit(self, ids: list[int], max_tokens: int, truncate: Truncate | None) -> list[int]:
        """The prompt as it is where it fits the context; else cut on the side that `truncate` names.

        A cut leaves room for `max_tokens`, but for no more than half the context, and spares the beginning-of-text id.
        Raises `ContextLengthError` for a prompt that does not fit and may not be cut.
        """
        context = self.context_length
        if len(ids) <= context:
            return ids
        if truncate is None:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens, and the context length is {context}",
                "shorten the prompt, or let --truncate left or --truncate right cut it",
            )
        keep = max(1, context - min(max_tokens, context // 2))
        bos = None if self._tokenizer is None else self._tokenizer.bos_id
        head = 1 if keep > 1 and ids[0] == bos else 0
        return ids[:keep] if truncate == "right" else ids[:head] + ids[len(ids) - (keep - head) :]

    # --- running ---

    def stream(
        self, prompt: Prompt = "", *, truncate: Truncate | None = None, trace: bool = False, **params: Any
    ) -> Run:
        """Generates step by step: an iterator of `Step` that also knows `seed`, `prompt_ids` and the `result()`.

        prompt: a text, or token ids. `params` are the fields of `SamplingParams`, and `greedy=True` for
        `temperature=0`; what is not given is as the model's generation_config.json says, else the default.
        `truncate` cuts a prompt that is too long, see `fit`. With `trace` each step tells what every filter left.
        Raises `UsageError`, `ContextLengthError`.
        """
        text = prompt if isinstance(prompt, str) else None
        return self.run(self.prompt_ids(prompt), prompt=text, truncate=truncate, trace=trace, **params)

    def run(
        self,
        ids: Sequence[int],
        *,
        prompt: str | None = None,
        truncate: Truncate | None = None,
        trace: bool = False,
        drive: Drive = generate,
        **params: Any,
    ) -> Run:
        """`stream` from the ids of a prompt; `prompt` is the text that they stand for, which the result then tells.
        `drive` computes the tokens."""
        request = self.request(merged(self.defaults, params), trace=trace)
        check_ids(ids, self.model.config.vocab_size)
        fitting = self.fit(list(ids), request.params.max_tokens, truncate)
        return Run(self, request, fitting, prompt, drive=drive)

    def decoder(
        self, *, draft: "Literal['lookup'] | Pipeline | None" = None, prompt_cache: str | Path | None = None
    ) -> Decoder:
        """What to give `run` as `drive` to have tokens guessed ahead, by lookup or by a smaller model, or a prompt's
        keys and values kept in a file. Neither changes an id but by rounding. Raises `UsageError` for a model of
        another vocabulary."""
        if isinstance(draft, Pipeline):
            self._check_vocabulary(draft)
        kept = None if prompt_cache is None else PromptCache(Path(prompt_cache), self.folder, self.dtype)
        return Decoder(draft.model if isinstance(draft, Pipeline) else draft, kept)

    def _check_vocabulary(self, small: "Pipeline") -> None:
        ours, theirs = (
            each.tokenizer.vocabulary if each.has_tokenizer else {"": each.model.config.vocab_size}
            for each in (self, small)
        )
        if ours != theirs:
            differing = min(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[1])
            raise UsageError(
                f"{small.name} cannot draft for {self.name}: their vocabularies differ, first at id {differing[1]}",
                "name a smaller model with the same tokenizer",
            )

    def request(self, params: SamplingParams, *, trace: bool = False) -> Request:
        """What every sequence of a run shares: the parameters, what they say in texts as ids, and a seed.

        Raises `UsageError` for a text that is no token.
        """
        seed = None if params.greedy else fresh_seed() if params.seed is None else params.seed
        return Request(params, seed, self.rules(params), trace)

    def rules(self, params: SamplingParams) -> TokenRules:
        """What the parameters say in texts, as ids of this model. Raises `UsageError` for a text that is no token."""
        return token_rules(params, self._tokenizer, self.model.config.vocab_size, self.eos_ids)

    def generate(self, prompt: Prompt = "", *, truncate: Truncate | None = None, **params: Any) -> Generation:
        """Generates to the end. Arguments and errors as for `stream`."""
        run = self.stream(prompt, truncate=truncate, **params)
        run.scored = False
        for _ in run:
            pass
        return run.result()

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        num_samples: int = 1,
        batch_size: int = BATCH_SIZE,
        truncate: Truncate | None = None,
        **params: Any,
    ) -> list[Generation]:
        """Generates from several prompts at once, `batch_size` of them decoded together, and faster so than one by one.

        The generations of prompt 0, then those of prompt 1, ...; of each as many as `num_samples` says. Each is what
        `generate` gives for that prompt, with `seed + i` for sample i. Arguments and errors as for `stream`.
        """
        asked = [BatchPrompt(self.prompt_ids(each), each if isinstance(each, str) else None) for each in prompts]
        run = run_batch(self, asked, num_samples=num_samples, batch_size=batch_size, truncate=truncate, **params)
        run.scored = False
        return [each.result() for each in run.finished()]

    def samples(self, prompt: Prompt, count: int, **params: Any) -> list[Generation]:
        """`count` generations of one prompt, decoded together; the i-th is that of the seed + i. Arguments and errors
        as for `generate_batch`."""
        return self.generate_batch([prompt], num_samples=count, **params)

    def generate_ids(self, ids: Sequence[int], **params: Any) -> list[int]:
        """The new ids after `ids`. Needs no tokenizer. Arguments and errors as for `stream`."""
        return self.generate(ids, **params).ids

    @torch.inference_mode()
    def logits(self, text: Prompt) -> NDArray[np.float32]:
        """The logits after each token of a prompt, (tokens, vocab) float32; row i predicts what follows token i.

        The tokens are those of `prompt_ids(text)`: a text's with what the tokenizer adds. Raises as `stream` does.
        """
        ids = self.fit(self.prompt_ids(text), 0, None)
        check_ids(ids, self.model.config.vocab_size)
        device = next(self.model.parameters()).device
        logits = self.model(torch.tensor([ids], dtype=torch.int64, device=device))[0]
        array: NDArray[np.float32] = logits.cpu().numpy()
        return array
