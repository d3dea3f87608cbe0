"""Attention made by hand: weights from formulas, tokens that are hard to align."""

import numpy as np

from llmcli.inspect.attention import Attention, AttentionMap, HeadSummary, visible_pairs, without_sink
from llmcli.inspect.document import ShownToken
from llmcli.inspect.patterns import PATTERNS, PatternSums

LABELS = ["<s>", "␣Once", "␣你好", "👍", "↵", "⟨E4⟩", "<b>$x$", "␣Once"]


def made(size=8, *, layers=2, heads=4, chosen=((1, 2),), scores=False, sink=False, generated=0, labels=None):
    """Heads that look back by one, at the first token, at themselves, everywhere; by turns."""
    names = labels or [LABELS[i % len(LABELS)] for i in range(size)]
    tokens = [ShownToken(i, f"piece{i}", name) for i, name in enumerate(names)]
    ids = [sorted(set(names)).index(name) for name in names]
    sums = PatternSums(ids, layers, heads)
    every = {(layer, head): weights(size, head, layer) for layer in range(layers) for head in range(heads)}
    for (layer, head), each in every.items():
        sums.add(layer, slice(head, head + 1), each[None], 0, None)
    best = sums.best()
    maps = [drawn(every, layer, head, scores) for layer, head in chosen]
    extra = [ShownToken(99, "last", "␣last")] if generated else []
    return Attention(
        tokens=tokens + extra,
        prompt_length=size - generated + 1 if generated else size,
        heads=[
            HeadSummary(layer, head, head // 2, float(sums.entropy[layer, head]), *best[layer][head])
            for layer in range(layers)
            for head in range(heads)
        ],
        strengths={pattern: sums.strengths[pattern] for pattern in PATTERNS},
        maps=[without_sink(each) for each in maps] if sink else maps,
    )


def weights(size, head, layer):
    query, key = np.indices((size, size))
    target = (query - 1, 0 * query, query, query // 2)[head % 4]
    raw = np.where(key <= query, np.exp(-np.abs(key - target) * (3.0 - layer)), 0.0)
    return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)


def drawn(every, layer, head, scores):
    size = every[0, 0].shape[0]
    if head is None:
        mean = np.mean([each for (at, _), each in every.items() if at == layer], axis=0)
        return AttentionMap(layer, None, None, mean, visible_pairs(size, None), grouped=True)
    query, key = np.indices((size, size))
    pairs = (np.sin(query + 2.0 * key) * 3).astype(np.float32) if scores else None
    return AttentionMap(layer, head, head // 2, every[layer, head], visible_pairs(size, None), pairs, grouped=True)
