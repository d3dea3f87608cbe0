"""The views as methods of a loaded pipeline: plain arrays out, everything imported when first asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcli.inspect.ablation import Ablation
    from llmcli.inspect.attention import Attention, Mean
    from llmcli.inspect.cache import CacheReport
    from llmcli.inspect.explain_stages import Walk
    from llmcli.inspect.lens import Lens
    from llmcli.inspect.logits import Distribution, TextFunnel, TextScore
    from llmcli.inspect.model_tree import ModelShape
    from llmcli.inspect.order import Shift, Shuffle
    from llmcli.inspect.positions import LearnedTable
    from llmcli.inspect.rope import RopeReport, Rotations
    from llmcli.inspect.running import Floats
    from llmcli.inspect.steps import HeadSteps
    from llmcli.pipeline import Pipeline, Prompt


class Views:
    """Mixed into `Pipeline`: one method a view. Raises as the view's own function does."""

    def attention(  # type: ignore[misc]
        self: "Pipeline",
        text: "Prompt",
        *,
        layers: "Sequence[int] | None" = None,
        heads: "Sequence[int] | None" = None,
        mean: "Mean | None" = None,
        scores: bool = False,
        drop_sink: bool = False,
        max_tokens: int = 0,
        **params: Any,
    ) -> "Attention":
        """Attention weights with every head's entropy and pattern; see `llmcli.inspect.attention.attention`."""
        from llmcli.inspect.attention import attention

        return attention(
            self,
            text,
            layers=layers,
            heads=heads,
            mean=mean,
            scores=scores,
            drop_sink=drop_sink,
            max_tokens=max_tokens,
            **params,
        )

    def attention_steps(self: "Pipeline", text: "Prompt", *, layer: int, head: int) -> "HeadSteps":  # type: ignore[misc]
        """One head, step by step; see `llmcli.inspect.steps.head_steps`."""
        from llmcli.inspect.steps import head_steps

        return head_steps(self, text, layer=layer, head=head)

    def hidden_states(self: "Pipeline", text: "Prompt") -> "Floats":  # type: ignore[misc]
        """(layers + 1, tokens, hidden) float32: what enters block 0, then what leaves each block."""
        from llmcli.inspect.hidden import hidden_states

        return hidden_states(self, text)

    def next_token(self: "Pipeline", text: "Prompt", **options: Any) -> "Distribution":  # type: ignore[misc]
        """What may follow a token of the text; see `llmcli.inspect.logits.distribution`."""
        from llmcli.inspect.logits import distribution

        return distribution(self, text, **options)

    def funnel(self: "Pipeline", text: "Prompt", **options: Any) -> "TextFunnel":  # type: ignore[misc]
        """What each sampling filter leaves, then the draw; see `llmcli.inspect.logits.text_funnel`."""
        from llmcli.inspect.logits import text_funnel

        return text_funnel(self, text, **options)

    def score(self: "Pipeline", text: "Prompt") -> "TextScore":  # type: ignore[misc]
        """The surprisal of every token, perplexity, bits per byte; see `llmcli.inspect.logits.text_score`."""
        from llmcli.inspect.logits import text_score

        return text_score(self, text)

    def lens(self: "Pipeline", text: "Prompt", **options: Any) -> "Lens":  # type: ignore[misc]
        """The logit lens; see `llmcli.inspect.lens.lens`."""
        from llmcli.inspect.lens import lens

        return lens(self, text, **options)

    def ablation(self: "Pipeline", text: "Prompt", parts: str, **options: Any) -> "Ablation":  # type: ignore[misc]
        """What changes without some parts of the model; see `llmcli.inspect.ablation.ablation`."""
        from llmcli.inspect.ablation import ablation

        return ablation(self, text, parts, **options)

    def shape(self: "Pipeline") -> "ModelShape":  # type: ignore[misc]
        """The modules and what they cost; see `llmcli.inspect.model_tree.model_shape`."""
        from llmcli.inspect.model_tree import model_shape

        return model_shape(self.folder)

    def learned_positions(self: "Pipeline") -> "LearnedTable":  # type: ignore[misc]
        """The learned table of positions, looked at; see `llmcli.inspect.positions.learned_table`."""
        from llmcli.inspect.positions import learned_table

        return learned_table(self)

    def rope(self: "Pipeline", text: "Prompt | None" = None, **options: Any) -> "RopeReport":  # type: ignore[misc]
        """RoPE's angles, curves, and a query turned; see `llmcli.inspect.rope.rope_report`."""
        from llmcli.inspect.rope import rope_report

        return rope_report(self, text, **options)

    def rotation(self: "Pipeline", position: int, text: "Prompt | None" = None) -> "Rotations":  # type: ignore[misc]
        """RoPE's rotation of one position as blocks and a matrix; see `llmcli.inspect.rope.rotation_at`."""
        from llmcli.inspect.rope import rotation_at

        return rotation_at(self, position, text)

    def shift(self: "Pipeline", text: "Prompt", k: int) -> "Shift":  # type: ignore[misc]
        """How attention scores change when the text moves; see `llmcli.inspect.order.shift`."""
        from llmcli.inspect.order import shift

        return shift(self, text, k)

    def shuffle(self: "Pipeline", text: "Prompt", *, seed: int = 0) -> "Shuffle":  # type: ignore[misc]
        """How attention changes when tokens change places; see `llmcli.inspect.order.shuffle`."""
        from llmcli.inspect.order import shuffle

        return shuffle(self, text, seed=seed)

    def cache(self: "Pipeline", text: "Prompt", **options: Any) -> "CacheReport":  # type: ignore[misc]
        """What the KV cache costs and saves; see `llmcli.inspect.cache.cache_report`."""
        from llmcli.inspect.cache import cache_report

        return cache_report(self, text, **options)

    def explain(self: "Pipeline", text: "Prompt", **options: Any) -> "Walk":  # type: ignore[misc]
        """The guided walk from a text to its next token; see `llmcli.inspect.explain.explain`."""
        from llmcli.inspect.explain import explain

        return explain(self, text, **options)
