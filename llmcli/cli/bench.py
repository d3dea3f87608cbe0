"""`llmcli bench`: how fast a model runs on this machine."""

from dataclasses import asdict
from typing import Annotated

import typer

from llmcli.cli.generate_options import DtypeOption
from llmcli.cli.io import write_json, write_out
from llmcli.cli.options import DEFAULT_MODEL, DeviceOption, JsonOption, ThreadsOption
from llmcli.errors import UsageError
from llmcli.settings import usable_cores


def bench(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A built-in name, a folder or a hub id.")
    ] = DEFAULT_MODEL,
    prefill: Annotated[
        str, typer.Option("--prefill", metavar="N,N", help="Lengths of the prompts that are read in one pass.")
    ] = "32,128,512",
    context: Annotated[
        str, typer.Option("--context", metavar="N,N", help="Tokens after which decode steps are measured.")
    ] = "50,900",
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="How often each is measured.")] = 5,
    cold: Annotated[bool, typer.Option("--cold/--no-cold", help="Measure new processes too.")] = True,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure how fast a model runs: prefill, decode steps, a new process, memory.

    A decode step reads all weights once. The share of the memory's speed says how near it comes to the fastest that
    this machine could do with weights of this size. Steps are measured as a long text has them, after its first 32.
    Run it while nothing else runs.

    \b
    Examples:
      $ llmcli bench
      $ llmcli bench stories --dtype int8 --rounds 2 --no-cold
      $ llmcli bench --context 50 --prefill 128 --no-cold --json
    """
    lengths = {"--prefill": _lengths("--prefill", prefill), "--context": _lengths("--context", context)}
    from llmcli.inspect import bench as measure
    from llmcli.pipeline import Pipeline

    pipeline = Pipeline.load(model, device=device, dtype=dtype, threads=threads or usable_cores())
    arguments = ["-m", str(pipeline.folder), "--dtype", dtype, "--device", device, "Once"]
    started = measure.cold_start(arguments) if cold and pipeline.has_tokenizer else None
    report = measure.bench(pipeline, lengths["--prefill"], lengths["--context"], rounds=rounds, cold=started)
    data = {"schema_version": 1} | asdict(report)
    if json:
        write_json(data)
        return
    from llmcli.render.bench import bench_lines
    from llmcli.render.safe import visible

    write_out(bench_lines(data | {"model": visible(report.model)}))


def _lengths(name: str, text: str) -> list[int]:
    try:
        found = [int(each) for each in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise UsageError(f"{name} {text!r} is not a list of lengths", f"for example: {name} 32,512")
    return found
