"""Generated text as it comes: plain for pipes, made safe for terminals, or token by token with probabilities.

A view turns what is generated into strings to print; it prints nothing itself.
"""

from llmcli.render.safe import SafeText

DIM, RESET = "\x1b[2m", "\x1b[0m"

# Lower edge of each band of probability, how it is drawn without colour, and its colours: a scale from dark to bright,
# which stays a scale for eyes that see no hues.
BANDS = (
    (0.0, "▁", "\x1b[97;48;5;53m"),
    (0.05, "▂", "\x1b[97;48;5;61m"),
    (0.2, "▃", "\x1b[97;48;5;30m"),
    (0.5, "▅", "\x1b[30;48;5;77m"),
    (0.8, "▇", "\x1b[30;48;5;227m"),
)


class TextView:
    """The text itself. `safe` spells out what would steer a terminal; `color` dims the prompt."""

    def __init__(self, *, safe: bool, color: bool) -> None:
        self._safe = SafeText(keep="\n\t") if safe else None
        self._color = color

    def prompt(self, text: str) -> str:
        shown = self.text(text)
        return f"{DIM}{shown}{RESET}" if self._color and shown else shown

    def text(self, text: str) -> str:
        return text if self._safe is None else self._safe.push(text)

    def end(self) -> str:
        return "\n"


class TokensView(TextView):
    """Each token with the band of its probability: as colour, or as a bar behind it."""

    def __init__(self, *, color: bool) -> None:
        super().__init__(safe=True, color=color)

    def token(self, text: str, prob: float) -> str:
        """One token: its text (line ends also shown), coloured or followed by its bar."""
        _, bar, colors = band(prob)
        lines = [self.text(line) for line in text.split("\n")]
        if not self._color:
            return "␊\n".join(lines) + bar
        lines[:-1] = [line + "␊" for line in lines[:-1]]
        return "\n".join(f"{colors}{line}{RESET}" if line else "" for line in lines)

    def end(self) -> str:
        return f"\n{self._legend()}\n"

    def _legend(self) -> str:
        """One line that says what the bands mean."""
        entries = []
        for i, (low, bar, colors) in enumerate(BANDS):
            reach = f"under {BANDS[1][0]:.0%}" if i == 0 else f"from {low:.0%}"
            entries.append(f"{colors} {reach} {RESET}" if self._color else f"{bar} {reach}")
        return "probability: " + "  ".join(entries)


def band(prob: float) -> tuple[float, str, str]:
    """The band that a probability falls into."""
    return next(each for each in reversed(BANDS) if prob >= each[0])


def token_text(data: bytes) -> str:
    """A token's bytes as text; those that are no whole character as hexadecimal: ⟨E2⟩⟨82⟩."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(chr(byte) if byte < 0x80 else f"⟨{byte:02X}⟩" for byte in data)
