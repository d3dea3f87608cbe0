"""The logit lens beside the reference's own final norm and lm_head on its own hidden states."""

import numpy as np
import pytest
import torch
from tiny_families import EVERY, pair, reference_logits, some_ids

from llmcli.errors import UsageError
from llmcli.inspect.lens import lens

IDS = some_ids(9, seed=3)


@torch.inference_mode()
def naive(name: str, ids: list[int]) -> np.ndarray:
    """(layers + 1, vocab) of the last token: what `transformers` has stored, normed and decoded once more."""
    reference = pair(name).reference
    base = reference.base_model
    norm = next(getattr(base, each) for each in ("norm", "ln_f", "final_layer_norm") if hasattr(base, each))
    head = reference.get_output_embeddings()
    out: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, o: out.append(o[0] if isinstance(o, tuple) else o))
        for layer in getattr(base, "layers", None) or base.h
    ]
    first = reference(torch.tensor([ids]), output_hidden_states=True).hidden_states[0]
    for hook in hooks:
        hook.remove()
    logits = [head(norm(each[:, -1])) for each in (first, *out)]
    cap = getattr(reference.config, "final_logit_softcapping", None)
    logits = [cap * torch.tanh(each / cap) if cap else each for each in logits]
    return torch.stack(logits)[:, 0].numpy()


@pytest.mark.parametrize("name", EVERY)
def test_every_row_equals_the_reference_and_the_last_is_the_output(name):
    ours = lens(pair(name).pipeline, IDS)
    theirs = naive(name, IDS)
    assert [row.layer for row in ours.rows] == list(range(-1, len(theirs) - 1))
    assert np.abs(ours.logits - theirs).max() <= 1e-4 * max(1, np.abs(theirs).max())
    assert np.abs(ours.logits[-1] - reference_logits(name, IDS)[-1].numpy()).max() <= 1e-4
    assert ours.difference <= 1e-5 * max(1, np.abs(theirs).max())
    assert ours.rows[-1].kl <= 1e-6
    assert ours.rows[-1].final.rank == 0


def test_rows_tell_the_distribution_of_their_logits():
    ours = lens(pair("llama").pipeline, IDS, limit=4)
    for row, logits in zip(ours.rows, ours.logits, strict=True):
        p = np.exp(logits.astype(np.float64))
        p /= p.sum()
        order = np.argsort(-p)
        assert [each.token.id for each in row.top] == order[:4].tolist()
        assert [each.prob for each in row.top] == pytest.approx(p[order[:4]].tolist(), abs=1e-6)
        assert row.final.token.id == ours.rows[-1].top[0].token.id
        assert order[row.final.rank] == row.final.token.id
        target = np.exp(ours.logits[-1].astype(np.float64))
        target /= target.sum()
        assert row.kl == pytest.approx(float((target * np.log2(target / p)).sum()), abs=1e-6)


def test_at_a_position():
    pipeline = pair("gpt2").pipeline
    assert np.allclose(lens(pipeline, IDS, position=3).logits, lens(pipeline, IDS[:4]).logits, atol=1e-6)
    with pytest.raises(UsageError):
        lens(pipeline, IDS, position=9)
