"""A training run from a corpus to a finished model, and the finished model out of a checkpoint."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from llmcli.errors import UsageError
from llmcli.generation import Sequence, generate
from llmcli.model.transformer import CausalLM
from llmcli.sampling_params import SamplingParams
from llmcli.tokenizer import Tokenizer
from llmcli.train.blocks import recompute_blocks
from llmcli.train.corpus import Corpus
from llmcli.train.dataset import Split, check_size, make_tokens, make_vocabulary
from llmcli.train.distributed import World
from llmcli.train.export import export_model, take_tokenizer
from llmcli.train.log import NAME as LOG_NAME
from llmcli.train.log import Event, last_values
from llmcli.train.loop import Trainer
from llmcli.train.origin import Origin, load_weights
from llmcli.train.recipe import Recipe, as_table
from llmcli.train.shape import initialize, model_config
from llmcli.train.signals import deferred
from llmcli.train.state import NAME, load_state
from llmcli.train.tokens import TokenFile

_SAMPLE_TOKENS = 80


@dataclass(frozen=True)
class Request:
    """What to train, on what, and where. `until`: stop after so many steps of the schedule; None: all."""

    recipe: Recipe
    corpus: tuple[Path, ...]
    valid: Path | None
    out: Path
    tokenizer: Path | None = None
    resume: bool = False
    until: int | None = None
    origin: Origin = field(default_factory=Origin)


class Watcher(Protocol):
    """Who is told how it goes."""

    def note(self, text: str) -> None: ...

    def progress(self, what: str, fraction: float) -> None: ...

    def event(self, event: Event) -> None: ...


def train(request: Request, world: World, watcher: Watcher) -> dict[str, Any]:
    """Prepares vocabulary and tokens, trains, and writes the model into the run's folder. Returns the run's figures.

    SIGINT, SIGTERM and SIGHUP end it after the step, with a checkpoint. Raises LlmcliError.
    """
    started = time.perf_counter()
    out, recipe = request.out, request.recipe
    resuming = request.resume and (out / NAME).exists()
    if (out / NAME).exists() and not request.resume:
        raise UsageError(f"{out} holds a run already", "go on with --resume, or give another --out")
    if request.origin.folder is not None and request.origin.folder.resolve() == out.resolve():
        raise UsageError(f"--init and --out are both {out}", "give another --out")
    out.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(request.corpus, recipe.limit_bytes)
    split = Split(corpus, Corpus([request.valid]) if request.valid else None, recipe.valid_share)
    if world.leads:
        _prepare_tokenizer(request, split, resuming, watcher)
        make_tokens(split, Tokenizer.from_folder(out), out, watcher.progress)
    world.wait()
    tokenizer = Tokenizer.from_folder(out)
    tokens, valid = make_tokens(split, tokenizer, out, watcher.progress)
    if tokenizer.vocab_size != recipe.shape.vocab_size:
        watcher.note(f"the vocabulary has {tokenizer.vocab_size} ids, not {recipe.shape.vocab_size}: the model follows")
    trainer = _trainer(request, world, tokenizer, tokens, valid)
    if resuming:
        trainer.resume()
        begun = f"; the run began with {request.origin.name}" if request.origin.name else ""
        watcher.note(f"going on after {trainer.step} steps{begun}")

    def ask() -> None:
        trainer.stop = True

    with deferred(ask):
        for event in trainer.run(request.until):
            watcher.event(event)
    if world.leads:
        export_model(trainer.model, out, out, recipe.stored_dtype)
        watcher.note(f"the model is in {out}: llmcli generate -m {out}")
    return _figures(request, trainer, time.perf_counter() - started) if world.leads else {}


def _figures(request: Request, trainer: Trainer, seconds: float) -> dict[str, Any]:
    """What is known of a run that ended: sums over all its steps, and the last numbers of its log."""
    last = last_values(request.out / LOG_NAME)
    step, valid = last.get("step", {}), last.get("valid", {})
    schedule = request.recipe.schedule
    return {
        "name": request.recipe.name,
        "folder": str(request.out),
        "init": request.origin.name,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "steps": trainer.step,
        "planned_steps": schedule.steps,
        "tokens_seen": trainer.step * schedule.batch_tokens,
        "loss": step.get("loss"),
        "bits_per_byte": step.get("bits_per_byte"),
        "valid_step": valid.get("step"),
        "valid_bits_per_byte": valid.get("bits_per_byte"),
        "seconds": seconds,
    }


def export_checkpoint(recipe: Recipe, out: Path, folder: Path, origin: Origin) -> int:
    """The model of a run's newest checkpoint as a Hugging Face folder; the steps it was trained for."""
    if not (out / NAME).exists():
        raise UsageError(f"{out} has no checkpoint", "give the folder of a run with --out")
    model = fresh_model(recipe, Tokenizer.from_folder(out), origin.ends)
    facts = load_state(out / NAME, model, [])
    export_model(model, out, folder, recipe.stored_dtype)
    return int(facts["step"])


def fresh_model(recipe: Recipe, tokenizer: Tokenizer, ends: tuple[int, ...] = ()) -> CausalLM:
    """The recipe's model for that vocabulary, its weights drawn from the recipe's seed. `ends`: ids that end a text
    besides the one that begins each document."""
    end = tokenizer.bos_id
    if end is None:
        raise UsageError("the tokenizer has no beginning-of-text token", "use one that names a bos_token")
    config = model_config(recipe.shape, tokenizer.vocab_size, end)
    model = CausalLM(replace(config, eos_token_ids=(end, *(each for each in ends if each != end))))
    initialize(model, recipe.seed)
    return model


def _trainer(
    request: Request, world: World, tokenizer: Tokenizer, tokens: TokenFile, valid: TokenFile | None
) -> Trainer:
    recipe = request.recipe
    check_size(tokens, max(length for _, length in recipe.schedule.lengths))
    if valid is not None and len(valid.ids) < 2:
        raise UsageError("the validation text is empty", "give another --valid, or --set valid_share=0")
    model = fresh_model(recipe, tokenizer, request.origin.ends)
    if request.origin.folder is not None:
        load_weights(model, request.origin.folder)
    model = model.to(world.device)
    if recipe.gradient_checkpointing:
        recompute_blocks(model)
    facts = {
        "recipe": as_table(recipe),
        "corpus": [str(path) for path in request.corpus],
        "valid": str(request.valid) if request.valid else "",
        "init": request.origin.name,
        "ends": list(request.origin.ends),
    }
    sample = _sampler(tokenizer, recipe.seed)
    return Trainer(recipe, model, tokens, valid, request.out, world=world, facts=facts, sample=sample)


def _prepare_tokenizer(request: Request, split: Split, resuming: bool, watcher: Watcher) -> None:
    """tokenizer.json in the run's folder: the run's own, a copy, or a vocabulary trained on the training documents."""
    out, recipe = request.out, request.recipe
    if request.tokenizer is not None and resuming:
        if Tokenizer.from_folder(request.tokenizer).vocab_size != Tokenizer.from_folder(out).vocab_size:
            raise UsageError("--tokenizer is not the one this run began with", "leave it out with --resume")
        take_tokenizer(request.tokenizer, out)
    if resuming:
        return
    key, record = _vocabulary_key(split, recipe), out / "vocabulary.json"
    if (given := request.tokenizer or request.origin.folder) is not None:
        take_tokenizer(given, out)
        record.unlink(missing_ok=True)  # what a run before this one noted of its own vocabulary
        return
    if (out / "tokenizer.json").is_file() and record.is_file() and json.loads(record.read_text())["key"] == key:
        return
    make_vocabulary(split, recipe.shape.vocab_size, out, watcher.progress)
    record.write_text(json.dumps({"key": key}) + "\n", encoding="utf-8")


def _vocabulary_key(split: Split, recipe: Recipe) -> str:
    """What the vocabulary depends on: it is trained again where that changed."""
    files = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in split.corpus.files]
    share = split.share if split.by_hash else 0
    parts = [files, recipe.limit_bytes, share, recipe.shape.vocab_size]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _sampler(tokenizer: Tokenizer, seed: int) -> Callable[[CausalLM], str]:
    """A text that the model begins by itself."""
    params = SamplingParams(max_tokens=_SAMPLE_TOKENS, seed=seed)

    def sample(model: CausalLM) -> str:
        start = model.config.bos_token_id
        assert start is not None
        context = model.config.context_length
        sequence = Sequence([start], params, seed=seed, eos_ids=[start], context=context)
        for _ in generate(model, sequence):
            pass
        return tokenizer.decode(sequence.ids[1:], skip_special=True)

    return sample
