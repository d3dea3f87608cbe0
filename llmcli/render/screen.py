"""What a view is drawn on: so many columns, and so many colours."""

import io
import os
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, RenderableType

Depth = Literal["none", "256", "truecolor"]


@dataclass(frozen=True)
class Screen:
    """Width in terminal cells, and the colours that may be used: none at all, 256, or all (truecolor)."""

    width: int = 80
    depth: Depth = "none"

    @property
    def color(self) -> bool:
        return self.depth != "none"


def color_depth(color: bool) -> Depth:
    """The colours that the terminal says it has, by COLORTERM and TERM; none where `color` is not wanted."""
    if not color:
        return "none"
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return "truecolor"
    return "truecolor" if os.environ.get("TERM", "").endswith("-direct") else "256"


def draw(renderable: RenderableType, screen: Screen) -> str:
    """A rich renderable as lines of text with the escape sequences of the screen's colours, or with none.

    Markup and emoji codes are not interpreted. Lines carry no trailing spaces where there is no colour.
    """
    file = io.StringIO()
    console = Console(
        file=file,
        width=screen.width,
        height=100,
        force_terminal=screen.color,
        force_interactive=False,
        color_system={"none": None, "256": "256", "truecolor": "truecolor"}[screen.depth],
        no_color=not screen.color,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
        _environ={},
    )
    console.print(renderable, soft_wrap=False)
    text = file.getvalue().rstrip("\n")
    return f"{text}\n" if screen.color else "".join(f"{line.rstrip()}\n" for line in text.split("\n"))
