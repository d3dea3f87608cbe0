"""Learned tables, RoPE, moved and shuffled texts, beside naive computations and `transformers`."""

import cmath
import math

import numpy as np
import pytest
import torch
from model.variants import VARIANTS
from tiny_families import pair, some_ids

from llmcli.errors import UsageError
from llmcli.inspect.order import shift, shuffle
from llmcli.inspect.positions import components_for, cosine_similarity, learned_table, principal_variance, waves
from llmcli.inspect.rope import matrix_of, rope_report, ropes, rotation_at, turned_query

IDS = some_ids(10, seed=7)
ROTARY = ("llama", "gpt_neox", "qwen3", "gemma2", "gemma3-linear", "smollm3", "phi3-partial-sliding", "olmo2")
SCALED = ("llama-linear", "llama-llama3", "llama-yarn", "llama-yarn-betas", "gemma3-linear")


# --- a learned table ---


def test_waves_that_were_put_in_are_found():
    m = np.arange(300)
    rng = np.random.default_rng(0)
    table = np.stack(
        [
            3 * np.sin(2 * np.pi * m / 41.3 + 0.7) + 0.5,
            0.1 * np.cos(2 * np.pi * 0.4321 * m),
            np.sin(2 * np.pi * m / 20) + np.sin(2 * np.pi * m / 7.5),
            np.full(300, 2.5),
            rng.standard_normal(300),
        ],
        axis=1,
    ).astype(np.float32)
    found = waves(table)
    assert found[0].wavelength == pytest.approx(41.3, rel=2e-3)
    assert found[0].explained > 0.999
    assert found[0].spread == pytest.approx(float(table[:, 0].std()), rel=1e-5)
    assert found[1].frequency == pytest.approx(0.4321, abs=1e-4)
    assert found[1].explained > 0.999
    assert found[2].explained == pytest.approx(0.5, abs=0.03)
    assert (found[3].frequency, found[3].wavelength, found[3].explained) == (None, None, 0.0)
    assert found[4].explained < 0.15


def test_explained_is_that_of_the_least_squares_fit():
    table = np.random.default_rng(1).standard_normal((60, 6)).cumsum(axis=0).astype(np.float32)
    m = np.arange(60)
    for channel, wave in enumerate(waves(table)):
        x = table[:, channel].astype(np.float64)

        def share(frequency: float, x: np.ndarray = x) -> float:
            basis = np.stack([np.cos(2 * np.pi * frequency * m), np.sin(2 * np.pi * frequency * m), np.ones(60)], 1)
            rest = x - basis @ np.linalg.lstsq(basis, x, rcond=None)[0]
            return 1 - float((rest**2).sum() / ((x - x.mean()) ** 2).sum())

        assert wave.frequency is not None
        assert wave.explained == pytest.approx(share(wave.frequency), abs=1e-8)
        assert wave.explained >= max(share(k / 240) for k in range(2, 120)) - 1e-9


def test_a_table_too_short_for_waves():
    assert [wave.frequency for wave in waves(np.eye(5, dtype=np.float32))] == [None] * 5


def test_similarity_equals_a_naive_loop():
    table = np.random.default_rng(2).standard_normal((7, 5)).astype(np.float32)
    table[3] = 0
    similarity = cosine_similarity(table)
    for i in range(7):
        for j in range(7):
            lengths = np.linalg.norm(table[i]) * np.linalg.norm(table[j])
            expected = float(table[i] @ table[j]) / lengths if lengths else 0.0
            assert similarity[i, j] == pytest.approx(expected, abs=1e-6)


def test_components_equal_those_of_the_covariance():
    table = (np.random.default_rng(3).standard_normal((40, 4)) * (5, 3, 1, 0.1)).astype(np.float32)
    values = np.sort(np.linalg.eigvalsh(np.cov(table.T.astype(np.float64))))[::-1]
    variance = principal_variance(table)
    assert variance == pytest.approx(values / values.sum(), abs=1e-9)
    assert components_for(variance, 0.9) == int(np.flatnonzero(np.cumsum(values / values.sum()) >= 0.9)[0]) + 1
    assert components_for(np.array([0.5, 0.4, 0.1]), 0.9) == 2
    assert components_for(principal_variance(np.ones((4, 3), np.float32)), 0.9) == 0


def test_learned_table_is_the_models_own():
    found = learned_table(pair("gpt2").pipeline)
    assert np.array_equal(found.table, pair("gpt2").reference.transformer.wpe.weight.detach().numpy())
    assert len(found.waves) == found.table.shape[1]
    assert found.similarity.shape == (128, 128)
    assert [each.share for each in found.redundancy] == [0.9, 0.99]
    with pytest.raises(UsageError, match="no learned table"):
        learned_table(pair("llama").pipeline)


# --- RoPE ---


@pytest.mark.parametrize("name", [*ROTARY, *SCALED])
def test_angles_equal_the_reference(name):
    reference = pair(name).reference
    found = {rope.layer_type: rope for rope in ropes(pair(name).pipeline.model.config)}
    rotary = reference.base_model.rotary_emb
    for kind, rope in found.items():
        theirs = getattr(rotary, f"{kind}_inv_freq", None)
        theirs = rotary.inv_freq if theirs is None else theirs
        assert [each.theta for each in rope.pairs] == pytest.approx(theirs.tolist(), rel=1e-6)
        assert [each.wavelength for each in rope.pairs] == pytest.approx((2 * math.pi / theirs).tolist(), rel=1e-6)
        context = pair(name).pipeline.model.config.context_length
        assert rope.beyond == int((2 * math.pi / theirs > context).sum())
        half = len(rope.pairs)
        assert [each.channels for each in rope.pairs] == [(i, i + half) for i in range(half)]


def test_unscaled_angles_are_those_of_the_formula():
    rope = ropes(pair("llama-yarn").pipeline.model.config)[0]
    assert rope.scaling == "yarn"
    assert rope.settings["factor"] == 4.0
    assert [p.unscaled for p in rope.pairs] == pytest.approx(
        [10_000 ** (-2 * i / rope.dim) for i in range(6)], rel=1e-6
    )
    assert any(abs(p.theta - p.unscaled) > 1e-4 for p in rope.pairs)


def test_layers_are_told_by_type_and_those_without_rotation_left_out():
    by_type = {rope.layer_type: rope.layers for rope in ropes(pair("gemma3-linear").pipeline.model.config)}
    assert by_type == {"full_attention": [3], "sliding_attention": [0, 1, 2]}
    assert ropes(pair("smollm3").pipeline.model.config)[0].layers == [0, 2]
    with pytest.raises(UsageError, match="no RoPE"):
        ropes(pair("gpt2").pipeline.model.config)


@pytest.mark.parametrize("name", [*ROTARY, "llama-yarn"])
@pytest.mark.parametrize("text", [None, IDS])
def test_matrix_product_and_hadamard_form_agree(name, text):
    pipeline = pair(name).pipeline
    for each in rotation_at(pipeline, 37, text).rotations:
        assert each.difference <= 1e-5
        assert each.of_text == (text is not None)
        half = len(each.blocks)
        factor = next(r.attention_factor for r in ropes(pipeline.model.config) if r.layer_type == each.layer_type)
        rotating = each.matrix[: 2 * half, : 2 * half]
        assert rotating @ rotating.T == pytest.approx(np.eye(2 * half) * factor**2, abs=1e-5)
        for i, angle in enumerate(each.angles):
            expected = factor * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            assert each.blocks[i] == pytest.approx(expected, abs=1e-5)
            assert each.matrix[np.ix_((i, i + half), (i, i + half))] == pytest.approx(expected, abs=1e-5)
        assert np.count_nonzero(each.matrix) <= 4 * half + len(each.matrix) - 2 * half


def test_matrices_of_two_positions_combine_to_that_of_their_distance():
    theta = np.array([1.0, 0.1, 0.01])

    def matrix(m: int) -> np.ndarray:
        return matrix_of(np.cos(m * theta).astype(np.float32), np.sin(m * theta).astype(np.float32), 8)[1]

    assert matrix(3).T @ matrix(10) == pytest.approx(matrix(7), abs=1e-6)
    assert matrix(5)[6:, 6:] == pytest.approx(np.eye(2))


def test_query_is_turned_as_a_complex_number_is():
    pipeline = pair("llama").pipeline
    turned = turned_query(pipeline, IDS, layer=1, head=2, pair=3)
    theta = ropes(pipeline.model.config)[0].pairs[3].theta
    number = complex(*turned.before.tolist())
    assert turned.position == 9
    for m, (x, y) in enumerate(turned.path.tolist()):
        assert abs(number * cmath.exp(1j * m * theta) - complex(x, y)) < 1e-5
    assert np.array_equal(turned.after, turned.path[-1])
    plain = turned_query(pipeline)
    assert plain.token is None
    assert plain.after == pytest.approx([math.cos(8), math.sin(8)], abs=1e-6)


def test_query_is_the_references():
    pipeline, reference = pair("llama").pipeline, pair("llama").reference
    attention, kept = reference.model.layers[1].self_attn, []
    hook = attention.q_proj.register_forward_hook(lambda _m, _i, out: kept.append(out))
    with torch.no_grad():
        reference(torch.tensor([IDS]))
    hook.remove()
    query = kept[0][0, 4].view(4, 12)[2]
    assert turned_query(pipeline, IDS, layer=1, head=2, pair=1, token=4).before == pytest.approx(
        query[[1, 7]].tolist(), abs=1e-5
    )


def test_curves_of_the_pairs_asked_for():
    report = rope_report(pair("llama").pipeline, pairs="1,-1")
    assert [curve.pair for curve in report.curves] == [1, 5]
    for curve in report.curves:
        theta = report.ropes[0].pairs[curve.pair].theta
        assert curve.cos == pytest.approx([math.cos(x * theta) for x in curve.positions])
        assert curve.sin == pytest.approx([math.sin(x * theta) for x in curve.positions])
        assert curve.positions[-1] <= 127
    assert report.query.pair == 1


@pytest.mark.parametrize("options", [{"layer": 1}, {"head": 4}, {"pairs": "6"}, {"token": 10}])
def test_rope_of_what_is_not_there(options):
    with pytest.raises(UsageError):
        rope_report(pair("smollm3").pipeline, IDS, **options)  # layer 1 does not rotate


# --- moved and shuffled texts ---


@pytest.mark.parametrize("k", [1, 7, 64, 512])
@pytest.mark.parametrize("name", [*ROTARY, "llama-llama3", "llama-yarn"])
def test_moving_changes_no_score_under_rope(name, k):
    found = shift(pair(name).pipeline, IDS, k)
    assert found.change <= 1e-4
    assert len(found.layers) == pair(name).pipeline.model.config.num_layers
    assert all(each.largest > 0 for each in found.layers)


@pytest.mark.parametrize("k", [1, 100, 512])
def test_moving_changes_no_score_of_a_trained_model(shared, k):
    from llmcli.pipeline import Pipeline

    pipeline = Pipeline.load(shared / "models" / "stories260K", device="cpu")
    assert shift(pipeline, "Once upon a time there was a little girl named Lily.", k).change <= 1e-4


def test_moving_changes_scores_under_a_learned_table():
    pipeline = pair("gpt2").pipeline
    found = shift(pipeline, IDS, 30)
    assert found.learned
    assert found.change > 1e-2
    reference = pair("gpt2").reference

    def scores(start: int) -> torch.Tensor:
        block, kept = reference.transformer.h[0].attn, []
        hook = block.c_attn.register_forward_hook(lambda _m, _i, out: kept.append(out))
        with torch.no_grad():
            reference(torch.tensor([IDS]), position_ids=torch.arange(start, start + 10)[None])
        hook.remove()
        q, k, _ = kept[0][0].split(48, dim=-1)
        heads = [part.view(10, 4, 12).transpose(0, 1) for part in (q, k)]
        return heads[0] @ heads[1].transpose(1, 2) / 12**0.5

    expected = ((scores(30) - scores(0)).abs() * torch.ones(10, 10).tril()).max()
    assert found.layers[0].change == pytest.approx(float(expected), rel=1e-4)
    assert shift(pipeline, IDS, 0).change == 0


def test_a_learned_table_ends():
    with pytest.raises(UsageError, match="the table has 128") as caught:
        shift(pair("gpt2").pipeline, IDS, 119)
    assert caught.value.remedy == "give at most 118"
    assert shift(pair("gpt2").pipeline, IDS, 118).change > 0


def test_moves_are_forwards():
    with pytest.raises(UsageError):
        shift(pair("llama").pipeline, IDS, -1)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "qwen3", "gemma3", "olmo2", "phi3", "llama-yarn"])
@pytest.mark.parametrize("seed", [0, 1])
def test_attention_alone_knows_no_order(name, seed):
    ids = IDS[:8]  # within every window
    found = shuffle(pair(name).pipeline, ids, seed=seed)
    assert sorted(found.order) == list(range(8))
    assert found.order[-1] == 7
    assert found.order != list(range(8))
    assert found.with_positions > 1e-3
    assert found.without_positions <= 1e-5
    assert found.window is None


def test_with_positions_is_the_change_that_the_reference_sees():
    found = shuffle(pair("llama").pipeline, IDS, seed=3)
    attention, kept = pair("llama").reference.model.layers[0].self_attn, []
    hook = attention.register_forward_hook(lambda _m, _i, out: kept.append(out[0][0, -1]))
    with torch.no_grad():
        for ids in (IDS, [IDS[i] for i in found.order]):
            pair("llama").reference(torch.tensor([ids]))
    hook.remove()
    before, after = kept
    assert found.with_positions == pytest.approx(
        float((after - before).abs().max()) / max(1.0, float(before.abs().max())), rel=1e-3
    )
    assert found.magnitude == pytest.approx(float(before.abs().max()), rel=1e-4)


def test_a_window_that_hides_tokens_is_told():
    assert shuffle(pair("mistral").pipeline, IDS).window == 9
    assert shuffle(pair("mistral").pipeline, IDS[:9]).window is None


def test_two_tokens_cannot_change_places():
    with pytest.raises(UsageError, match="has 2 tokens"):
        shuffle(pair("llama").pipeline, IDS[:2])


def test_the_variants_named_here_exist():
    assert {*ROTARY, *SCALED} <= set(VARIANTS)
