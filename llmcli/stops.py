"""Stop strings in a text that comes in pieces."""

from collections.abc import Sequence


class StopFilter:
    """Lets text through up to the first stop string; what may be the beginning of one is held back until it is clear.

    The first to be complete wins, and of two that end at one place the longer: how the text is cut into pieces makes
    no difference.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    @property
    def holding(self) -> bool:
        """Whether text is held back."""
        return bool(self._held)

    def push(self, text: str) -> str:
        """The text that is certain now. After a stop: none."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return text[: min(ends)[1]]
        cut = len(text) - self._overlap(text)
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """What is held back although no stop came."""
        held, self._held = self._held, ""
        return "" if self.stopped else held

    def _overlap(self, text: str) -> int:
        """How many last characters of the text are the beginning of a stop string."""
        longest = min(len(text), max(len(stop) for stop in self._stops) - 1)
        lengths = range(longest, 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)
