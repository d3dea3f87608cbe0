"""Who is compared: each runs prompts and decode steps over ids, and answers with seconds."""

import time
from pathlib import Path
from typing import Any, Protocol

import shapes

BATCH = 32


class Contender(Protocol):
    def prefill(self, tokens: int) -> float:
        """Seconds to read a prompt in one pass, up to the logits of its last token."""
        ...

    def decode(self, context: int, steps: int) -> list[float]:
        """Seconds of each decode step after so many tokens."""
        ...


def ids(count: int) -> list[int]:
    return [7 * i % 49000 for i in range(count)]


class Transformers:
    def __init__(self, folder: Path, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def _feed(self, tokens: list[int], past: Any, rows: int = 1) -> Any:
        with self.torch.inference_mode():
            batch = self.torch.tensor([tokens] * rows)
            return self.model(batch, past_key_values=past, use_cache=True, logits_to_keep=1).past_key_values

    def prefill(self, tokens: int) -> float:
        start = time.perf_counter()
        self._feed(ids(tokens), None)
        return time.perf_counter() - start

    def decode(self, context: int, steps: int, rows: int = 1) -> list[float]:
        past, times = self._feed(ids(context), None, rows), []
        for _ in range(steps):
            start = time.perf_counter()
            past = self._feed([7], past, rows)
            times.append(time.perf_counter() - start)
        return times

    def batch(self, context: int, steps: int) -> list[float]:
        """Seconds of a step of `BATCH` rows."""
        return self.decode(context, steps, BATCH)


class Llmcli:
    """Smaller weights come from a folder that holds them so, as those of llama.cpp and CTranslate2 do."""

    texts = 1

    def __init__(self, folder: Path, dtype: str) -> None:
        from llmcli.model import heap
        from llmcli.model.loading import load

        stored = (
            folder if dtype == "float32" or self.texts > 1 else shapes.quantized(folder, dtype.removesuffix("-packed"))
        )
        self.model, self.dtype, _ = load(stored, dtype, texts=self.texts)
        self.model.traced.patience = 0  # the speed that a long text has
        heap.keep()  # as the command does

    def prefill(self, tokens: int) -> float:
        from llmcli.generation import prefill

        start = time.perf_counter()
        prefill(self.model, self.model.new_cache(), ids(tokens))
        return time.perf_counter() - start

    def decode(self, context: int, steps: int) -> list[float]:
        from llmcli.generation import decode_step, prefill

        cache, fed, times = self.model.new_cache(), ids(context), []
        prefill(self.model, cache, fed)
        for _ in range(steps):
            fed.append(7)
            start = time.perf_counter()
            decode_step(self.model, cache, fed)
            times.append(time.perf_counter() - start)
        return times

    def batch(self, context: int, steps: int) -> list[float]:
        """Seconds of a step of `BATCH` rows, sampling left out on both sides."""
        from llmcli.batch import decode_rows, read_rows

        cache, times = self.model.new_rows(BATCH), []
        read_rows(self.model, cache, [(row, ids(context)) for row in range(BATCH)])
        for _ in range(steps):
            start = time.perf_counter()
            decode_rows(self.model, cache, [7] * BATCH)
            times.append(time.perf_counter() - start)
        return times


class LlmcliRows(Llmcli):
    """As the command loads it for a batch."""

    texts = BATCH


class LlamaCpp:
    def __init__(self, folder: Path, kind: str) -> None:
        import llama_cpp

        path = str(shapes.gguf(folder, kind))
        self.model = llama_cpp.Llama(path, n_ctx=1024, n_batch=512, n_threads=2, n_threads_batch=2, verbose=False)

    def prefill(self, tokens: int) -> float:
        self.model.reset()
        start = time.perf_counter()
        self.model.eval(ids(tokens))
        return time.perf_counter() - start

    def decode(self, context: int, steps: int) -> list[float]:
        self.prefill(context)
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            self.model.eval([7])
            times.append(time.perf_counter() - start)
        return times


class CTranslate2:
    """Generates by itself, so a step's time is the difference between two lengths."""

    def __init__(self, folder: Path, kind: str) -> None:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter

        target = folder.with_name(f"{folder.name}-ct2-{kind}")
        if not target.is_dir():
            TransformersConverter(str(folder)).convert(str(target), quantization=kind)
        self.model = ctranslate2.Generator(str(target), compute_type=kind, intra_threads=2)

    def _run(self, context: int, steps: int) -> float:
        words = ["!"] * context
        start = time.perf_counter()
        self.model.generate_batch([words], max_length=steps, min_length=steps, include_prompt_in_result=False)
        return time.perf_counter() - start

    def prefill(self, tokens: int) -> float:
        return self._run(tokens, 1)

    def decode(self, context: int, steps: int) -> list[float]:
        return [(self._run(context, steps + 1) - self._run(context, 1)) / steps]
