"""Older tokenizer files give the ids of what they were made from, or are refused by name."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import TokenizerError
from llmcli.tokenizer import Tokenizer

words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30)
WORDS = words | st.lists(st.sampled_from(["the", " dog", "  ", "sat", "\n", ".", "你", "é", " Café's", "12"])).map(
    "".join
)


@pytest.fixture(scope="module")
def gpt2(shared: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared / "tokenizers/gpt2")


@pytest.fixture(scope="module")
def merges_folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's tokenizer in its first form."""
    folder = tmp_path_factory.mktemp("merges")
    model = json.loads((shared / "tokenizers/gpt2/tokenizer.json").read_bytes())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *model["merges"], ""]), "utf-8")
    return folder


@pytest.fixture
def settings_of(merges_folder: Path, tmp_path: Path) -> Any:
    """A copy of the folder whose tokenizer_config.json holds these."""

    def make(**settings: Any) -> Path:
        for each in ("vocab.json", "merges.txt"):
            (tmp_path / each).write_bytes((merges_folder / each).read_bytes())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return tmp_path

    return make


def test_vocab_and_merges_give_the_published_ids(shared: Path, merges_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(merges_folder)
    for line in (shared / "tokenizers/gpt2/vectors.jsonl").read_text("utf-8").splitlines():
        case = json.loads(line)
        assert tokenizer.encode(case["text"]) == case["ids"]
    assert tokenizer.encode("a<|endoftext|>", parse_special=True) == [64, 50256]
    assert tokenizer.bos_id == 50256
    assert not tokenizer.adds_special


def test_qwen2_splits_as_its_own_code_does(settings_of: Any) -> None:
    tokenizer = Tokenizer.from_folder(settings_of(tokenizer_class="Qwen2Tokenizer"))
    assert [each.piece for each in tokenizer.tokens("a 12\n\nb")] == ["a", "Ġ", "1", "2", "ĊĊ", "b"]
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é")


def test_named_tokens_keep_their_ids(settings_of: Any) -> None:
    added = {"50257": {"content": "<|im_start|>", "special": True}, "50258": {"content": "<tool>", "special": False}}
    folder = settings_of(added_tokens_decoder=added, add_bos_token=True, bos_token="<|im_start|>")
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode("a<tool>", special=True) == [50257, 64, 50258]
    assert tokenizer.is_special(50257)
    assert tokenizer.vocab_size == 50259
    with pytest.raises(TokenizerError, match="cannot have id 60000"):
        Tokenizer.from_folder(settings_of(added_tokens_decoder={"60000": {"content": "<x>"}}))


def test_what_would_be_a_guess_is_refused(settings_of: Any) -> None:
    with pytest.raises(TokenizerError, match="RobertaTokenizer are not converted") as caught:
        Tokenizer.from_folder(settings_of(tokenizer_class="RobertaTokenizerFast"))
    assert "save_pretrained" in caught.value.remedy


@pytest.mark.parametrize(
    ("vocab", "merges"),
    [("{", ""), ("[]", ""), ('{"a": "x"}', ""), ('{"a": 0}', "a b c\n"), ('{"a": 0}', "a b\n"), ('{"a": 0}', "\ud800")],
)
def test_malformed_files_are_one_clear_error(tmp_path: Path, vocab: str, merges: str, capfd: Any) -> None:
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_bytes(merges.encode("utf-8", "surrogatepass"))
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    assert capfd.readouterr() == ("", "")


CORPUS = ["The dog sat on the mat.", "A dog and the cat sat down, and then they ran.", "Café 你好 1234 the end"] * 20
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "gemma": {
        "model_type": "bpe",
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["<tool>"],
    },
    "unigram": {"model_type": "unigram", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
}


@pytest.fixture(scope="module", params=KINDS)
def sentencepiece(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    """A small SentencePiece model, read by its own library and converted."""
    library = pytest.importorskip("sentencepiece")
    out = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, vocab_size=330, byte_fallback=True, minloglevel=9,
        hard_vocab_limit=False, split_digits=True, allow_whitespace_only_pieces=True, **KINDS[request.param]
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "tokenizer.model").write_bytes(out.getvalue())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"}')
    return library.SentencePieceProcessor(model_proto=out.getvalue()), Tokenizer.from_folder(folder)


@given(text=WORDS)
def test_sentencepiece_gives_the_ids_of_its_own_library(sentencepiece: tuple[Any, Tokenizer], text: str) -> None:
    reference, tokenizer = sentencepiece
    assert tokenizer.encode(text) == reference.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_sentencepiece_knows_its_special_tokens(sentencepiece: tuple[Any, Tokenizer]) -> None:
    reference, tokenizer = sentencepiece
    assert tokenizer.adds_special == (1,)
    assert [tokenizer.is_special(each) for each in range(4)] == [True, True, True, False]
    assert tokenizer.vocab_size == reference.vocab_size()


def test_a_broken_sentencepiece_model_is_named(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    for data in (b"", b"\xff" * 50, b"not a model"):
        (tmp_path / "tokenizer.model").write_bytes(data)
        with pytest.raises(TokenizerError, match="is not a SentencePiece model"):
            Tokenizer.from_folder(tmp_path)


def test_without_sentencepiece_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.from_folder(tmp_path)
    assert "llmcli[sentencepiece]" in caught.value.remedy
