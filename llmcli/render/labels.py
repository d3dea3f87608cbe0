"""Labels of exactly so many terminal cells, wide characters counted as two; upright, or written downwards."""

from rich.cells import cell_len, set_cell_size, split_graphemes


def fit(text: str, width: int, *, right: bool = False) -> str:
    """A text of exactly `width` cells: padded, or cut with an ellipsis. A wide character is never halved."""
    size = cell_len(text)
    if size > width:
        text = set_cell_size(text, max(0, width - 1)).rstrip(" ") + "…"
        text = set_cell_size(text, width) if cell_len(text) > width else text
        size = cell_len(text)
    pad = " " * (width - size)
    return pad + text if right else text + pad


def letters(text: str) -> list[str]:
    """What stands in one place each: characters with the marks that belong to them."""
    spans, _ = split_graphemes(text)
    return [text[start:end] for start, end, _ in spans]


def downwards(texts: list[str], width: int, height: int) -> list[str]:
    """Labels written from top to bottom, side by side in columns of `width` cells, standing on the last line.

    Those longer than `height` end in an ellipsis. Returns as many lines as the longest needs.
    """
    columns = []
    for text in texts:
        parts = letters(text)
        columns.append(parts if len(parts) <= height else [*parts[: height - 1], "…"])
    tallest = max(map(len, columns), default=0)
    lines = []
    for row in range(tallest):
        cells = (column[row - tallest + len(column)] if row >= tallest - len(column) else "" for column in columns)
        lines.append("".join(fit(cell, width) for cell in cells))
    return lines
