"""`llmcli perplexity`: how well a model predicts a text."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcli.cli.io import is_terminal, iter_text, note, write_json, write_out
from llmcli.cli.options import (
    DEFAULT_MODEL,
    DeviceOption,
    DtypeChoice,
    JsonOption,
    ModelOption,
    QuietOption,
    ThreadsOption,
)
from llmcli.settings import usable_cores

if TYPE_CHECKING:
    from llmcli.inspect.perplexity import Perplexity

_LONGEST = 4096
"""The context in use where none is asked for: longer ones take time that grows with the square."""


def perplexity(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Text, or JSON lines (`text`: a document each), also .xz, .gz, .zst; - reads stdin."
        ),
    ],
    model: ModelOption = DEFAULT_MODEL,
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride", metavar="N", min=1, show_default="half the context", help="Tokens from window to window."
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", metavar="N", min=1, show_default=f"the model's, up to {_LONGEST}", help="Tokens in a window."
        ),
    ] = None,
    limit_bytes: Annotated[
        int | None, typer.Option("--limit-bytes", metavar="N", min=1, help="Only so many bytes from the start.")
    ] = None,
    dtype: Annotated[
        DtypeChoice,
        typer.Option("--dtype", help="How weights are held and multiplied."),
    ] = "float32",
    json: JsonOption = False,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Measure how well a model predicts a text: nats per token, perplexity, bits per byte.

    Each document starts from the model's beginning-of-text token where it has one. Each token is predicted once, from
    at least context - stride tokens before it, or all that its document has. Bits per byte compare models with
    different vocabularies.

    \b
    Examples:
      $ llmcli perplexity book.txt
      $ llmcli perplexity held-out.jsonl.xz -m stories --json
      $ llmcli perplexity book.txt --stride 64 --limit-bytes 200000
    """
    source = _Source(file, limit_bytes)
    from llmcli.inspect.perplexity import measure
    from llmcli.pipeline import Pipeline

    pipeline = Pipeline.load(model, device=device, dtype=dtype, threads=threads or usable_cores())
    context = context or min(pipeline.context_length, _LONGEST)
    stride = stride or max(1, context // 2)
    started = time.perf_counter()
    with _progress(source, shown=not quiet and is_terminal(sys.stderr)) as progress:
        result = measure(
            pipeline, source.documents(), context=context, stride=stride, progress=progress, notice=_notice(quiet)
        )
    figures = {
        "file": str(file),
        "model": model,
        "dtype": dtype,
        "context": context,
        "stride": stride,
        "documents": result.documents,
        "bytes": result.bytes,
        "tokens": result.tokens,
        "nats_per_token": result.nats_per_token,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "seconds": time.perf_counter() - started,
    }
    if json:
        # JSON has no infinity.
        finite = result.perplexity < float("inf")
        write_json({"schema_version": 1, **figures, "perplexity": result.perplexity if finite else None})
    else:
        write_out(_table(figures))


class _Source:
    """The documents of a file or of stdin, and how much of them has been read."""

    def __init__(self, file: Path, limit_bytes: int | None) -> None:
        from llmcli.train.corpus import Corpus, first_bytes

        stdin = str(file) == "-"
        self._corpus = None if stdin else Corpus([file], limit_bytes or 0)
        self._limit, self._first_bytes = limit_bytes, first_bytes

    @property
    def fraction(self) -> float | None:
        return None if self._corpus is None or self._limit else self._corpus.fraction

    def documents(self) -> Iterator[Iterator[str]]:
        if self._corpus is not None:
            return self._corpus.documents()
        text = iter_text("-", None, example="llmcli perplexity book.txt")
        return self._first_bytes(iter([text]), self._limit or 0)


@contextmanager
def _progress(source: _Source, *, shown: bool) -> Iterator[Callable[["Perplexity"], None]]:
    if not shown:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def show(sums: "Perplexity") -> None:
            fraction = source.fraction
            text = f"{sums.tokens:,} tokens  {sums.nats_per_token:.4f} nats per token"
            bar.update(task, description=text, completed=fraction or 0, total=None if fraction is None else 1.0)

        yield show


def _notice(quiet: bool) -> Callable[[str], None]:
    return (lambda _: None) if quiet else (lambda text: note(f"note: {text}"))


def _table(figures: dict[str, Any]) -> str:
    rows = [
        ("bits per byte", f"{figures['bits_per_byte']:.4f}"),
        ("perplexity", f"{figures['perplexity']:.4f}"),
        ("nats per token", f"{figures['nats_per_token']:.4f}"),
        ("tokens", f"{figures['tokens']:,}"),
        ("bytes", f"{figures['bytes']:,}"),
        ("documents", f"{figures['documents']:,}"),
        ("context", f"{figures['context']:,}, stride {figures['stride']:,}"),
        ("dtype", figures["dtype"]),
    ]
    return "".join(f"{name:<16}{value}\n" for name, value in rows)
