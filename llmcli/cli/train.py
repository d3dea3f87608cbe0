"""`llmcli train`: a model of one's own, from text."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmcli.cli.io import is_terminal, note, write_out
from llmcli.cli.options import DeviceOption, QuietOption, ThreadsOption
from llmcli.errors import UsageError
from llmcli.settings import usable_cores

if TYPE_CHECKING:
    from llmcli.render.training import View
    from llmcli.train.log import Event
    from llmcli.train.recipe import Recipe

EXAMPLE = "llmcli train books/ --out runs/mine --recipe smoke"


def train(
    corpus: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CORPUS...",
            help="Text files, JSON lines (`text`) or folders of them, also .xz, .gz, .zst; with --plot, logs.",
            show_default="the recipe's",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", show_default="runs/RECIPE", help="The run, and in the end the model."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="NAME|FILE", show_default="stories", help="A built-in recipe, or a TOML file."
        ),
    ] = None,
    valid: Annotated[
        Path | None,
        typer.Option("--valid", metavar="FILE", show_default="a share of the documents", help="Text to validate on."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer", metavar="FOLDER", show_default="a vocabulary of its own", help="Use this tokenizer."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")] = False,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Optimizer steps in all.")] = None,
    until: Annotated[
        int | None, typer.Option("--until", metavar="N", min=1, help="Stop after step N of the schedule.")
    ] = None,
    batch_tokens: Annotated[int | None, typer.Option("--batch-tokens", metavar="N", help="Tokens of a step.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", metavar="X", help="AdamW's highest rate.")
    ] = None,
    # Not the setting `seed` of the configuration file: that one is for sampling.
    start: Annotated[int | None, typer.Option("--seed", metavar="N", help="Of weights and data order.")] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"] | None, typer.Option("--dtype", help="Of the matrix products.")
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any recipe key: --set shape.layers=4.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FOLDER", help="Write the newest checkpoint's model there; train nothing."),
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the loss curves of the logs given.")] = False,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="With --plot: draw them into this PNG.")
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a model on text, and write it as a Hugging Face folder.

    The run's folder holds checkpoint, log, vocabulary and token ids; a run that was stopped or killed goes on with
    --resume, with the same numbers. With torchrun several processes share the work. Built-in recipes: stories,
    stories-gpt2, smoke.

    \b
    Examples:
      $ llmcli train books/ --out runs/mine --recipe smoke
      $ llmcli train books/ --out runs/mine --resume
      $ llmcli train corpus.jsonl.xz --valid held-out.txt --out runs/mine --steps 500 --set shape.layers=4
      $ torchrun --nproc-per-node 2 -m llmcli train books/ --out runs/mine
      $ llmcli train --plot runs/a runs/b runs/c --png scaling.png
    """
    if plot:
        _plot(corpus or [], png)
        return
    if png is not None:
        raise UsageError("--png is given without --plot", "add --plot and the logs to draw")
    flags: dict[str, Any] = {
        "schedule.steps": steps,
        "schedule.batch_tokens": batch_tokens,
        "optimizer.learning_rate": learning_rate,
        "seed": start,
        "dtype": dtype,
    }
    if not (corpus or recipe or resume or export):
        raise UsageError("no corpus given", f"for example: {EXAMPLE}")
    table, stored = _table(recipe, out, resume=resume or export is not None)
    chosen = _recipe(table, flags, assign or [])
    out = out or Path("runs") / chosen.name
    if export is not None:
        from llmcli.train.run import export_checkpoint

        done = export_checkpoint(chosen, out, export)
        if not quiet:
            note(f"the model after {done} steps is in {export}: llmcli generate -m {export}")
        return
    paths, held_out = _texts(chosen, corpus or [], valid, stored)
    _train(chosen, paths, held_out, out, tokenizer, resume, until, device, threads or usable_cores(), quiet)


def _table(recipe: str | None, out: Path | None, *, resume: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe as a table, and what the run to be continued says of itself (nothing for a new one)."""
    from llmcli.train.recipe import read_table

    named = read_table(recipe or "stories")
    place = out or Path("runs") / str(named["name"])
    if not resume or not (place / "checkpoint.safetensors").exists():
        return named, {}
    from llmcli.train.state import NAME, read_facts

    facts = read_facts(place / NAME)
    if recipe is None:
        if "recipe" not in facts:
            raise UsageError(f"the checkpoint in {place} does not hold its recipe", "name it with --recipe")
        named = facts["recipe"]
    return named, facts


def _recipe(table: dict[str, Any], flags: dict[str, Any], assignments: list[str]) -> "Recipe":
    from llmcli.train.distributed import process_count
    from llmcli.train.recipe import Override, build_recipe, parse_assignment
    from llmcli.train.validate import FLAGS, check_recipe

    overrides: list[Override] = [Override(k, v, FLAGS[k]) for k, v in flags.items() if v is not None]
    recipe = build_recipe(table, [*map(parse_assignment, assignments), *overrides])
    check_recipe(recipe, process_count())
    return recipe


def _texts(
    recipe: "Recipe", corpus: list[Path], valid: Path | None, stored: dict[str, Any]
) -> tuple[tuple[Path, ...], Path | None]:
    """Corpus and validation text: those given, else those of the run to be continued, else the recipe's."""
    if corpus:
        return tuple(corpus), valid
    names, text = stored.get("corpus") or recipe.corpus, stored.get("valid", "" if stored else recipe.valid)
    if not names:
        raise UsageError("no corpus given, and the recipe names none", f"for example: {EXAMPLE}")
    return tuple(map(Path, names)), valid or (Path(text) if text else None)


def _train(
    recipe: "Recipe",
    corpus: tuple[Path, ...],
    valid: Path | None,
    out: Path,
    tokenizer: Path | None,
    resume: bool,
    until: int | None,
    device: str,
    threads: int,
    quiet: bool,
) -> None:
    from llmcli.device import choose_device, set_threads
    from llmcli.train.distributed import joined
    from llmcli.train.run import Request, train

    set_threads(threads)
    request = Request(recipe, corpus, valid, out, tokenizer, resume, until)
    with joined(choose_device(device)) as world, _view(quiet or not world.leads) as view:
        train(request, world, _Watcher(view))


class _Watcher:
    """Hands what happens to a view, as plain values."""

    def __init__(self, view: "View") -> None:
        self.note, self.progress, self._view = view.note, view.progress, view

    def event(self, event: "Event") -> None:
        self._view.take(event.kind, event.step, event.values)


def _view(silent: bool) -> "View":
    from llmcli.render.training import LiveView, PlainView, SilentView

    if silent:
        return SilentView()
    if not is_terminal(sys.stderr):
        return PlainView(note)
    from rich.console import Console

    return LiveView(Console(stderr=True, highlight=False, markup=False))


def _plot(logs: list[Path], png: Path | None) -> None:
    if not logs:
        raise UsageError("--plot is given no logs", "for example: llmcli train --plot runs/mine/log.jsonl")
    import shutil

    from llmcli.render.plot import draw, save_png
    from llmcli.train.plots import charts_of

    charts, notes = charts_of(logs)
    if png is not None:
        save_png(charts, png)
    else:
        width = shutil.get_terminal_size((80, 24)).columns
        write_out("\n".join(draw(chart, width) for chart in charts))
    for each in notes:
        note(f"note: {each}")
