"""`llmcli inspect-cache`: what the KV cache costs and saves, and that it changes nothing."""

from typing import Annotated

import typer

from llmcli.cli.options import (
    DEFAULT_MODEL,
    ColorOption,
    DeviceOption,
    FileOption,
    JsonOption,
    ModelOption,
    TextArgument,
    ThreadsOption,
)
from llmcli.cli.view import (
    CsvOption,
    HtmlOption,
    KeepNewlineOption,
    NpzOption,
    PngOption,
    SvgOption,
    ViewDtypeOption,
    WidthOption,
    emit,
    load_for_view,
    view_options,
    view_text,
)
from llmcli.errors import CheckFailedError, UsageError

EXAMPLE = 'llmcli inspect-cache -n 16 "Once upon a time"'


def inspect_cache(
    text: TextArgument = None,
    file: FileOption = None,
    model: ModelOption = DEFAULT_MODEL,
    new_tokens: Annotated[int, typer.Option("--max-tokens", "-n", metavar="N", help="New tokens.")] = 16,
    keep_newline: KeepNewlineOption = False,
    json: JsonOption = False,
    csv: CsvOption = False,
    npz: NpzOption = None,
    png: PngOption = None,
    svg: SvgOption = None,
    html: HtmlOption = None,
    width: WidthOption = None,
    color: ColorOption = "auto",
    dtype: ViewDtypeOption = "float32",
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Show what the KV cache costs in bytes and saves in time as a text grows, and that it changes nothing.

    The text is continued greedily, each token computed with the cache and a second time from all tokens anew; the
    prompt is computed in one pass and token by token. Exits 5 where the ids differ, or the logits of the prompt by more
    than 1e-4 of the largest.

    \b
    Examples:
      $ llmcli inspect-cache "Once upon a time"
      $ llmcli inspect-cache -n 64 --json "Once upon a time"
    """
    options = view_options(json, csv, npz, png, svg, html, width, color)
    if new_tokens < 1:
        raise UsageError(f"--max-tokens is {new_tokens}", "give 1 or more")
    words = view_text(text, file, EXAMPLE, keep_newline=keep_newline)
    pipeline = load_for_view(model, device, threads, dtype)
    from llmcli.inspect.cache import cache_report
    from llmcli.inspect.document import document
    from llmcli.render.cache import cache_view

    report = cache_report(pipeline, words, max_tokens=new_tokens)
    emit(cache_view(document("cache", report, model=pipeline.name, dtype=pipeline.dtype)), options)
    if not report.same_ids:
        raise CheckFailedError("the ids differ with and without the cache", "see the marked rows")
    if not report.prefill_equal:
        raise CheckFailedError(
            f"the prompt's logits in one pass and token by token differ by {report.prefill_difference:.1e}",
            "with --dtype float32 they are within 1e-4",
        )
