"""Each way of attention against the plain one."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from llmcli.model import attend
from llmcli.model.processor import fast_bfloat16

needs_bfloat16 = pytest.mark.skipif(not fast_bfloat16(), reason="this processor has no fast bfloat16")


@needs_bfloat16
@pytest.mark.parametrize("queries", [128, 129, 300])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("amx", [False, True])
@torch.inference_mode()
def test_many_queries_in_bfloat16(monkeypatch: pytest.MonkeyPatch, queries: int, kv_heads: int, amx: bool) -> None:
    monkeypatch.setattr(attend, "tiles", lambda: amx)
    generator = torch.Generator().manual_seed(queries)
    q = torch.randn(2, 4, queries, 32, generator=generator)
    k, v = (torch.randn(2, kv_heads, queries, 32, generator=generator) for _ in range(2))
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
    monkeypatch.setattr(attend if amx else F, "_blocks" if amx else "scaled_dot_product_attention", None)
    found = attend.attend(q, k, v, None, scale=0.3, softcap=0.0, rounded=True)
    assert found.shape == wanted.shape
    assert found.dtype == torch.bfloat16
    assert float((found.float() - wanted).norm() / wanted.norm()) < 1e-2
    # What stands behind a query is not seen at all.
    v[:, :, -1] = 1e4
    again = attend.attend(q, k, v, None, scale=0.3, softcap=0.0, rounded=True)
    assert torch.equal(again[:, :, :-1], found[:, :, :-1])
    assert not torch.equal(again[:, :, -1], found[:, :, -1])


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_one_query_of_each_text(monkeypatch: pytest.MonkeyPatch, kv_heads: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(kv_heads)
    q = torch.randn(3, 1, 4, 16, generator=generator).transpose(1, 2)
    k, v = (torch.randn(5, kv_heads, 9, 16, generator=generator)[:3] for _ in range(2))
    mask = (torch.arange(9) <= torch.tensor([8, 3, 0])[:, None])[:, None, None] if masked else None
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    found = attend.attend(q, k, v, mask, scale=0.3, softcap=0.0, rounded=False)
    assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("texts", [1, 3])
def test_one_query_of_each_text_in_bfloat16(monkeypatch: pytest.MonkeyPatch, kv_heads: int, texts: int) -> None:
    generator = torch.Generator().manual_seed(kv_heads)
    q = torch.randn(texts, 4, 1, 16, generator=generator).bfloat16()
    k, v = (torch.randn(texts, kv_heads, 9, 16, generator=generator).bfloat16() for _ in range(2))
    mask = (torch.arange(9) <= torch.tensor([8, 3, 0])[:texts, None])[:, None, None]
    exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, scale=0.3, enable_gqa=True)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    monkeypatch.setattr(attend, "tiles", lambda: False)
    found = attend.attend(q, k, v, mask, scale=0.3, softcap=0.0, rounded=True)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), exact, atol=0.03)
    # What may not be seen has no share at all.
    v[:, :, 1:][mask.expand(-1, kv_heads, -1, -1)[:, :, 0, 1:].logical_not()] = 1e4
    assert torch.equal(attend.attend(q, k, v, mask, scale=0.3, softcap=0.0, rounded=True), found)


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("texts", [1, 3])
@pytest.mark.parametrize("amx", [False, True])
def test_which_way_one_query_goes_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, kv_heads: int, texts: int, amx: bool
) -> None:
    monkeypatch.setattr(attend, "tiles", lambda: amx)
    generator = torch.Generator().manual_seed(kv_heads)
    q = torch.randn(texts, 4, 1, 16, generator=generator).bfloat16()
    k, v = (torch.randn(texts, kv_heads, 9, 16, generator=generator).bfloat16() for _ in range(2))
    mask = (torch.arange(9) <= torch.tensor([8, 3, 0])[:texts, None])[:, None, None]
    calls, products = [], attend._one_each
    monkeypatch.setattr(attend, "_one_each", lambda *args: calls.append(args) or products(*args))
    found = attend.attend(q, k, v, attend.added_mask(mask), scale=0.3, softcap=0.0, rounded=True)
    assert bool(calls) == (not amx or (texts > 1 and kv_heads < 4))
    keys, values = (each.float().repeat_interleave(4 // kv_heads, dim=1) for each in (k, v))
    weights = attend.attention_weights(attend.attention_scores(q.float(), keys, 0.3, 0.0), mask)
    assert torch.allclose(found.float(), weights @ values, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("queries", [1, 2])
def test_a_mask_can_be_added_instead(queries: int, softcap: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(queries)
    q = torch.randn(3, 4, queries, 16, generator=generator).to(dtype)
    k, v = (torch.randn(3, 2, 9, 16, generator=generator).to(dtype) for _ in range(2))
    seen = (torch.arange(9) <= torch.tensor([8, 3, 0])[:, None])[:, None, None].expand(3, 1, queries, 9)
    given = {"scale": 0.3, "softcap": softcap, "rounded": False}
    found = attend.attend(q, k, v, torch.where(seen, 0.0, float("-inf")), **given)
    assert torch.allclose(found.float(), attend.attend(q, k, v, seen, **given).float(), atol=1e-6)
    assert torch.allclose(found[2, :2], v[2, :1, :1].expand(2, queries, 16))  # it sees one key


@needs_bfloat16
def test_a_training_step_in_bfloat16_goes_through_blocks_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    q, k, v, towards = (torch.randn(2, heads, 200, 32, generator=generator) for heads in (4, 2, 2, 4))
    given = [each.requires_grad_() for each in (q, k, v)]
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.2, enable_gqa=True)
    exact = torch.autograd.grad(wanted, given, towards)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend.attend(q, k, v, None, scale=0.2, softcap=0.0, rounded=False)
    for one, other in zip(torch.autograd.grad(found, given, towards.bfloat16()), exact, strict=True):
        assert float((one - other).norm() / other.norm()) < 2e-2


@torch.inference_mode()
def test_nothing_is_rounded_unless_it_is_anyway() -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 2, 200, 16, generator=generator) for _ in range(3))
    found = attend.attend(q, k, v, None, scale=0.25, softcap=0.0, rounded=False)
    scores = attend.attention_scores(q, k, 0.25, 0.0)
    wanted = attend.attention_weights(scores, attend.full_mask(None, q, k)) @ v
    assert found.dtype == torch.float32
    assert torch.allclose(found, wanted, atol=1e-5)


_KEPT = """
import torch
from llmcli.model import heap
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
if {keep}:
    heap.keep()
before = resident()
torch.ones(4 << 20)  # 16 MB, and free at once
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, sets glibc's allocator")
def test_a_program_of_one_model_keeps_freed_memory() -> None:
    left = [
        int(subprocess.run([sys.executable, "-c", _KEPT.format(keep=keep)], check=True, capture_output=True).stdout)
        for keep in (False, True)
    ]
    assert left[0] < 4 << 20 < 12 << 20 < left[1]


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("products", [False, True])
def test_what_keys_are_read_as(amx: bool, products: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "tiles", lambda: amx)
    monkeypatch.setattr(attend, "fast_bfloat16", lambda: products)
    for kept in (torch.float32, torch.bfloat16, torch.float16):
        for rounded in (False, True):
            for texts, queries in ((1, 1), (1, 2), (3, 1), (3, 2)):
                given = torch.zeros(texts, 2, 9, 4, dtype=kept)
                several = products and queries == 1 and texts > 1
                half = kept == torch.bfloat16 and rounded and (amx or several)
                found = attend.read_as(given, queries, torch.bfloat16, rounded=rounded)
                assert found == (torch.bfloat16 if half else torch.float32)
                # On another device, in what the model computes in.
                for computed in (torch.float16, torch.float32):
                    assert attend.read_as(given.to("meta"), queries, computed, rounded=rounded) == computed


@pytest.mark.parametrize("masked", ["none", "seen", "added"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("amx", [False, True])
def test_one_query_reads_the_keys_of_a_group_once(
    amx: bool, dtype: torch.dtype, kv_heads: int, masked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attend, "tiles", lambda: amx)
    generator = torch.Generator().manual_seed(kv_heads)
    q = torch.randn(1, 8, 1, 16, generator=generator).to(dtype)
    k, v = (torch.randn(1, kv_heads, 9, 16, generator=generator).to(dtype) for _ in range(2))
    seen = torch.arange(9)[None] > (2 if masked != "none" else -1)
    mask = {"none": None, "seen": seen, "added": attend.added_mask(seen)}[masked]
    calls = []
    plain = attend._as_rows
    monkeypatch.setattr(attend, "_as_rows", lambda *args: calls.append(args) or plain(*args))
    found = attend.attend(q, k, v, mask, scale=0.3, softcap=0.0, rounded=False)
    assert bool(calls) == (amx and 8 // kv_heads > (1 if dtype == torch.float32 else 3))
    keys, values = (each.float().repeat_interleave(8 // kv_heads, dim=1) for each in (k, v))
    weights = attend.attention_weights(attend.attention_scores(q.float(), keys, 0.3, 0.0), seen)
    assert found.dtype == dtype
    assert torch.allclose(found.float(), weights @ values, atol=1e-6 if dtype == torch.float32 else 0.03)
