"""The entry point, and the one boundary: whatever goes wrong inside becomes one line, one remedy and an exit code."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn, TextIO

from llmcli.errors import EXIT_INTERRUPT, EXIT_OK, LlmcliError, UsageError
from llmcli.interrupts import Stopped, listen, received

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run `llmcli` as a process, from `sys.argv`, and return its exit code: 0 to 5, 129, 130 or 143."""
    try:
        _handle_signals(_stop)
        sys.unraisablehook = _stop_unheard
        _open_streams()
        listen()
        code = run(sys.argv[1:])
        _handle_signals(_leave)
    except BaseException as error:  # a signal's exception is raised once at most, wherever it finds the program
        _handle_signals(_leave)
        code = _report(error)
    if received:  # also where a library swallowed the exception that the signal raised
        code = 128 + received[0]
    return _close_streams(code)


def entry() -> NoReturn:
    """The process `llmcli`. All output is written when `main` returns, so it ends there: to take down its libraries
    would cost torch half a second."""
    os._exit(main())


def run(arguments: list[str]) -> int:
    """Run one command line inside this process: exceptions become a message on stderr and the exit code returned."""
    try:
        from llmcli.cli.app import invoke

        code = invoke(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException as error:
        return _report(error)
    return code


def _report(error: BaseException) -> int:
    """Say what went wrong on stderr, in two lines at most, and return the exit code that stands for it."""
    if received or isinstance(error, KeyboardInterrupt):  # imports turn a signal's exception into one of their own
        return 128 + received[0] if received else EXIT_INTERRUPT
    if isinstance(error, BrokenPipeError):
        _silence(1)
        return EXIT_OK
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else EXIT_OK if error.code is None else 1
    if os.environ.get("LLMCLI_DEBUG"):
        import traceback

        _say(*"".join(traceback.format_exception(error)).splitlines())
    failure = _as_failure(error)
    _say(f"llmcli: {failure}", failure.remedy)
    return failure.exit_code


def _as_failure(error: BaseException) -> LlmcliError:
    if isinstance(error, LlmcliError):
        return error
    if "typer" in sys.modules:
        from llmcli.cli.app import usage_error

        if (usage := usage_error(error)) is not None:
            return usage
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None:
            return LlmcliError(f"input or output failed: {error.strerror}", "check the disk and what stdout leads to")
        return LlmcliError(f"{os.fsdecode(error.filename)}: {error.strerror}", "check the path, its disk and rights")
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return LlmcliError("out of memory", "choose a smaller model, a shorter context or a smaller --dtype")
    if isinstance(error, UnicodeEncodeError):
        return UsageError(f"this text cannot be written as {error.encoding}", "use a UTF-8 locale, such as C.UTF-8")
    return LlmcliError(
        f"internal error: {type(error).__name__}: {error}",
        "add --debug to see where; please report it with that output",
    )


def _say(*lines: str) -> None:
    """Print lines on stderr. They may hold text of a file or a model: nothing in them steers the terminal."""
    secret = os.environ.get("HF_TOKEN") or "\0"
    from llmcli.cli.io import write_err
    from llmcli.render.safe import visible

    said = [visible(" ".join(line.splitlines())).replace(secret, "***") + "\n" for line in lines if line]
    try:
        write_err("".join(said))
    except (OSError, ValueError):
        _silence(2)


def _stop(number: int, _frame: FrameType | None) -> None:
    if received:  # asked twice: whatever holds up the first is not waited for
        os._exit(128 + number)
    received.append(number)
    if _importing():  # an exception inside a library's initialization may abort the process, or be lost
        _end_now()
    raise Stopped


def _importing() -> bool:
    specs = (getattr(each, "__spec__", None) for each in list(sys.modules.values()))
    return any(getattr(each, "_initializing", False) for each in specs)


def _end_now() -> None:
    os._exit(128 + received[0] if _close_streams(0) == 0 else 1)


def _stop_unheard(unraisable: "sys.UnraisableHookArgs") -> None:
    """A signal's exception that came up where Python can only print it, such as a destructor, ends the run as well."""
    if not isinstance(unraisable.exc_value, Stopped):
        sys.__unraisablehook__(unraisable)
        return
    _end_now()


def _leave(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + (received[0] if received else number))


def _handle_signals(handler: object) -> None:
    for number in _ENDING_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, and shells for background jobs, ignore some on purpose
            signal.signal(number, handler)  # type: ignore[arg-type]


def _open_streams() -> None:
    """Make stdout and stderr UTF-8 in every locale, and hold descriptors 0 to 2 open.

    A descriptor that the caller closed would be given to the next file opened, and be written to by mistake: it is
    opened on /dev/null, stdout for reading only, so that writing a result there fails and is said.
    """
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
    sys.stdout = _utf8(sys.stdout, 1)
    sys.stderr = _utf8(sys.stderr, 2)


def _utf8(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        return open(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="", closefd=False)
    stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")  # type: ignore[attr-defined]
    return stream


def _close_streams(code: int) -> int:
    """Write out what is buffered; the exit code changes where that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(1)
    except OSError as error:
        _silence(1)
        if code == EXIT_OK:
            code = _report(error)
    try:
        sys.stderr.flush()
    except OSError:
        _silence(2)
    return code


def _silence(descriptor: int) -> None:
    """Point a broken stream at /dev/null, so that Python's own flush at exit has nothing to complain about."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


if __name__ == "__main__":
    entry()
