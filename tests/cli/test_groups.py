"""Groups of options: seen one by one by the user, as one value by the command."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from llmcli.cli.groups import with_groups


@dataclass(frozen=True)
class Size:
    rows: Annotated[int, typer.Option("--rows")] = 3
    wide: Annotated[bool, typer.Option("--wide")] = False

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError("no rows")


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def app(seen: list[Any]) -> typer.Typer:
    app = typer.Typer(add_completion=False)

    @app.command()
    @with_groups
    def draw(text: str, size: Size, loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
        """Draws a text."""
        seen.append((text, size, loud))

    return app


def test_a_group_arrives_as_one_value(app: typer.Typer, seen: list[Any]) -> None:
    assert CliRunner().invoke(app, ["a", "--rows", "5", "--loud", "--wide"]).exit_code == 0
    assert CliRunner().invoke(app, ["b"]).exit_code == 0
    assert seen == [("a", Size(5, True), True), ("b", Size(3, False), False)]


def test_help_shows_the_options_and_the_command_s_own_text(app: typer.Typer) -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    assert "--rows" in text
    assert "Draws a text." in text
    assert text.index("--rows") < text.index("--loud")


def test_a_group_s_own_check_stops_the_command(app: typer.Typer, seen: list[Any]) -> None:
    assert isinstance(CliRunner().invoke(app, ["a", "--rows", "0"]).exception, ValueError)
    assert not seen
