"""The guided walk's numbers, beside `transformers`, numpy, and what generation draws."""

import math
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tiny_families import EVERY, pair, some_ids

from llmcli.errors import ContextLengthError, UsageError
from llmcli.inspect.explain import NAMES, explain
from llmcli.model.recorder import Recorder

IDS = some_ids(12)
LAYER = 1


def stages(walk, kind):
    return [stage for stage in walk.stages if stage.kind == kind]


def only(walk, kind):
    (found,) = stages(walk, kind)
    return found


@contextmanager
def watched(module):
    """What goes into a module and what comes out of it, a pair for each call."""
    seen = []
    forward = module.forward

    def watching(x, *others):
        seen.append((x, forward(x, *others)))
        return seen[-1][1]

    with patch.object(module, "forward", watching):
        yield seen


@torch.inference_mode()
def theirs(name):
    return pair(name).reference(torch.tensor([IDS]), output_hidden_states=True, output_attentions=True)


def lengths(hidden):
    return np.linalg.norm(hidden.double().numpy(), axis=-1)


@pytest.mark.parametrize("name", EVERY)
def test_numbers_equal_the_reference(name):
    walk = explain(pair(name).pipeline, IDS, layer=LAYER, seed=1)
    reference = theirs(name)
    states = [state[0] for state in reference.hidden_states]
    embedding, attention, blocks = (only(walk, kind) for kind in ("embedding", "attention", "blocks"))
    np.testing.assert_allclose(embedding.vectors, states[0][:, :8], atol=1e-5)
    np.testing.assert_allclose(embedding.lengths, lengths(states[0]), rtol=1e-5)
    np.testing.assert_allclose(attention.weights, reference.attentions[LAYER][0].mean(0), atol=1e-5)
    assert not np.triu(attention.weights, 1).any()
    first, last = stages(walk, "residual")[0], stages(walk, "residual")[-1]
    np.testing.assert_allclose(first.before, lengths(states[LAYER]), rtol=1e-4)
    np.testing.assert_allclose(last.after, lengths(states[LAYER + 1]), rtol=1e-4)
    # The last of the reference's states is already normed.
    ours = [blocks.length, *(row.length for row in blocks.rows[:-1])]
    assert ours == pytest.approx([float(lengths(state[-1])) for state in states[:-1]], rel=1e-4)
    np.testing.assert_allclose(only(walk, "lm_head").logits, reference.logits[0, -1], atol=1e-4)
    assert blocks.rows[-1].says.token.id == int(reference.logits[0, -1].argmax())
    final = stages(walk, "norm")[-1]
    np.testing.assert_allclose(final.after.mean, states[-1].double().mean(1), atol=1e-5)
    np.testing.assert_allclose(final.after.spread, states[-1].double().std(1, correction=0), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("gpt2", "norm attention residual norm ffn residual"),
        ("llama", "norm attention residual norm ffn residual"),
        ("gpt_neox", "norm attention norm ffn residual"),
        ("gpt_neox-serial", "norm attention residual norm ffn residual"),
        ("gemma2", "norm attention norm residual norm ffn norm residual"),
        ("olmo2", "attention norm residual ffn norm residual"),
    ],
)
def test_the_order_of_a_block_is_the_familys(name, order):
    walk = explain(pair(name).pipeline, IDS, layer=LAYER, seed=1)
    assert walk.order == order.split()
    assert [stage.kind for stage in walk.stages if stage.layer is not None] == order.split()
    kinds = ["encoding", "embedding", *walk.order, "blocks", "norm", "lm_head", "softmax", "sampling", "decoding"]
    assert [stage.kind for stage in walk.stages] == kinds
    assert [stage.number for stage in walk.stages] == list(range(walk.count))
    places = {"pre": ["before attention", "before ffn"], "post": ["after attention", "after ffn"]}
    places["sandwich"] = ["before attention", "after attention", "before ffn", "after ffn"]
    found = [stage.place for stage in walk.stages if stage.kind == "norm"]
    assert found == [*places[pair(name).pipeline.model.config.norm_placement], "before lm_head"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "olmo2"])
def test_norms_equal_numpy(name):
    """Every norm of the block: what it gives, from what it reads and the stored weights."""
    pipeline = pair(name).pipeline
    walk, block = explain(pipeline, IDS, layer=LAYER, seed=1), pipeline.model.blocks[LAYER]
    modules = {
        "before attention": block.attention_norm,
        "after attention": block.attention_post_norm,
        "before ffn": block.ffn_norm,
        "after ffn": block.ffn_post_norm,
    }
    with ExitStack() as watching:
        seen = {place: watching.enter_context(watched(module)) for place, module in modules.items()}
        pipeline.logits(IDS)
    for stage in stages(walk, "norm")[:-1]:
        before, after = (each[0].double().numpy() for each in seen[stage.place][0])
        for moments, x in ((stage.before, before), (stage.after, after)):
            np.testing.assert_allclose(moments.mean, x.mean(1), atol=1e-5)
            np.testing.assert_allclose(moments.spread, x.std(1), atol=1e-5)
            np.testing.assert_allclose(moments.rms, (x**2).mean(1) ** 0.5, atol=1e-5)
        module = modules[stage.place]
        if name in ("gpt2", "gpt_neox"):
            scaled = (before - before.mean(1)[:, None]) / np.sqrt(before.var(1) + module.eps)[:, None]
            again = scaled * module.weight.detach().numpy() + module.bias.detach().numpy()
            np.testing.assert_allclose(stage.scaled.mean, 0, atol=1e-9)
        else:
            scaled = before / np.sqrt((before**2).mean(1) + module.eps)[:, None]
            again = scaled * (module.weight.detach().numpy() + (1 if name == "gemma2" else 0))
            np.testing.assert_allclose(stage.scaled.rms, 1, atol=1e-3)
        np.testing.assert_allclose(stage.scaled.spread, scaled.std(1), atol=1e-6)
        np.testing.assert_allclose(stage.after.mean, again.mean(1), atol=1e-5)
        np.testing.assert_allclose(stage.after.spread, again.std(1), atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "olmo2"])
def test_residuals_add_up(name):
    pipeline = pair(name).pipeline
    first, second = stages(explain(pipeline, IDS, layer=LAYER, seed=1), "residual")
    assert (first.part, second.part) == ("attention", "ffn")
    recorder = Recorder({"block", "attention_out"})
    pipeline.model(torch.tensor([IDS]), tap=recorder)
    between = recorder["block", LAYER - 1][0] + recorder["attention_out", LAYER][0]
    np.testing.assert_allclose(first.after, lengths(between.detach()), rtol=1e-6)
    np.testing.assert_array_equal(first.after, second.before)
    assert first.ffn_adds is None
    assert second.attention_adds is None
    row = only(explain(pipeline, IDS, layer=0, seed=1), "blocks").rows[LAYER]  # the same, of a block not opened
    assert row.attention_adds == pytest.approx(first.attention_adds[-1], rel=1e-6)
    assert row.ffn_adds == pytest.approx(second.ffn_adds[-1], rel=1e-6)


def test_parallel_residual_adds_both_at_once():
    residual = only(explain(pair("gpt_neox").pipeline, IDS, layer=LAYER, seed=1), "residual")
    assert residual.part == "both"
    assert residual.attention_adds is not None
    assert residual.ffn_adds is not None


def test_embedding_rows_and_positions_add_up():
    walk = only(explain(pair("gpt2").pipeline, IDS, seed=1), "embedding")
    state = pair("gpt2").reference.state_dict()
    np.testing.assert_array_equal(walk.rows, state["transformer.wte.weight"][IDS, :8])
    np.testing.assert_array_equal(walk.position_rows, state["transformer.wpe.weight"][: len(IDS), :8])
    np.testing.assert_array_equal(walk.vectors, walk.rows + walk.position_rows)
    gemma = only(explain(pair("gemma2").pipeline, IDS, seed=1), "embedding")
    assert gemma.scale == pytest.approx(math.sqrt(48))
    np.testing.assert_allclose(gemma.vectors, gemma.rows * gemma.scale, rtol=1e-6)
    assert gemma.positions is None


def test_the_feed_forward_network_on_the_way():
    state = pair("llama").reference.state_dict()
    gate, up, down = (
        state[f"model.layers.{LAYER}.mlp.{part}_proj.weight"].double().numpy() for part in ("gate", "up", "down")
    )
    pipeline = pair("llama").pipeline
    with watched(pipeline.model.blocks[LAYER].ffn) as seen:
        pipeline.logits(IDS)
    found = only(explain(pipeline, IDS, layer=LAYER, seed=1), "ffn")
    x = seen[0][0][0, -1].double().numpy()
    before = gate @ x
    activated = before / (1 + np.exp(-before))
    hidden = activated * (up @ x)
    expected = {"read": x, "before": before, "activated": activated, "hidden": hidden, "added": down @ hidden}
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(found, name), values[:8], atol=1e-5, err_msg=name)
    assert found.positive == int((before > 0).sum())
    assert [(step.name, step.input, step.output) for step in found.steps] == [
        ("gate", (12, 48), (12, 64)),
        ("up", (12, 48), (12, 64)),
        ("activation", (12, 64), (12, 64)),
        ("down", (12, 64), (12, 48)),
    ]


def test_the_curve_is_the_activation():
    x = only(explain(pair("llama").pipeline, IDS, seed=1), "ffn").curve_x.astype(np.float64)
    silu = only(explain(pair("llama").pipeline, IDS, seed=1), "ffn").curve_y
    np.testing.assert_allclose(silu, x / (1 + np.exp(-x)), atol=1e-6)
    gelu = only(explain(pair("gpt_neox").pipeline, IDS, seed=1), "ffn").curve_y
    exact = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]
    np.testing.assert_allclose(gelu, exact, atol=1e-6)
    assert only(explain(pair("gpt2").pipeline, IDS, seed=1), "ffn").gated is False


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "olmo2"])
def test_another_tokens_input_leaves_the_feed_forward_output_alone(name):
    alone = only(explain(pair(name).pipeline, IDS, layer=LAYER, seed=1), "ffn").alone
    assert (alone.changed, alone.token) == (10, 11)
    assert alone.here <= 1e-6
    assert alone.itself > 0.1
    assert alone.by_attention > 0.01


def test_a_feed_forward_network_that_looked_around_would_be_found_out(monkeypatch):
    pipeline = pair("llama").pipeline
    network = pipeline.model.blocks[LAYER].ffn
    own = type(network).forward
    monkeypatch.setattr(network, "forward", lambda x, tap: own(network, x + x.mean(1, keepdim=True), tap))
    assert only(explain(pipeline, IDS, layer=LAYER, seed=1), "ffn").alone.here > 0.01


def test_shapes_of_grouped_attention_and_of_every_stage():
    walk = explain(pair("llama").pipeline, IDS, seed=1)
    assert [(step.name, step.output) for step in only(walk, "attention").steps] == [
        ("Q", (4, 12, 12)),
        ("K, V", (2, 12, 12)),
        ("rotation", (4, 12, 12)),
        ("scores", (4, 12, 12)),
        ("weights", (4, 12, 12)),
        ("mix", (4, 12, 12)),
        ("output", (12, 48)),
    ]
    ends = {stage.kind: (stage.input, stage.output) for stage in walk.stages}
    assert ends["embedding"] == ((12,), (12, 48))
    assert ends["attention"] == ends["ffn"] == ends["norm"] == ends["residual"] == ((12, 48), (12, 48))
    assert ends["lm_head"] == ((12, 48), (12, 101))
    assert ends["softmax"] == ((101,), (101,))
    assert ends["sampling"] == ((101,), (1,))
    assert ends["decoding"] == ((1,), (13,))


def test_no_rotation_where_a_layer_has_none():
    pipeline = pair("smollm3").pipeline
    rotates = [
        any(step.name == "rotation" for step in only(explain(pipeline, IDS, layer=layer, seed=1), "attention").steps)
        for layer in range(3)
    ]
    assert rotates == [True, False, True]


def test_softmax_equals_numpy():
    walk = explain(pair("llama").pipeline, IDS, seed=1)
    logits = only(walk, "lm_head").logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max())
    p = exponentials / exponentials.sum()
    softmax = only(walk, "softmax")
    assert softmax.total == pytest.approx(exponentials.sum())
    assert softmax.sum == pytest.approx(1)
    assert softmax.entropy == pytest.approx(-(p * np.log2(p)).sum())
    assert softmax.choices == pytest.approx(2**softmax.entropy)
    best = np.argsort(-p)[:5]
    assert [each.token.id for each in softmax.top] == best.tolist()
    assert [each.prob for each in softmax.top] == pytest.approx(p[best])
    assert [each.exponential for each in softmax.top] == pytest.approx(exponentials[best])


OPTIONS = [
    {},
    {"temperature": 1.7},
    {"temperature": 1.0, "top_p": 1.0},
    {"top_k": 7, "top_p": 0.8, "temperature": 1.3},
    {"min_p": 0.1, "repetition_penalty": 1.4, "typical_p": 0.9},
    {"greedy": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_token_drawn_is_what_generation_draws(options, seed):
    pipeline = pair("llama").pipeline
    walk = explain(pipeline, IDS, seed=seed, **options)
    sampling = only(walk, "sampling")
    assert sampling.drawn.token.id == pipeline.generate_ids(IDS, max_tokens=1, seed=seed, **options)[0]
    assert only(walk, "decoding").token == sampling.drawn.token
    if "greedy" in options:
        assert (sampling.seed, sampling.uniform) == (None, None)
    else:
        assert sampling.seed == seed
        assert sampling.low - 1e-9 <= sampling.uniform < sampling.high + 1e-9


def test_a_fresh_seed_is_told():
    pipeline = pair("llama").pipeline
    sampling = only(explain(pipeline, IDS, temperature=2.0), "sampling")
    again = pipeline.generate_ids(IDS, max_tokens=1, temperature=2.0, seed=sampling.seed)
    assert sampling.drawn.token.id == again[0]


def test_a_text_is_encoded_and_decoded():
    pipeline = pair("gpt2-bytes").pipeline
    walk = pipeline.explain("né", seed=1)
    encoding, decoding = only(walk, "encoding"), only(walk, "decoding")
    assert (encoding.text, encoding.characters, encoding.bytes, encoding.added) == ("né", 2, 3, 0)
    assert [token.id for token in walk.tokens] == list("né".encode())
    assert encoding.output == (3,)
    drawn = decoding.token.id
    if drawn < 256:
        assert bytes(decoding.bytes) == bytes([drawn])
    assert decoding.ends is (drawn == 2)


def test_one_token_and_one_layer_are_enough():
    walk = explain(pair("llama").pipeline, [5], layer=2, seed=1)
    assert only(walk, "ffn").alone is None
    np.testing.assert_array_equal(only(walk, "attention").weights, [[1.0]])


@pytest.mark.parametrize("name", NAMES)
def test_one_stage_keeps_its_number(name):
    pipeline = pair("llama").pipeline
    whole, part = explain(pipeline, IDS, seed=1), explain(pipeline, IDS, seed=1, only=name)
    kinds = {"norm", "attention", "residual", "ffn"} if name == "block" else {name}
    expected = [s for s in whole.stages if s.kind in kinds and (name != "block" or s.layer is not None)]
    assert [(s.number, s.kind) for s in part.stages] == [(s.number, s.kind) for s in expected]
    assert part.stages
    assert part.count == whole.count


def test_what_is_not_there_is_refused():
    pipeline = pair("llama").pipeline
    with pytest.raises(UsageError, match="no layer 3"):
        explain(pipeline, IDS, layer=3)
    with pytest.raises(UsageError, match="no stage 'mlp'"):
        explain(pipeline, IDS, only="mlp")
    with pytest.raises(ContextLengthError):
        explain(pipeline, some_ids(129))


def test_other_dtypes_are_told_in_float32():
    from llmcli.pipeline import Pipeline

    pipeline = Pipeline.load(pair("llama").folder, device="cpu", dtype="bfloat16")
    walk = explain(pipeline, IDS, seed=1)
    assert only(walk, "lm_head").logits.dtype == np.float32
    assert only(walk, "ffn").added.dtype == np.float32
