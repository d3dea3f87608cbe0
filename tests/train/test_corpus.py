"""Documents out of files of every kind."""

import gzip
import json
import lzma
from pathlib import Path

import pytest
import zstandard

from llmcli.errors import UsageError
from llmcli.train.corpus import PIECE, Corpus

TEXTS = ["One.\r\n", "Zwei – drei", "四"]


def read(*paths: Path, limit: int = 0) -> list[str]:
    return ["".join(pieces) for pieces in Corpus(paths, limit).documents()]


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text, "more": 1}) + "\n" for text in texts).encode()


@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".zst", lambda d: zstandard.ZstdCompressor().compress(d)),
    ],
)
def test_json_lines_and_text_plain_or_compressed(tmp_path: Path, ending: str, pack: object) -> None:
    lines, plain = tmp_path / f"a.jsonl{ending}", tmp_path / f"b.txt{ending}"
    lines.write_bytes(pack(jsonl([TEXTS[0], "", TEXTS[1]]) + b"\n"))  # type: ignore[operator]
    plain.write_bytes(pack(TEXTS[2].encode()))  # type: ignore[operator]
    assert read(lines, plain) == TEXTS
    corpus = Corpus([lines, plain])
    assert corpus.fraction == 0
    list(corpus.documents())
    assert corpus.fraction == 1


def test_a_folder_is_all_its_text_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "sub" / "c.txt.gz").write_bytes(gzip.compress(b"third"))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert read(tmp_path) == ["first", "second", "third"]


def test_a_long_file_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("é" * (2 * PIECE + 5))
    (document,) = [list(pieces) for pieces in Corpus([path]).documents()]
    assert len(document) == 3
    assert "".join(document) == path.read_text()


@pytest.mark.parametrize("limit", range(1, 30))
def test_a_limit_cuts_between_characters(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(TEXTS))
    whole = "".join(TEXTS).encode()
    assert "".join(read(path, limit=limit)).encode() == whole[:limit].decode("utf-8", "ignore").encode()
    # A caller that does not read a document changes nothing about the next.
    assert len(list(Corpus([path], limit).documents())) == len(read(path, limit=limit))


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b'{"text": "fine"}\nno json\n', "line 2: no JSON object with `text`"),
        ("a.jsonl", b'{"body": "x"}\n', "line 1: no JSON object with `text`"),
        ("a.jsonl", b"[1]\n", "line 1: no JSON object"),
        ("a.jsonl", b'{"text": 3}\n', "line 1: `text` is not a string"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: `text` holds half a character"),
        ("a.txt", b"ab\xff", "cannot read"),
        ("a.txt", b"a" * 3 * PIECE + b"\xff", "cannot read"),
        ("a.txt.gz", b"not gzip", "cannot read"),
        ("a.txt.xz", lzma.compress(b"x" * 9999)[:-20], "cannot read"),
        ("a.txt.zst", b"not zstd", "cannot read"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_files_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        Corpus([tmp_path / "none"])
    with pytest.raises(UsageError, match="holds no text files"):
        Corpus([tmp_path])
