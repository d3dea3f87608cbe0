"""Untrusted text made fit for a terminal: whatever would steer it, hide, or reorder is spelled out instead.

Text from a model, a file or a hub may hold escape sequences that set the clipboard, move the cursor or fake output,
bidirectional overrides that show code in another order than it runs, invisible characters that carry a message, and
floods of combining marks that paint over other lines.
"""

import unicodedata

_LIMIT = 4  # combining marks in a row on one character that are shown as they are; real scripts use at most that many

# Controls, format characters (zero-width, bidirectional, tags), surrogates, line and paragraph separators.
_STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Characters of other categories that are drawn as nothing: joiner, fillers, vowels, variation selectors.
_BLANK = frozenset(map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0x180B, 0x1810))))
_BLANK |= frozenset(map(chr, range(0xE0000, 0xE1000)))
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "␡"}  # ␛ for ESC


class SafeText:
    """`visible` for text that comes in pieces: a flood of combining marks is one however it is cut.

    Characters in `keep`, such as a newline and a tab, pass unchanged.
    """

    def __init__(self, keep: str = "") -> None:
        self._keep = frozenset(keep)
        self._pictures = {code: shown for code, shown in _PICTURES.items() if chr(code) not in keep}
        self._marks = 0

    def push(self, text: str) -> str:
        """The text with everything in it that is not plainly seen spelled out."""
        text = text.translate(self._pictures) if not text.isprintable() else text
        if text.isascii():
            self._marks = 0 if text else self._marks
            return text
        return "".join(map(self._shown, text))

    def _shown(self, character: str) -> str:
        kind = unicodedata.category(character)
        mark = kind in ("Mn", "Me")
        self._marks = self._marks + 1 if mark else 0
        steers = kind in _STEERING and character not in self._keep
        if steers or character in _BLANK or self._marks > _LIMIT:
            return f"⟨U+{ord(character):04X}⟩"
        return character


def visible(text: str, *, keep: str = "") -> str:
    """A text in which every control, bidirectional, zero-width and flooding character is shown instead of obeyed.

    C0 controls become their pictures (ESC is ␛, a newline ␊), others their number: ⟨U+202E⟩. Characters in `keep` pass
    unchanged.
    """
    return SafeText(keep).push(text)
