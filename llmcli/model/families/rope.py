"""RoPE's keys in both forms of config.json -> one `RopeConfig` per layer type.

Old form: `rope_theta` and `rope_scaling` at the top. New form: `rope_parameters`, one object, or one per layer type.
"""

from dataclasses import replace
from typing import cast

from llmcli.model.config import FULL, SLIDING, RopeConfig, RopeKind
from llmcli.model.families.keys import Keys

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
# Every key that some kind of scaling reads, and those that change nothing. Any other is refused by name.
KNOWN = {
    "rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings",
    "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "truncate", "attention_factor", "mscale",
    "mscale_all_dim", "short_factor", "long_factor", "finetuned",
}  # fmt: skip


def read_rope(
    keys: Keys,
    head_dim: int,
    context: int,
    layer_types: tuple[str, ...] = (),
    *,
    theta: float = 10_000.0,
    theta_key: str = "rope_theta",
    partial: float = 1.0,
    partial_key: str = "",
    original: int | None = None,
) -> dict[str, RopeConfig]:
    """One RopeConfig for each layer type in use.

    `theta` and `partial` are the family's defaults, `theta_key` and `partial_key` the keys at the top of config.json
    that `rope_parameters` overrules; a family without `partial_key` rotates whole heads. `original` is the family's
    own original_max_position_embeddings.
    """
    theta = keys.positive(theta_key, theta)
    partial = keys.positive(partial_key, partial, high=1.0) if partial_key else partial
    old, new = keys.object("rope_scaling"), keys.object("rope_parameters")
    own = old if old and old.raw else new or Keys({}, "rope_parameters.")
    # A length at the top of config.json is the pretrained one and wins (Phi-3's form).
    if original or keys.raw.get("original_max_position_embeddings") is not None:
        original = keys.integer("original_max_position_embeddings", original or 2, low=2)
    found = {}
    for kind in sorted(set(layer_types) or {FULL}):
        nested = own.object(kind) if FULL in own.raw or SLIDING in own.raw else own
        if nested is None:
            raise own.wrong(kind, "an object, since some layers are of this type")
        found[kind] = rope_of(nested, head_dim, context, theta, partial, original if nested is own else None)
        if not partial_key and found[kind].dim != head_dim:
            raise nested.refuse("partial_rotary_factor", "such a model rotates whole heads")
    return found


def rope_of(
    own: Keys, head_dim: int, context: int, theta: float, partial: float = 1.0, original: int | None = None
) -> RopeConfig:
    """`own`: the object that describes the rotation; `context`: max_position_embeddings; the rest as above."""
    for name in own.raw:
        if name not in KNOWN:
            raise own.refuse(name, "unknown key of a RoPE scaling")
    theta = own.positive("rope_theta", theta)
    dim = int(head_dim * own.positive("partial_rotary_factor", partial, high=1.0))
    if dim < 1 or dim + dim % 2 > head_dim:  # an odd number of channels is rounded up, where the head has one more
        raise own.refuse("partial_rotary_factor", f"RoPE turns pairs of channels, not {dim} of {head_dim}")
    kind = own.text("rope_type", own.text("type", "default"))
    if kind == "su" or (kind == "yarn" and "short_factor" in own.raw):  # names that longrope had before
        kind = "longrope"
    if kind not in KINDS:
        raise own.refuse("rope_type" if "rope_type" in own.raw else "type", "unknown RoPE scaling")
    if kind == "default":
        return RopeConfig(dim, theta)
    if kind in ("linear", "dynamic"):
        original = context
    else:
        original = original or own.integer("original_max_position_embeddings", context, low=2)
    rope = RopeConfig(dim, theta, cast(RopeKind, kind), _factor(own, kind, context / original), original)
    return _details(rope, own)


def _factor(own: Keys, kind: str, implied: float) -> float:
    factor = own.number("factor", implied if kind in ("yarn", "longrope") else None)
    if factor is None:
        raise own.wrong("factor", "a number")
    return factor


def _details(rope: RopeConfig, own: Keys) -> RopeConfig:
    """Adds the keys that only one kind of scaling reads."""
    if rope.kind == "dynamic" and rope.dim < 3:
        raise own.refuse("rope_type", "dynamic scaling needs at least 3 rotating channels")
    if rope.kind == "llama3":
        low, high = own.number("low_freq_factor"), own.number("high_freq_factor")
        if low is None:
            raise own.wrong("low_freq_factor", "a number")
        if high is None or high <= low:
            raise own.wrong("high_freq_factor", "a number above low_freq_factor")
        return replace(rope, low_freq_factor=low, high_freq_factor=high)
    if rope.kind == "yarn":
        if rope.theta <= 1:
            raise own.refuse("rope_theta", "yarn needs a base above 1")
        return replace(
            rope,
            attention_factor=own.number("attention_factor"),
            beta_fast=own.number("beta_fast", zero=True) or 32.0,
            beta_slow=own.number("beta_slow", zero=True) or 1.0,
            mscale=own.number("mscale", zero=True) or None,
            mscale_all_dim=own.number("mscale_all_dim", zero=True) or None,
            truncate=own.flag("truncate", True),
        )
    if rope.kind == "longrope":
        return replace(
            rope,
            attention_factor=own.number("attention_factor"),
            short_factor=own.numbers("short_factor", (rope.dim + 1) // 2),
            long_factor=own.numbers("long_factor", (rope.dim + 1) // 2),
        )
    return rope
