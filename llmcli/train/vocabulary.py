"""A byte-level BPE vocabulary of one's own (Sennrich et al. 2016, arXiv:1508.07909; bytes as in GPT-2)."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from llmcli.files import write_whole

END_OF_TEXT = "<|endoftext|>"
_SAMPLE_CHARACTERS = 80_000_000
_DOCUMENT_CHARACTERS = 60_000
_SMALL_CHARACTERS = 4_000_000


def train_vocabulary(documents: Callable[[], Iterable[str]], size: int, out: Path) -> None:
    """Trains on a stretch of every document up to a bound; writes tokenizer.json and tokenizer_config.json to `out`.

    `documents` starts reading anew at each call. The same documents give the same vocabulary.
    The end-of-text token gets id 0; it also starts every document, so an empty prompt has something to start from.
    """
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(documents), trainer)
    write_whole(out / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    write_whole(out / "tokenizer_config.json", json.dumps(config, indent=2).encode() + b"\n")


def _lines(documents: Callable[[], Iterable[str]]) -> Iterator[str]:
    """The sample, line by line: a stretch of every document, and more of each where that would be little."""
    sample = _sample(documents(), _DOCUMENT_CHARACTERS)
    if sum(map(len, sample)) < _SMALL_CHARACTERS:
        sample = _sample(documents(), _SAMPLE_CHARACTERS)
    for stretch in sample:
        yield from stretch.splitlines(keepends=True)


def _sample(documents: Iterable[str], most: int) -> list[str]:
    """The start of every document, so that no author weighs more than another; more would hardly change the merges."""
    left = _SAMPLE_CHARACTERS
    sample = []
    for document in documents:
        sample.append(document[: min(left, most)])
        left -= len(sample[-1])
        if left <= 0:
            break
    return sample
