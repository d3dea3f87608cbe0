"""`llmcli train`: a model of one's own, from text."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmcli.cli.io import is_terminal, note, write_json, write_out
from llmcli.cli.options import DeviceOption, JsonOption, QuietOption, ThreadsOption
from llmcli.errors import UsageError
from llmcli.settings import usable_cores

if TYPE_CHECKING:
    from llmcli.render.training import View
    from llmcli.train.log import Event
    from llmcli.train.origin import Origin
    from llmcli.train.recipe import Recipe
    from llmcli.train.run import Request

EXAMPLE = "llmcli train books/ --out runs/mine --recipe smoke"
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
            show_default="stories, or finetune with --init",
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
    --resume, with the same numbers. With torchrun several processes share the work. Built-in recipes: stories,
    stories-further, stories-gpt2, smoke, finetune.

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
    flags: dict[str, Any] = {
        "schedule.steps": steps,
        "schedule.batch_tokens": batch_tokens,
        "optimizer.learning_rate": learning_rate,
        "seed": start,
        "dtype": dtype,
    }
    if not (corpus or recipe or resume or export):
        raise UsageError("no corpus given", f"for example: {EXAMPLE}")
    named = recipe or ("finetune" if init is not None else "stories")
    table, stored = _table(named, out, resume=resume or export is not None, is_given=recipe is not None)
    origin = _origin(init, stored)
    chosen = _recipe(table, flags, assign or [], origin)
    out = out or Path("runs") / chosen.name
    if export is not None:
        _export(chosen, out, export, origin, json, quiet)
        return
    from llmcli.train.run import Request

    paths, held_out = _texts(chosen, corpus or [], valid, stored)
    request = Request(chosen, paths, held_out, out, tokenizer, resume, until, origin)
    _train(request, device, threads or usable_cores(), json, quiet)


def _check_alone(given: dict[str, bool]) -> None:
    """Raises UsageError for an option that --init is given with, and cannot be."""
    option = next((option for option, is_given in given.items() if is_given), None)
    if option is not None:
        raise UsageError(f"--init and {option} are both given", _WITHOUT_INIT[option])


def _origin(init: str | None, stored: dict[str, Any]) -> "Origin":
    """What a new run begins with, or what the run to be continued began with.

    Raises UsageError where that is another model than --init names, ModelError for a model that cannot be read.
    """
    from llmcli.train.origin import Origin, find_origin, stored_origin

    if not stored:
        return Origin() if init is None else find_origin(init)
    origin = stored_origin(stored)
    if init is not None and (not origin.name or Path(init).resolve() != Path(origin.name).resolve()):
        raise UsageError(
            f"this run began with {origin.name or 'random weights'}, not with {init}",
            "leave out --init, or give another --out",
        )
    return origin


def _table(recipe: str, out: Path | None, *, resume: bool, is_given: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe as a table, and what the run to be continued says of itself (nothing for a new one): also its recipe,
    unless another `is_given`."""
    from llmcli.train.recipe import read_table

    named = read_table(recipe)
    place = out or Path("runs") / str(named["name"])
    if not resume or not (place / "checkpoint.safetensors").exists():
        return named, {}
    from llmcli.train.state import NAME, read_facts

    facts = read_facts(place / NAME)
    if not is_given:
        if "recipe" not in facts:
            raise UsageError(f"the checkpoint in {place} does not hold its recipe", "name it with --recipe")
        named = facts["recipe"]
    return named, facts


def _recipe(table: dict[str, Any], flags: dict[str, Any], assignments: list[str], origin: "Origin") -> "Recipe":
    """The recipe to train by, its shape that of the model that the run begins with. Raises UsageError."""
    import dataclasses

    from llmcli.train.distributed import process_count
    from llmcli.train.recipe import Override, build_recipe, parse_assignment
    from llmcli.train.validate import FLAGS, check_recipe

    overrides: list[Override] = [Override(k, v, FLAGS[k]) for k, v in flags.items() if v is not None]
    assigned = [parse_assignment(each) for each in assignments]
    if origin.shape is not None:
        for each in assigned:
            if each.key.split(".")[0] == "shape":
                raise UsageError(f"{each.source}: the shape is that of {origin.name}", "leave it out")
        table = {**table, "shape": dataclasses.asdict(origin.shape)}
    recipe = build_recipe(table, [*assigned, *overrides])
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


def _export(recipe: "Recipe", out: Path, folder: Path, origin: "Origin", json: bool, quiet: bool) -> None:
    from llmcli.train.run import export_checkpoint

    done = export_checkpoint(recipe, out, folder, origin)
    if json:
        write_json({"schema_version": 1, "folder": str(folder), "steps": done})
    elif not quiet:
        note(f"the model after {done} steps is in {folder}: llmcli generate -m {folder}")


def _train(request: "Request", device: str, threads: int, json: bool, quiet: bool) -> None:
    from llmcli.device import choose_device, set_threads
    from llmcli.model import heap
    from llmcli.train.distributed import joined
    from llmcli.train.run import train

    set_threads(threads)
    heap.keep()
    with joined(choose_device(device)) as world, _view(quiet or not world.leads) as view:
        figures = train(request, world, _Watcher(view))
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
