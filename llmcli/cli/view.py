"""What every view has in common on the command line: groups of options, and how a view leaves the program."""

import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.cli.ids import parse_ids
from llmcli.cli.io import is_terminal, note, read_words, use_color, write_out
from llmcli.cli.options import (
    ColorOption,
    DeviceOption,
    DtypeChoice,
    FileOption,
    JsonOption,
    KeepNewlineOption,
    TextArgument,
    ThreadsOption,
)
from llmcli.errors import UsageError
from llmcli.files import check_target, write_whole
from llmcli.settings import usable_cores

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt
    from llmcli.render.export import View
    from llmcli.render.screen import Screen

MIN_WIDTH = 40
_BUFFER = 1 << 16

CsvOption = Annotated[bool, typer.Option("--csv", help="A table of comma-separated values on stdout.")]
NpzOption = Annotated[
    Path | None,
    typer.Option("--npz", metavar="FILE", help="Write numpy arrays, named as the JSON fields.", show_default=False),
]
PngOption = Annotated[
    Path | None, typer.Option("--png", metavar="FILE", help="Write a picture (PNG).", show_default=False)
]
SvgOption = Annotated[
    Path | None, typer.Option("--svg", metavar="FILE", help="Write a picture (SVG).", show_default=False)
]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write one self-contained page.", show_default=False)
]
WidthOption = Annotated[
    int | None,
    typer.Option(
        "--width", metavar="N", min=MIN_WIDTH, help="Columns to draw in.", show_default="the terminal's, or 80"
    ),
]
HiddenOption = Annotated[
    Path | None,
    typer.Option(
        "--hidden", metavar="FILE", help="Write the hidden states between the blocks (npz).", show_default=False
    ),
]
ViewDtypeOption = Annotated[
    DtypeChoice,
    typer.Option("--dtype", help="How the weights are held and computed with; float32 is exact."),
]
IdsOption = Annotated[
    bool, typer.Option("--ids", help="TEXT is token ids, taken as they are: 312 40 7, or the JSON of tokenize.")
]


@dataclass(frozen=True)
class TextOptions:
    """The text that is looked into."""

    text: TextArgument = None
    file: FileOption = None
    ids: IdsOption = False
    keep_newline: KeepNewlineOption = False

    def __post_init__(self) -> None:
        if self.ids and self.keep_newline:
            raise UsageError("--keep-newline changes nothing about --ids", "leave it out")

    @property
    def given(self) -> bool:
        """Whether the command line names a text; without, it may still wait on stdin."""
        return self.text is not None or self.file is not None

    def read(self, example: str) -> "Prompt":
        """The text, or with `ids` the ids that it spells. The final newline of a file or of stdin belongs to the line,
        not to the text.

        Raises `UsageError`, which shows `example` where there is no text at all.
        """
        words = read_words(self.text, self.file, keep_newline=self.keep_newline, example=example)
        return [each for part in parse_ids([words]) for each in part] if self.ids else words


@dataclass(frozen=True)
class ViewOptions:
    """Where a view goes: stdout as JSON or CSV, files, or else the terminal. Checked before anything is computed.

    Raises `UsageError` for two documents on stdout, and for a file that plainly cannot be written.
    """

    json: JsonOption = False
    csv: CsvOption = False
    npz: NpzOption = None
    png: PngOption = None
    svg: SvgOption = None
    html: HtmlOption = None
    width: WidthOption = None
    color: ColorOption = "auto"

    def __post_init__(self) -> None:
        if self.json and self.csv:
            raise UsageError("--json and --csv both go to stdout", "give one of the two")
        for path in self.files.values():
            check_target(path)

    @property
    def files(self) -> dict[str, Path]:
        """Option name -> path, of the files asked for."""
        named = {"npz": self.npz, "png": self.png, "svg": self.svg, "html": self.html}
        return {name: path for name, path in named.items() if path is not None}

    @property
    def on_terminal(self) -> bool:
        """Whether the view is drawn, rather than sent as data or to files."""
        return not (self.json or self.csv or self.files)


@dataclass(frozen=True)
class HiddenOptions:
    """Where the hidden states of the text go. Raises `UsageError` for a file that plainly cannot be written."""

    hidden: HiddenOption = None

    def __post_init__(self) -> None:
        if self.hidden is not None:
            check_target(self.hidden)

    def written(self, pipeline: "Pipeline", text: "Prompt") -> bool:
        """Writes them where a file is asked for, with the tokens that they are of; whether one was."""
        if self.hidden is None:
            return False
        from llmcli.inspect.running import fitting_ids, shown_tokens
        from llmcli.render.export import npz_bytes

        ids = fitting_ids(pipeline, text)
        tokens = [{"id": token.id, "piece": token.piece} for token in shown_tokens(pipeline, ids)]
        write_whole(self.hidden, npz_bytes({"tokens": tokens, "hidden_states": pipeline.hidden_states(ids)}))
        note(f"wrote {self.hidden}")
        return True


@dataclass(frozen=True)
class LoadOptions:
    """How a model that is looked into is held and computed with."""

    dtype: ViewDtypeOption = "float32"
    threads: ThreadsOption = None
    device: DeviceOption = "auto"

    def load(self, model: str, kv_dtype: str = "auto") -> "Pipeline":
        """The model, ready to be looked into, its caches in `kv_dtype`; torch is imported here."""
        from llmcli.pipeline import Pipeline

        threads = self.threads or usable_cores()
        return Pipeline.load(
            model, device=self.device, dtype=self.dtype, packed=False, threads=threads, kv_dtype=kv_dtype
        )


def typed_options(context: typer.Context) -> set[str]:
    """The parameters that stand on the command line itself, not in the environment or the configuration file."""
    return {name for name in context.params if str(context.get_parameter_source(name)).endswith("COMMANDLINE")}


def spelled(context: typer.Context, name: str) -> str:
    """A parameter as it is typed: `--top-k`."""
    return next(str(each.opts[0]) for each in context.command.params if each.name == name)


def emit(view: "View", options: ViewOptions, *, elsewhere: bool = False) -> None:
    """Send a view wherever the options say; drawn as text on stdout where they say nothing, and nothing went
    `elsewhere`.

    Raises `UsageError` for a form that this view does not have, `LlmcliError` for a file that cannot be written.
    """
    from llmcli.render.export import csv_chunks, json_chunks

    _refuse_missing(view, options)
    for name, path in options.files.items():
        _write_form(view, name, path)
    if options.json:
        _write_chunks(json_chunks(view.data, ascii_only=is_terminal(sys.stdout)), end="\n")
    elif options.csv:
        _write_chunks(csv_chunks(view.table()))
    elif options.on_terminal and not elsewhere:
        write_out(_drawn(view, screen_of(options)))


def _refuse_missing(view: "View", options: ViewOptions) -> None:
    for name in ("png", "svg", "html"):
        if name in options.files and (view.html if name == "html" else view.figure) is None:
            raise UsageError(f"{view.name} has no --{name}", "choose another form, such as --json or --npz")


def _write_form(view: "View", name: str, path: Path) -> None:
    from llmcli.render.export import npz_bytes, picture_bytes

    if name == "npz":
        data = npz_bytes(view.data)
    elif name == "html":
        assert view.html is not None
        data = view.html().encode()
    else:
        assert view.figure is not None
        data = picture_bytes(view.figure, name)
    write_whole(path, data)
    note(f"wrote {path}")


def _drawn(view: "View", screen: "Screen") -> str:
    from llmcli.render.screen import draw

    return draw(view.terminal(screen), screen)


def screen_of(options: ViewOptions) -> "Screen":
    """The screen that stdout is: its width, unless one is asked for, and its colours."""
    from llmcli.render.screen import Screen, color_depth

    width = options.width or max(MIN_WIDTH, shutil.get_terminal_size((80, 24)).columns)
    return Screen(width, color_depth(use_color(options.color)))


def _write_chunks(chunks: Iterable[str], end: str = "") -> None:
    held: list[str] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= _BUFFER:
            write_out("".join(held))
            held, size = [], 0
    write_out("".join(held) + end)
