"""A command that goes wrong in the way it is asked to. As a script it is `llmcli` with that command added."""

import os
import sys
import time
from typing import Annotated

import typer

from llmcli.cli import app
from llmcli.cli.io import write_json, write_out
from llmcli.cli.options import DeviceOption, ModelOption, SeedOption, ThreadsOption
from llmcli.errors import CheckFailedError, ContextLengthError, ModelError


class Swallows:
    def __del__(self) -> None:
        os.kill(os.getpid(), int(os.environ["PROBE_SIGNAL"]))
        for _ in range(1000):
            time.sleep(0.001)


def probe(
    how: str,
    model: ModelOption = "stories",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = None,
    temperature: Annotated[float | None, typer.Option(envvar="LLMCLI_TEMPERATURE")] = None,
    max_tokens: Annotated[str, typer.Option("--own", metavar="TEXT")] = "mine",
) -> None:
    """Go wrong.

    \b
    Example:
      $ llmcli probe values
    """
    match how:
        case "values":
            values = {"model": model, "device": device, "threads": threads, "seed": seed, "temperature": temperature}
            write_json({**values, "own": max_tokens})
        case "many":
            for number in range(100_000):
                write_out(f"{number}\n")
        case "print":
            for number in range(100_000):
                print(number)
        case "surrogate":
            write_out("a\udce9b\n")
            print("c\udce9d é 😀")
        case "bytes":
            write_out(b"a\r\nb\xff")
        case "bug":
            raise KeyError("what \x1b]52;c;x\x07 this\nis")
        case "secret":
            raise RuntimeError(f"token {os.environ['HF_TOKEN']}")
        case "model":
            raise ModelError("a model", "a remedy")
        case "context":
            raise ContextLengthError("a context")
        case "check":
            raise CheckFailedError("a check")
        case "missing":
            open("/no/such/file")  # noqa: SIM115, PTH123
        case "memory":
            raise MemoryError
        case "sleep":
            write_out("ready\n")
            time.sleep(30)
        case "swallow":
            write_out("ready\n")
            try:
                time.sleep(30)
            except BaseException:
                raise ImportError("half a package") from None
        case "destructor":
            Swallows()
            time.sleep(30)
        case "ignore":
            try:
                write_out("ready\n")
                time.sleep(30)
            except KeyboardInterrupt:
                write_out("once\n")
            time.sleep(30)


ENTRY = ("probe:probe", "Go wrong.")

if __name__ == "__main__":
    from llmcli.__main__ import main

    app.COMMANDS["probe"] = ENTRY
    sys.modules["probe"] = sys.modules["__main__"]
    sys.exit(main())
