"""The training loop: batches in, weights and a log out. Knows no text and no terminal; who watches gets `Event`s."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmcli.errors import LlmcliError, UsageError
from llmcli.model.processor import fast_bfloat16
from llmcli.model.transformer import CausalLM
from llmcli.train.batches import Batch, Batches, make_batch, split_batch
from llmcli.train.distributed import World
from llmcli.train.log import NAME as LOG_NAME
from llmcli.train.log import Event, Log
from llmcli.train.loss import summed_cross_entropy
from llmcli.train.optimizer import make_optimizers, rate_factor, row_length
from llmcli.train.recipe import Recipe
from llmcli.train.state import NAME, load_state, save_state
from llmcli.train.tokens import TokenFile


class Trainer:
    """A run in a folder: `checkpoint.safetensors`, `log.jsonl`. The model lies on the world's device.

    `facts` are written into log and checkpoint: with `init`, the name of the model that the run begins with, validation
    begins before the first step. `sample` gives a text of the model now and then.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: CausalLM,
        train: TokenFile,
        valid: TokenFile | None,
        out: Path,
        *,
        world: World | None = None,
        facts: Mapping[str, Any] | None = None,
        sample: Callable[[CausalLM], str] | None = None,
    ) -> None:
        self.recipe, self.model, self.valid_tokens, self.out = recipe, model, valid, out
        self.world = world or World()
        self.facts, self.sample = dict(facts or {}), sample
        self.optimizers = make_optimizers(model, recipe.optimizer)
        unit = max(length for _, length in recipe.schedule.lengths)
        self.batches = Batches(train, unit, recipe.schedule.batch_tokens, recipe.seed)
        self.dtype = compute_dtype(recipe.dtype, self.world.device)
        self.bytes_per_token = train.bytes / len(train.ids)
        self.tokens = len(train.ids)
        self.step = 0
        self.stop = False
        """Set from outside, in one process or more: all finish the step, save, and return."""
        self.stopping = False
        """Whether all processes agreed to stop: the wish travels with the loss."""

    def resume(self) -> None:
        """Continues from the folder's checkpoint. Raises CheckpointError, UsageError."""
        facts = load_state(self.out / NAME, self.model, self.optimizers)
        if facts.get("tokens", self.tokens) != self.tokens:
            raise UsageError(
                f"the corpus has {self.tokens} tokens, and had {facts['tokens']} when this run began",
                "give the corpus and the tokenizer it began with, or another --out",
            )
        self.step = facts["step"]

    def run(self, until: int | None = None) -> Iterator[Event]:
        """Trains up to `until` (the schedule's last step), an event for all that the log gets, saving on the way."""
        steps = self.recipe.schedule.steps
        until = steps if until is None else min(until, steps)
        log = Log(self.out / LOG_NAME)
        if self.world.leads:
            log.begin(self._facts(), self.step)
        yield Event("run", self.step, self._facts())
        for event in self._events(until):
            if self.world.leads:
                log.write(event)
            yield event

    def _events(self, until: int) -> Iterator[Event]:
        """What happens from here to step `until`."""
        if self.valid_tokens is not None and self.step == 0 and self.facts.get("init"):
            yield self._validation(self.valid_tokens, self.recipe.valid_tokens)
        while self.step < until and not self.stopping:
            yield from self._advance(until)

    def _advance(self, until: int) -> Iterator[Event]:
        """One step, and what is due after it."""
        event = self._one_step()
        self.step += 1
        yield event
        recipe, last = self.recipe, self.step == self.recipe.schedule.steps
        if self.valid_tokens is not None and (last or self.step % recipe.valid_every == 0):
            limit = len(self.valid_tokens.ids) if last else recipe.valid_tokens
            yield self._validation(self.valid_tokens, limit)
        if self.sample and self.world.leads and recipe.sample_every and self.step % recipe.sample_every == 0:
            yield Event("sample", self.step, {"text": self.sample(self.model)})
        if self.stopping or self.step == until or self.step % recipe.checkpoint_every == 0:
            self.save()

    def _validation(self, tokens: TokenFile, limit: int) -> Event:
        return Event("valid", self.step, {"bits_per_byte": self.bits_per_byte(tokens, limit)})

    def save(self) -> None:
        if self.world.leads:
            facts = {**self._facts(), "step": self.step}
            save_state(self.out / NAME, self.model, self.optimizers, facts)

    def _facts(self) -> dict[str, Any]:
        return {
            **self.facts,
            "name": self.recipe.name,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "tokens_per_step": self.recipe.schedule.batch_tokens,
            "steps": self.recipe.schedule.steps,
            "tokens": self.tokens,
            "bytes_per_token": self.bytes_per_token,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.world.device,
            "processes": self.world.size,
        }

    def _one_step(self) -> Event:
        started = time.perf_counter()
        schedule, world = self.recipe.schedule, self.world
        length = row_length(self.step, schedule)
        batch = self.batches.step(self.step, length, world.rank, world.size)
        nats = torch.zeros((), device=world.device)
        for part in split_batch(batch, schedule.micro_tokens):
            loss = self._nats(part) / schedule.batch_tokens
            loss.backward()  # type: ignore[no-untyped-call]
            nats += loss.detach()
        total, norm = self._exchange(nats)
        factor = rate_factor(self.step, schedule)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
        values = {
            "loss": total,
            "bits_per_byte": total / math.log(2) / self.bytes_per_token,
            "gradient_norm": norm,
            "rate": factor,
            "length": length,
            "tokens_per_second": schedule.batch_tokens / seconds,
            "seconds": seconds,
        }
        return Event("step", self.step, values)

    def _exchange(self, nats: Tensor) -> tuple[float, float]:
        """Sums loss and gradients over all processes and clips them; the loss, and the gradients' norm before.

        Raises LlmcliError for a loss that is no number: the last checkpoint is from before.
        """
        stop = torch.tensor(float(self.stop), device=self.world.device)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.world.sum([nats, stop, *gradients])
        self.stopping = bool(stop > 0)
        total = float(nats)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip))
        if not math.isfinite(total) or not math.isfinite(norm):
            raise LlmcliError(
                f"the loss is {total} and its gradient {norm} at step {self.step}",
                "go on with --resume and a lower --learning-rate, or --dtype float32",
            )
        return total, norm

    def _nats(self, batch: Batch) -> Tensor:
        """Nats summed over the batch's tokens."""
        batch = batch.to(self.world.device)
        lower = self.dtype != torch.float32
        with torch.autocast(self.world.device.split(":")[0], self.dtype) if lower else nullcontext():
            hidden = self.model.hidden_states(batch.ids, positions=batch.positions, visible=batch.visible)
        weight = self.model.lm_head.weight
        assert weight is not None
        return summed_cross_entropy(hidden.flatten(0, 1), weight, batch.targets.flatten(), self.dtype)

    @torch.no_grad()
    def bits_per_byte(self, tokens: TokenFile, limit: int) -> float:
        """Bits per byte over the first `limit` tokens, in rows of the whole context, each row on its own; the
        processes share the rows."""
        context = self.model.config.context_length
        count = min(limit, len(tokens.ids) - 1)
        sums = torch.zeros(2, device=self.world.device)
        for index, start in enumerate(range(0, count, context)):
            if index % self.world.size == self.world.rank:
                row = tokens.ids[start : min(start + context, count) + 1].astype("int64")[None]
                sums[0] += self._nats(make_batch(row, tokens.start_id))
                sums[1] += row.shape[1] - 1
        self.world.sum([sums])
        return float(sums[0] / sums[1]) / math.log(2) * len(tokens.ids) / tokens.bytes


def compute_dtype(name: str, device: str) -> torch.dtype:
    """The dtype of the matrix products; `auto` is bfloat16 where the device multiplies it in hardware."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.startswith("cuda"):
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        faster = device == "cpu" and fast_bfloat16()
    return torch.bfloat16 if faster else torch.float32
