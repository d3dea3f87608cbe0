"""Drawn text compared, character by character, with what is stored in tests/snapshots.

`LLMCLI_SNAPSHOTS=write pytest ...` stores what is drawn now: look at the difference before you keep it.
"""

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "snapshots"


def check_snapshot(name: str, text: str) -> None:
    """Fails where `text` is not what `name`.txt holds. Escape sequences are stored as `\\e`."""
    path = FOLDER / f"{name}.txt"
    shown = text.replace("\x1b", "\\e")
    if os.environ.get("LLMCLI_SNAPSHOTS") == "write":
        path.write_text(shown, "utf-8")
    assert shown == path.read_text("utf-8"), f"{path.name} differs; LLMCLI_SNAPSHOTS=write stores the new text"
