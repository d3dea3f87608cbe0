"""The signals that ask the program to end, for whoever computes for long."""

# Their numbers, the first one first. `llmcli.__main__` fills it; nothing empties it.
received: list[int] = []


class Stopped(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP. A command may catch `KeyboardInterrupt` to finish a line, and must raise it again."""


def check() -> None:
    """Raises `Stopped` where the program was asked to end. The signal has raised it already, wherever that found the
    program, and a library may have swallowed it there."""
    if received:
        raise Stopped
