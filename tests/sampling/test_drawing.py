"""The streams of random numbers, by published values, and the draw by hand."""

import numpy as np
import pytest
import torch

from llmcli.sampling.drawing import _mixed, _walk, draw


@pytest.mark.parametrize(
    ("seed", "outputs"),
    [
        (0, (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4)),
        (1234567, (6457827717110365317, 3203168211198807973, 9817491932198370423)),
    ],
)
def test_the_seed_of_another_stream_is_that_output_of_splitmix64(seed, outputs):
    for stream, output in enumerate(outputs, 1):
        assert _mixed(seed, stream) == output >> 1


@pytest.mark.parametrize("seed", [1, 2**31, 2**62 + 12345, 2**63 - 1])
def test_it_wraps_at_64_bits(seed):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    assert _mixed(seed, 1) == int(z ^ (z >> np.uint64(31))) >> 1


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000])
def test_the_draw_of_many_is_a_plain_walk_through_all(size):
    """However many rows the candidates take."""
    logits = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 2
    shares = np.exp((logits - logits.amax()).numpy()).astype(np.float64)
    shares /= shares.sum()
    for uniform in np.linspace(0.0005, 0.9995, 97):
        index, share = draw(logits, float(uniform))
        assert index == np.searchsorted(np.cumsum(shares), uniform, side="right")
        assert share == pytest.approx(shares[index], rel=1e-6)


def test_the_very_end_lies_in_the_last_stretch_that_is_not_empty():
    for ends in ([0.25, 0.5], [0.25, 0.5, 0.5], [1.5, 3.0, 3.0]):
        index, rest = _walk(np.array(ends), ends[-1])
        assert index == 1
        assert rest == pytest.approx(ends[1] - ends[0])
