"""The quick conversion of option values agrees with Typer's own, and leaves to it what it does not know."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.cli.coerce import lighten

PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None}


def command(
    text: Annotated[str, typer.Option()] = "",
    whole: Annotated[int | None, typer.Option(min=0, max=10)] = None,
    decimal: Annotated[float, typer.Option(min=-1)] = 0.5,
    choice: Annotated[Literal["a", "b"], typer.Option()] = "a",
    path: Annotated[Path | None, typer.Option()] = None,
    many: Annotated[list[int] | None, typer.Option()] = None,
    flag: Annotated[bool, typer.Option("--flag/--no-flag")] = False,
) -> dict[str, Any]:
    return dict(locals())


def parser(*, light: bool) -> Any:
    app = typer.Typer(**PLAIN)
    app.command()(command)
    built = typer.main.get_command(app)
    for each in built.params if light else ():
        lighten(each)
    return built


def outcome(built: Any, arguments: list[str]) -> Any:
    """The values that a command is given, or the words of the refusal."""
    try:
        with built.make_context("command", list(arguments)) as context:
            values = built.invoke(context)
    except typer.TyperException as error:
        return error.format_message()
    return {name: (type(value), value) for name, value in values.items()}


OPTIONS = st.sampled_from(["text", "whole", "decimal", "choice", "path", "many"])
VALUES = st.one_of(
    st.sampled_from(
        [
            "",
            "0",
            "-0",
            "7",
            "10",
            "11",
            "-1",
            "-2",
            "1.5",
            "1.",
            ".5",
            "1e3",
            "nan",
            "inf",
            "a",
            "b",
            "A",
            "0x1",
            "1_0",
            " 3",
        ]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(alphabet=st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=5),
)


@settings(max_examples=60)
@given(st.lists(st.tuples(OPTIONS, VALUES), max_size=4), st.sampled_from([[], ["--flag"], ["--no-flag"]]))
def test_the_same_as_typers_own(pairs: list[tuple[str, str]], flags: list[str]) -> None:
    arguments = [f"--{name}={value}" for name, value in pairs] + flags
    assert outcome(parser(light=True), arguments) == outcome(parser(light=False), arguments)


@pytest.mark.parametrize("value", [3, "3"])
def test_values_of_a_configuration_file(value: object) -> None:
    built = parser(light=True)
    with built.make_context("command", [], default_map={"whole": value, "decimal": 1}) as context:
        assert built.invoke(context)["whole"] == 3
        assert built.invoke(context)["decimal"] == 1.0
