"""From a corpus to a vocabulary and to token files: which documents train, and which are held out."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from llmcli.errors import UsageError
from llmcli.tokenizer import Tokenizer
from llmcli.train.corpus import Corpus, peek
from llmcli.train.tokens import TokenFile, TokenWriter, corpus_key, open_tokens
from llmcli.train.vocabulary import train_vocabulary

_HEAD = 65_536
"""Characters at the start of a document that decide whether it is held out."""

Progress = Callable[[str, float], None]
"""What is being done, and how much of it is done, 0 to 1."""


class Split:
    """Training and validation documents: by file, or by a hash of each document, the same on every machine."""

    def __init__(self, corpus: Corpus, valid: Corpus | None, share: float) -> None:
        self.corpus, self.valid, self.share = corpus, valid, share
        self.by_hash = valid is None and share > 0
        self._limit = _hash_limit(corpus, share) if self.by_hash else 0

    def documents(self) -> Iterator[tuple[bool, Iterator[str]]]:
        """Every document of the corpus, and whether it is held out."""
        for document in self.corpus.documents():
            first, document = peek(document)
            yield self.by_hash and _hash(first) < self._limit, document

    def training(self) -> Iterator[Iterator[str]]:
        return (document for held_out, document in self.documents() if not held_out)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text[:_HEAD].encode()).digest()[:8], "big")


def _hash_limit(corpus: Corpus, share: float) -> int:
    """Documents whose hash is below are held out: a share, but at least one where the corpus has two or more."""
    limit = int(share * 2**64)
    lowest, highest = 2**64, -1
    for document in corpus.documents():
        number = _hash(peek(document)[0])
        lowest, highest = min(lowest, number), max(highest, number)
        if lowest < limit <= highest:
            return limit
    if lowest >= highest:
        raise UsageError(
            "the corpus is one document, so that none can be held out",
            "give --valid FILE, or --set valid_share=0 to measure nothing",
        )
    return lowest + 1 if lowest >= limit else highest


def make_vocabulary(split: Split, size: int, folder: Path, progress: Progress) -> None:
    """Trains a vocabulary on the training documents and writes tokenizer.json to the folder."""

    def documents() -> Iterator[str]:
        for document in split.training():
            yield from document
            progress("vocabulary", split.corpus.fraction)

    train_vocabulary(documents, size, folder)


def make_tokens(
    split: Split, tokenizer: Tokenizer, folder: Path, progress: Progress
) -> tuple[TokenFile, TokenFile | None]:
    """The token files of training and validation, out of the folder's cache where they lie there already."""
    limit = f"limit {split.corpus.limit_bytes}" if split.corpus.limit_bytes else ""
    if not split.by_hash:
        train = _cached(split.corpus, tokenizer, folder, limit, progress)
        return train, None if split.valid is None else _cached(split.valid, tokenizer, folder, "", progress)
    paths = [_path(split.corpus, folder, f"{limit} {part} {split.share}") for part in ("train", "valid")]
    found = [open_tokens(path) for path in paths]
    if None in found:
        with ExitStack() as stack:
            writers = [stack.enter_context(TokenWriter(tokenizer, name)) for name in paths]
            for held_out, document in split.documents():
                writers[held_out].add(document)
                progress("tokens", split.corpus.fraction)
        found = [open_tokens(path) for path in paths]
    assert found[0] is not None
    return found[0], found[1]


def _cached(corpus: Corpus, tokenizer: Tokenizer, folder: Path, extra: str, progress: Progress) -> TokenFile:
    path = _path(corpus, folder, extra)
    tokens = open_tokens(path)
    if tokens is None:
        with TokenWriter(tokenizer, path) as writer:
            for document in corpus.documents():
                writer.add(document)
                progress("tokens", corpus.fraction)
        tokens = open_tokens(path)
    assert tokens is not None
    return tokens


def _path(corpus: Corpus, folder: Path, extra: str) -> Path:
    return folder / f"tokens-{corpus_key(corpus.files, folder, extra)}.bin"


def check_size(tokens: TokenFile, unit: int) -> None:
    """Raises UsageError for a corpus that is shorter than one row."""
    if len(tokens.ids) <= unit:
        raise UsageError(
            f"the corpus has {len(tokens.ids)} tokens, fewer than one row of {unit}",
            "give more text, or shorter rows: --set schedule.lengths, --set shape.context",
        )
