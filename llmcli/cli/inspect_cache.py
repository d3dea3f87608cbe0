"""`llmcli inspect-cache`: what the KV cache costs and saves, and that it changes nothing."""

from typing import Annotated

import typer

from llmcli.cli.generate_options import KvDtypeOption
from llmcli.cli.groups import with_groups
from llmcli.cli.options import DEFAULT_MODEL, ModelOption
from llmcli.cli.view import LoadOptions, TextOptions, ViewOptions, emit
from llmcli.errors import CheckFailedError, UsageError

EXAMPLE = 'llmcli inspect-cache -n 16 "Once upon a time"'


@with_groups
def inspect_cache(
    text: TextOptions,
    model: ModelOption = DEFAULT_MODEL,
    new_tokens: Annotated[int, typer.Option("--max-tokens", "-n", metavar="N", help="New tokens.")] = 16,
    kv_dtype: KvDtypeOption = "auto",
    *,
    view: ViewOptions,
    load: LoadOptions,
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
    if new_tokens < 1:
        raise UsageError(f"--max-tokens is {new_tokens}", "give 1 or more")
    words = text.read(EXAMPLE)
    pipeline = load.load(model, kv_dtype)
    from llmcli.inspect.cache import cache_report
    from llmcli.inspect.document import document
    from llmcli.render.cache import cache_view

    report = cache_report(pipeline, words, max_tokens=new_tokens)
    emit(cache_view(document("cache", report, model=pipeline.name, dtype=pipeline.dtype)), view)
    if not report.same_ids:
        raise CheckFailedError("the ids differ with and without the cache", "see the marked rows")
    if not report.prefill_equal:
        raise CheckFailedError(
            f"the prompt's logits in one pass and token by token differ by {report.prefill_difference:.1e}",
            "with --dtype float32 and --kv-dtype float32 they are within 1e-4",
        )
