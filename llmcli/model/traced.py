"""A decode step as a TorchScript graph: the operators that `CausalLM` calls for one token, called from C++.

A step calls hundreds of small operators between its products with weights. From Python each takes about six
microseconds, since the weights that stream through the caches drive out what the interpreter needs; from TorchScript
it takes two to four. The graph is traced from the model's own code, which stays its only description: prompts and views
are computed by that code, and the numbers are the same.

Tracing takes a tenth to a quarter of a second, the gain of about 50 steps, so some come first as they are.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.jit import optimized_execution, trace  # type: ignore[attr-defined]

from llmcli.model.bags import FEW
from llmcli.model.batch_cache import RowsStep
from llmcli.model.cache import KVCache, Step, Store
from llmcli.model.linear import Linear

if TYPE_CHECKING:
    from llmcli.model.transformer import CausalLM

PATIENCE = 32
"""Steps that are computed as they are before one is traced."""

_FAR = 1 << 40
"""More tokens than any text has."""

Graph = Callable[..., Tensor]


class TracedSteps:
    """The decode steps of one model: counts them, traces one when it is time, and runs the graph from then on. Each
    kind of step (a token, drafted ones after it, rows of one length, rows of several) has its own."""

    def __init__(self, model: "CausalLM") -> None:
        self.patience = PATIENCE
        self._model = model
        self._counts: Counter[Hashable] = Counter()
        self.graphs: dict[Hashable, Graph] = {}

    def __call__(self, ids: Tensor, cache: Store | None, last_only: bool) -> Tensor | None:
        """ids (rows, queries) int64 -> logits (rows, queries, vocab) float32, as `CausalLM.forward` gives them. None
        where that is to compute the pass itself: what is no step on a CPU, and steps that come too early.

        What is no tensor in the model's code is the same in all runs of a graph. So there is none where RoPE's angles
        depend on the length (dynamic, longrope), nor for several tokens where a window may be full or not.
        """
        if not self._traceable(ids, cache) or (last_only and ids.shape[1] > 1):
            return None
        # Checks of drafts are few where guesses are wrong: tracing those would cost more than all that they could save.
        counted = cache.kind if isinstance(cache, RowsStep) else (KVCache, ids.shape[1] > 1)
        self._counts[counted] += 1
        if self._counts[counted] <= self.patience:
            return None
        step = cache if isinstance(cache, RowsStep) else cast(KVCache, cache).step(ids.shape[1])
        kind = step.kind
        with optimized_execution(False):  # looking for what could be fused takes long and finds nothing
            if kind not in self.graphs:
                self.graphs[kind] = _traced(self._model, ids, step)
            return self.graphs[kind](ids, *step.tensors)

    def _traceable(self, ids: Tensor, cache: Store | None) -> bool:
        """Whether a graph can compute such passes."""
        model = self._model
        training = model.embedding.weight.requires_grad
        if training or not ids.is_cpu or not torch.is_inference_mode_enabled() or not model.same_angles(1, _FAR):
            return False
        if isinstance(cache, RowsStep):
            return True
        texts, queries = ids.shape
        if not isinstance(cache, KVCache) or not cache.length or texts > 1:
            return False
        return queries == 1 or (queries <= FEW and not model.config.slides)

    @contextmanager
    def after(self, steps: int) -> Iterator[None]:
        """Traces after so many steps: 0 to measure what a long text gets, very many for what comes before."""
        kept, self.patience = self.patience, steps
        try:
            yield
        finally:
            self.patience = kept

    def forget(self) -> None:
        """Drops the graphs: the model computes otherwise from now on."""
        self.graphs.clear()
        self._counts.clear()


def _traced(model: "CausalLM", ids: Tensor, step: Step) -> Graph:
    """From ids and a step's tensors to logits."""
    plain = partial(_logits, model, step.of)
    forms = [part.form for part in model.modules() if isinstance(part, Linear) and part.form is not None]
    packed = [each for form in forms for each in form.packed]
    try:
        return recorded(plain, (ids, *step.tensors), packed)
    except (RuntimeError, OSError):
        return plain  # a torch that cannot, or no source to compile: the same, called from Python


def recorded(plain: Callable[..., Any], inputs: tuple[Any, ...], packed: Iterable[Any]) -> Callable[..., Any]:
    """The graph of a function of these inputs; `packed` is what it uses that a graph cannot hold as a constant
    (`Form.packed`). Raises RuntimeError, OSError where TorchScript cannot."""
    module = _Pass(plain)
    for i, each in enumerate(packed):
        module.keep(f"packed{i}", each)
    with warnings.catch_warnings():
        # That sizes become constants, which is wanted, and that TorchScript will go one day.
        warnings.simplefilter("ignore")
        graph = trace(module, inputs, check_trace=False, _store_inputs=False)  # type: ignore[no-untyped-call]
        return cast(Callable[..., Any], graph)


def _logits(model: "CausalLM", of: Callable[..., Step], ids: Tensor, *tensors: Tensor | list[Tensor]) -> Tensor:
    step = of(*tensors)
    hidden = model.hidden_states(ids, step, positions=step.positions, visible=step.visible)
    return model.logits(hidden)


class _Pass(nn.Module):
    """What is traced: a module that has no weights, which would become inputs of the graph. So it holds them as they
    are, without a copy."""

    def __init__(self, plain: Callable[..., Any]) -> None:
        super().__init__()
        self._plain = plain

    def forward(self, *inputs: Tensor | list[Tensor]) -> Any:
        return self._plain(*inputs)

    def keep(self, name: str, packed: Any) -> None:
        """What a graph cannot hold as a constant (`Form.packed`): a trace finds it here."""
        if isinstance(packed, Tensor):
            self.register_buffer(name, packed)
        else:
            setattr(self, name, packed)
