"""`llmcli train`: a model of one's own, from text."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmcli.cli.io import is_terminal, note, write_json, write_out
from llmcli.cli.options import DeviceOption, JsonOption, QuietOption, ThreadsOption
from llmcli.errors import UsageError
from llmcli.settings import usable_cores

if TYPE_CHECKING:
    from llmcli.render.training import View
    from llmcli.train.log import Event
    from llmcli.train.run import Request

_WITHOUT_INIT = {
    "--plot": "leave out --init: --plot draws logs and trains nothing",
    "--export": "leave out --init: --export writes a checkpoint and trains nothing",
    "--tokenizer": "leave out --tokenizer: a model goes on with its own",
}


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
            "--recipe",
            metavar="NAME|FILE",
            show_default="stories-first, or finetune with --init",
            help="A built-in recipe, or a TOML file.",
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
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="MODEL",
            show_default="random weights",
            help="Begin with the weights, tokenizer and shape of this model: a name, a folder or a hub id.",
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
    json: JsonOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a model on text, and write it as a Hugging Face folder.

    The run's folder holds checkpoint, log, vocabulary and token ids; a run that was stopped or killed goes on with
    --resume, with the same numbers. With torchrun several processes share the work.

    Built-in recipes: stories and stories-gpt2 make the built-in models; smoke, finetune. A recipe may go on from
    another (`after`), as stories does from stories-second and that from stories-first: these are trained before it,
    in folders within the run's, and options that change a recipe change the last part.

    --init trains a model further (fine-tuning), in a run of its own: the model's shape stands in for that of the
    recipe, whatever else the recipe says holds, and the first validation comes before the first step. A run that goes
    on with --resume needs no --init, and does not begin again with it.

    --json gives the figures of a run that ended, what --export wrote, or the numbers that --plot draws.

    \b
    Examples:
      $ llmcli train books/ --out runs/mine --recipe smoke
      $ llmcli train books/ --out runs/mine --resume
      $ llmcli train corpus.jsonl.xz --valid held-out.txt --out runs/mine --steps 500 --set shape.layers=4
      $ llmcli train letters/ --init stories --out runs/letters --steps 100 --set schedule.decay=80
      $ torchrun --nproc-per-node 2 -m llmcli train books/ --out runs/mine
      $ llmcli train --plot runs/a runs/b runs/c --png scaling.png
    """
    if init is not None:
        _check_alone({"--plot": plot, "--export": export is not None, "--tokenizer": tokenizer is not None})
    if plot:
        _plot(corpus or [], png, json, quiet)
        return
    if png is not None:
        raise UsageError("--png is given without --plot", "add --plot and the logs to draw")
    if not (corpus or recipe or resume or export):
        from llmcli.train.recipe import EXAMPLE

        raise UsageError("no corpus given", f"for example: {EXAMPLE}")
    from llmcli.train.plan import Asked, plan

    flags = {
        "schedule.steps": steps,
        "schedule.batch_tokens": batch_tokens,
        "optimizer.learning_rate": learning_rate,
        "seed": start,
        "dtype": dtype,
    }
    asked = Asked(
        corpus=tuple(corpus or ()),
        out=out,
        recipe=recipe,
        valid=valid,
        tokenizer=tokenizer,
        init=init,
        resume=resume,
        export=export is not None,
        until=until,
        flags=flags,
        assignments=tuple(assign or ()),
    )
    if export is not None:
        _export(plan(asked), export, json, quiet)
    else:
        _train(plan(asked), device, threads or usable_cores(), json, quiet)


def _check_alone(given: dict[str, bool]) -> None:
    """Raises UsageError for an option that --init is given with, and cannot be."""
    option = next((option for option, is_given in given.items() if is_given), None)
    if option is not None:
        raise UsageError(f"--init and {option} are both given", _WITHOUT_INIT[option])


def _export(request: "Request", folder: Path, json: bool, quiet: bool) -> None:
    from llmcli.train.run import export_checkpoint

    done = export_checkpoint(request.recipe, request.out, folder, request.origin)
    if json:
        write_json({"schema_version": 1, "folder": str(folder), "steps": done})
    elif not quiet:
        note(f"the model after {done} steps is in {folder}: llmcli generate -m {folder}")


def _train(request: "Request", device: str, threads: int, json: bool, quiet: bool) -> None:
    from llmcli.device import choose_device, set_threads
    from llmcli.model import heap
    from llmcli.train.distributed import joined
    from llmcli.train.parts import train_in_parts

    set_threads(threads)
    heap.keep()
    with joined(choose_device(device)) as world, _view(quiet or not world.leads) as view:
        figures = train_in_parts(request, world, _Watcher(view))
    if json and figures:
        write_json({"schema_version": 1, **figures})


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


def _plot(logs: list[Path], png: Path | None, json: bool, quiet: bool) -> None:
    if not logs:
        raise UsageError("--plot is given no logs", "for example: llmcli train --plot runs/mine/log.jsonl")
    import shutil

    from llmcli.render.plot import draw, save_png
    from llmcli.train.plots import charts_of, figures_of

    if png is not None or not json:
        charts, notes = charts_of(logs)
    if png is not None:
        save_png(charts, png)
    if json:
        figures, notes = figures_of(logs)
        write_json({"schema_version": 1, **figures})
    elif png is None:
        width = shutil.get_terminal_size((80, 24)).columns
        write_out("\n".join(draw(chart, width) for chart in charts))
    for each in [] if quiet else notes:
        note(f"note: {each}")
