"""Which documents train and which are held out, and their ids on disk."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llmcli.errors import UsageError
from llmcli.tokenizer import Tokenizer
from llmcli.train.corpus import Corpus
from llmcli.train.dataset import Split, make_tokens, make_vocabulary
from llmcli.train.tokens import TokenWriter, corpus_key, open_tokens
from train.small import story, write_corpus


def quiet(what: str, fraction: float) -> None:
    assert what in ("vocabulary", "tokens")
    assert 0 <= fraction <= 1


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus([write_corpus(tmp_path / "corpus.jsonl")])


@pytest.fixture
def tokenizer(corpus: Corpus, tmp_path: Path) -> Tokenizer:
    make_vocabulary(Split(corpus, None, 0.2), 300, tmp_path, quiet)
    return Tokenizer.from_folder(tmp_path)


def held_out(corpus: Corpus, share: float) -> set[str]:
    return {"".join(text) for held, text in Split(corpus, None, share).documents() if held}


def test_a_share_is_held_out_by_the_hash_of_each_document(corpus: Corpus) -> None:
    texts = ["".join(pieces) for pieces in corpus.documents()]
    numbers = {text: int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64 for text in texts}
    assert held_out(corpus, 0.2) == {text for text in texts if numbers[text] < 0.2}
    assert 4 < len(held_out(corpus, 0.2)) < 20


def test_the_choice_does_not_depend_on_order_or_company(corpus: Corpus, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    lines = corpus.files[0].read_text().splitlines(keepends=True)
    other.write_text("".join(reversed(lines[:30])))
    chosen = held_out(corpus, 0.2)
    assert held_out(Corpus([other]), 0.2) == chosen & {json.loads(line)["text"] for line in lines[:30]}


def test_at_least_one_is_held_out_and_at_least_one_trains(corpus: Corpus, tmp_path: Path) -> None:
    assert len(held_out(corpus, 1e-9)) == 1
    two = write_corpus(tmp_path / "two.jsonl", 2)
    assert len(held_out(Corpus([two]), 0.5)) == 1
    one = write_corpus(tmp_path / "one.jsonl", 1)
    with pytest.raises(UsageError, match="one document"):
        Split(Corpus([one]), None, 0.2)
    assert held_out(Corpus([one]), 0.0) == set()


def test_the_token_file_holds_each_document_after_its_start(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    split = Split(corpus, None, 0.2)
    train, valid = make_tokens(split, tokenizer, tmp_path, quiet)
    assert valid is not None
    for tokens, wanted in ((train, False), (valid, True)):
        texts = ["".join(text) for held, text in split.documents() if held is wanted]
        ids = [i for text in texts for i in (tokenizer.bos_id, *tokenizer.encode(text))]
        assert tokens.ids.tolist() == ids
        assert tokens.bytes == sum(len(text.encode()) for text in texts)
    assert train.start_id == tokenizer.bos_id == 0
    assert isinstance(train.ids, np.memmap)


def test_long_documents_are_encoded_in_chunks_to_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = story(1, 200_000)  # about a megabyte
    with TokenWriter(tokenizer, tmp_path / "t.bin") as writer:
        writer.add(iter([text[:500_001], text[500_001:]]))
        writer.add(iter(["a"]))
    tokens = open_tokens(tmp_path / "t.bin")
    assert tokens is not None
    assert tokens.ids.tolist() == [0, *tokenizer.encode(text), 0, *tokenizer.encode("a")]


def test_tokens_are_cached_until_something_changes(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    make_tokens(Split(corpus, corpus, 0.0), tokenizer, tmp_path, quiet)
    (path,) = tmp_path.glob("tokens-*.bin")
    assert path.name == f"tokens-{corpus_key(corpus.files, tmp_path)}.bin"
    written = path.stat().st_mtime_ns
    make_tokens(Split(corpus, corpus, 0.0), tokenizer, tmp_path, quiet)
    assert path.stat().st_mtime_ns == written
    with corpus.files[0].open("a") as file:
        file.write('{"text": "more"}\n')
    make_tokens(Split(corpus, None, 0.0), tokenizer, tmp_path, quiet)
    assert len(list(tmp_path.glob("tokens-*.bin"))) == 2


def test_what_was_not_finished_is_not_there(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "some text"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), TokenWriter(tokenizer, tmp_path / "t.bin") as writer:
        writer.add(broken())
    assert open_tokens(tmp_path / "t.bin") is None
    assert not list(tmp_path.glob("t.*"))


def test_held_out_documents_do_not_shape_the_vocabulary(tmp_path: Path) -> None:
    mark = " Qwxzqwxz"
    marked = (story(1) + mark * 50 + str(n) for n in range(100))
    hidden = next(t for t in marked if int(hashlib.sha256(t.encode()).hexdigest()[:16], 16) < 0.2 * 2**64)
    corpus = Corpus([write_corpus(tmp_path / "a.jsonl")])
    with corpus.files[0].open("a") as file:
        file.write(json.dumps({"text": hidden}) + "\n")
    lengths = []
    for share in (0.2, 0.0):
        make_vocabulary(Split(corpus, None, share), 600, tmp_path, quiet)
        lengths.append(len(Tokenizer.from_folder(tmp_path).encode(mark)))
    assert lengths[0] > 4
    assert lengths[1] <= 2
