"""`llmcli quantize`: store a model's weights in a small form, once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmcli.cli.io import note, write_json
from llmcli.cli.options import JsonOption, QuietOption
from llmcli.errors import UsageError
from llmcli.resolve import resolve


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A built-in name, a folder or a hub id.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    dtype: Annotated[
        Literal["auto", "float16", "bfloat16", "int8", "int4"],
        typer.Option("--dtype", help="How the matrices are stored; auto is what generate uses by default."),
    ] = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Store a model in the form in which generate multiplies it, so that it starts sooner and takes less room.

    OUT is a folder for llmcli alone; it holds the tokenizer too, and works wherever a model's name does. Norms and
    biases stay in float32. int8 rounds weights to 8 bits with a scale for each row, int4 to 4 bits with a scale and an
    offset for every 32.

    \b
    Examples:
      $ llmcli quantize stories small --dtype int8
      $ llmcli generate -m small -n 20 "Once upon a time"
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already", "name a folder that does not exist")
    folder = resolve(model)
    from llmcli.model.pack import auto_dtype
    from llmcli.model.quantized import quantize as write

    chosen = auto_dtype("cpu", many_rows=False) if dtype == "auto" else dtype
    if chosen == "float32":
        raise UsageError("this processor has no fast 16-bit form", "choose --dtype int8, or leave the model as it is")
    before = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    after = write(folder, out, chosen)
    if json:
        write_json({"schema_version": 1, "folder": str(out), "dtype": chosen, "bytes": after, "bytes_before": before})
    elif not quiet:
        note(f"{out}: {chosen}, {after / 1e6:.1f} MB of weights instead of {before / 1e6:.1f}")
