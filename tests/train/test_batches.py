"""Packed rows: dealt out by seed and step alone, blind across the borders of documents."""

from itertools import chain

import numpy as np
import pytest
import torch

from llmcli.model.transformer import CausalLM
from llmcli.train.batches import Batches, make_batch, split_batch
from llmcli.train.blocks import recompute_blocks
from llmcli.train.loss import summed_cross_entropy
from llmcli.train.recipe import Shape
from llmcli.train.shape import initialize, model_config
from llmcli.train.tokens import TokenFile

LLAMA = Shape("llama", 300, 32, 2, 4, 2, 48, 32)
GPT2 = Shape("gpt2", 300, 32, 2, 4, 4, 48, 32)


def tokens(count: int = 1000) -> TokenFile:
    return TokenFile(np.arange(count, dtype=np.uint16), count, 0)


def model_of(shape: Shape) -> CausalLM:
    model = CausalLM(model_config(shape, 300, 0))
    initialize(model, 1)
    with torch.no_grad():  # far from uniform, so that attention matters
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


def test_every_stretch_is_read_once_an_epoch_in_an_order_of_its_own() -> None:
    batches = Batches(tokens(), unit=10, batch_tokens=30, seed=5)
    assert batches.units == 99
    epochs = []
    for epoch in range(2):
        rows = [batches.step(step, 10).ids for step in range(epoch * 33, epoch * 33 + 33)]
        epochs.append([int(row[0]) for batch in rows for row in batch])
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(0, 990, 10))
    assert epochs[0] != epochs[1]


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    one, other = Batches(tokens(), 10, 30, 5), Batches(tokens(), 10, 30, 5)
    for step in range(40):
        one.step(step, 10)
    assert torch.equal(one.step(40, 10).ids, other.step(40, 10).ids)
    assert not torch.equal(Batches(tokens(), 10, 30, 6).step(40, 10).ids, other.step(40, 10).ids)


def test_targets_are_the_next_tokens_and_short_rows_hold_the_same_text() -> None:
    batches = Batches(tokens(), 8, 32, 5)
    long, short = batches.step(3, 8), batches.step(3, 4)
    assert torch.equal(long.targets, long.ids + 1)
    assert torch.equal(long.ids.flatten(), short.ids.flatten())


@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_share_a_step_without_overlap(world: int) -> None:
    batches = Batches(tokens(), 10, 40, 5)
    parts = [batches.step(7, 10, rank, world).ids for rank in range(world)]
    whole = batches.step(7, 10).ids
    assert sorted(torch.cat(parts).tolist()) == sorted(whole.tolist())


@pytest.mark.parametrize("shape", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_packed_documents_give_the_states_of_each_alone(shape: Shape) -> None:
    model = model_of(shape)
    draw = np.random.default_rng(0)
    documents = [[0, *draw.integers(1, 300, n)] for n in (7, 1, 12)]
    row = np.array([[*chain.from_iterable(documents), 5]], dtype=np.int64)
    batch = make_batch(row, 0)
    packed = model.hidden_states(batch.ids, positions=batch.positions, visible=batch.visible)[0]
    alone = torch.cat([model.hidden_states(torch.tensor([ids]))[0] for ids in documents])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)
    assert (packed - model.hidden_states(batch.ids)[0]).abs().max() > 0.01


def test_rows_without_borders_need_no_mask() -> None:
    assert make_batch(np.array([[0, 5, 6, 7]]), 0).visible is None
    assert make_batch(np.array([[5, 6, 7, 0]]), 0).visible is None  # the border is behind the last input
    assert make_batch(np.array([[5, 0, 7, 8]]), 0).visible is not None


def test_parts_of_a_batch_are_its_rows() -> None:
    batch = make_batch(np.array([[5, 0, 7, 8]] * 5), 0)
    parts = list(split_batch(batch, 7))
    assert [len(part.ids) for part in parts] == [2, 2, 1]
    assert all(part.visible is not None and len(part.visible) == len(part.ids) for part in parts)
    assert [len(part.ids) for part in split_batch(batch, 1)] == [1] * 5


@pytest.mark.parametrize("count", [1, 2048, 2049])
def test_chunked_cross_entropy_equals_the_plain_one(count: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(count, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    targets = torch.randint(50, (count,))
    plain = torch.nn.functional.cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    wanted = torch.autograd.grad(plain * 0.5, (hidden, weight))
    chunked = summed_cross_entropy(hidden, weight, targets, torch.float32)
    found = torch.autograd.grad(chunked * 0.5, (hidden, weight))
    torch.testing.assert_close(chunked, plain, rtol=1e-5, atol=1e-4)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_gradient_checkpointing_changes_memory_and_no_number() -> None:
    model = model_of(LLAMA)
    batch = make_batch(np.random.default_rng(1).integers(0, 300, (2, 33)), 0)

    def gradients() -> tuple[list[torch.Tensor], int]:
        kept = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden = model.hidden_states(batch.ids, positions=batch.positions, visible=batch.visible)
        return list(torch.autograd.grad(hidden.square().sum(), list(model.parameters()))), kept

    plain, much = gradients()
    recompute_blocks(model)
    again, little = gradients()
    assert little < much / 2
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)
