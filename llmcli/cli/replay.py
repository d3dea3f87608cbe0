"""`llmcli replay`: run a recorded generation again and compare."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcli.cli.io import note, write_json, write_out
from llmcli.cli.options import DeviceChoice, JsonOption, QuietOption
from llmcli.errors import CheckFailedError

if TYPE_CHECKING:
    from llmcli.record import Difference


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `llmcli generate --record` wrote.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", show_default="the recorded one", help="Where the model is now."),
    ] = None,
    device: Annotated[
        DeviceChoice | None, typer.Option("--device", show_default="the recorded one", help="Where to compute.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, show_default="as recorded", help="Threads to compute with."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a recorded generation again, and compare it id by id.

    Ends with exit code 5 where an id differs, naming the first step that does. Files of the model and versions that
    are not the recorded ones are named on stderr.

    \b
    Examples:
      $ llmcli generate --record run.json -n 20 "Once upon a time"
      $ llmcli replay run.json
    """
    from llmcli.record import changes, file_hashes, read_record, versions

    record = read_record(file)
    from llmcli.resolve import resolve

    files = changes(record.files, file_hashes(resolve(record.model if model is None else model)))
    others = changes(record.versions, versions())
    if not quiet:
        for each in files:
            note(f"note: the model is not the recorded one: {each}")
        for each in others:
            note(f"note: the versions are not the recorded ones: {each}")
    from llmcli.pipeline import Pipeline
    from llmcli.record import replay as run_again

    pipeline = Pipeline.load(
        record.model if model is None else model,
        device=record.device if device is None else device,
        dtype=record.dtype,
        kv_dtype=record.kv_dtype,
        threads=record.threads if threads is None else threads,
    )
    pipeline.set_context(record.context_length)
    difference = run_again(pipeline, record)
    if json:
        write_json(_document(record.model, len(record.ids), difference, files, others))
    elif difference is None:
        write_out(f"the same {len(record.ids)} ids\n")
    if difference is not None:
        raise CheckFailedError(_said(difference), _advice(files, others))


def _document(
    model: str, count: int, difference: "Difference | None", files: list[str], others: list[str]
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "schema_version": 1,
        "model": model,
        "same": difference is None,
        "ids": count,
        "difference": None if difference is None else asdict(difference),
        "model_changes": files,
        "version_changes": others,
    }


def _said(difference: "Difference") -> str:
    sides = (difference.recorded, difference.replayed)
    recorded, replayed = ("the end" if each is None else f"id {each}" for each in sides)
    return f"step {difference.step} differs: {recorded} was recorded, now it is {replayed}"


def _advice(files: list[str], others: list[str]) -> str:
    if files:
        return f"the model is not the recorded one: {'; '.join(files)}"
    if others:
        return f"the versions are not the recorded ones: {'; '.join(others)}"
    return "the model's files and the versions are the recorded ones; the machine or its threads may differ"
