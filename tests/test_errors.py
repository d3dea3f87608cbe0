"""The errors' wording, held over all of the source: two lines each, in one style."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmcli
from llmcli import errors

SOURCE = Path(llmcli.__file__).parent
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.LlmcliError)}
WORDS = ("RoPE", "PyTorch", "GGUF", "UTF-8", "HF_", "LLMCLI_")  # that are written with a capital everywhere


def raised(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line of each error that a file makes, and its texts; what a text inserts stands as `{}`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            texts = [text for each in node.args if (text := spelled(each)) is not None]
            yield node.lineno, texts


def spelled(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp):
        sides = (spelled(node.left), spelled(node.right))
        return "".join("{}" if side is None else side for side in sides)
    return None


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_errors_start_small_and_end_without_a_full_stop(path):
    for line, texts in raised(path):
        for text in texts:
            assert not text[:1].isupper() or text.startswith(WORDS), f"line {line}: {text}"
            assert not text.endswith("."), f"line {line}: {text}"
            assert "\n" not in text, f"line {line}: {text}"


def test_the_errors_of_the_source_are_found():
    found = [texts for path in SOURCE.rglob("*.py") for _, texts in raised(path)]
    assert len(found) > 100
    assert sum(len(texts) == 2 for texts in found) > 80
