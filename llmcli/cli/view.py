"""What every view has in common on the command line: its options, and how it leaves the program."""

import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmcli.cli.io import given_on_stdin, is_terminal, note, read_text, use_color, write_out
from llmcli.errors import UsageError
from llmcli.settings import usable_cores

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline
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
ViewDtype = Literal["float32", "bfloat16", "float16", "stored"]
ViewDtypeOption = Annotated[
    ViewDtype, typer.Option("--dtype", help="How the weights are held and computed with; float32 is exact.")
]

KeepNewlineOption = Annotated[
    bool, typer.Option("--keep-newline", help="Keep the final newline of a file or of stdin.")
]


@dataclass(frozen=True)
class ViewOptions:
    """Where a view goes: stdout as JSON or CSV, files, or else the terminal."""

    json: bool = False
    csv: bool = False
    npz: Path | None = None
    png: Path | None = None
    svg: Path | None = None
    html: Path | None = None
    width: int | None = None
    color: str = "auto"

    @property
    def files(self) -> dict[str, Path]:
        """Option name -> path, of the files asked for."""
        named = {"npz": self.npz, "png": self.png, "svg": self.svg, "html": self.html}
        return {name: path for name, path in named.items() if path is not None}


def view_options(
    json: bool = False,
    csv: bool = False,
    npz: Path | None = None,
    png: Path | None = None,
    svg: Path | None = None,
    html: Path | None = None,
    width: int | None = None,
    color: str = "auto",
    *,
    others: Iterable[Path | None] = (),
) -> ViewOptions:
    """The shared options of a view, checked before anything is computed; `others` are more files that it will write.

    Raises `UsageError` for two documents on stdout, and for a file in a folder that is not there.
    """
    if json and csv:
        raise UsageError("--json and --csv both go to stdout", "give one of the two")
    options = ViewOptions(json, csv, npz, png, svg, html, width, color)
    for path in [*options.files.values(), *others]:
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.absolute().parent}", "make the folder first")
        if path is not None and path.is_dir():
            raise UsageError(f"{path} is a folder", "give the path of a file")
    return options


def view_text(text: str | None, file: Path | None, example: str, *, keep_newline: bool) -> str:
    """The text of a view; the final newline of a file or of stdin belongs to the line, not to the text."""
    words = read_text(text, file, example=example)
    return words.removesuffix("\n") if given_on_stdin(text, file) and not keep_newline else words


def load_for_view(model: str, device: str, threads: int | None, dtype: str) -> "Pipeline":
    """The model, ready to be looked into; torch is imported here."""
    from llmcli.pipeline import Pipeline

    return Pipeline.load(model, device=device, dtype=dtype, threads=threads or usable_cores())


def emit(view: "View", options: ViewOptions) -> None:
    """Send a view wherever the options say; drawn as text on stdout where they say nothing.

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
    elif not options.files:
        write_out(_drawn(view, screen_of(options)))


def _refuse_missing(view: "View", options: ViewOptions) -> None:
    for name in ("png", "svg", "html"):
        if name in options.files and (view.html if name == "html" else view.figure) is None:
            raise UsageError(f"{view.name} has no --{name}", "choose another form, such as --json or --npz")


def _write_form(view: "View", name: str, path: Path) -> None:
    from llmcli.render.export import npz_bytes, picture_bytes, write_file

    if name == "npz":
        data = npz_bytes(view.data)
    elif name == "html":
        assert view.html is not None
        data = view.html().encode()
    else:
        assert view.figure is not None
        data = picture_bytes(view.figure, name)
    write_file(path, data)
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
