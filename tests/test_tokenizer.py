"""The tokenizer against published vectors, against the library itself, and against files that are no tokenizers."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models

from llmcli.chunking import find_cuts
from llmcli.errors import TokenizerError, UsageError
from llmcli.tokenizer import Tokenizer

unicode_text = st.text(st.characters(exclude_categories=("Cs",)))


@pytest.fixture(scope="session")
def gpt2(shared: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared / "tokenizers/gpt2")


@pytest.fixture(scope="session")
def stories(shared: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared / "models/stories260K")


@pytest.fixture(scope="session", params=["gpt2", "stories"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


def test_gpt2_gives_the_published_ids(shared: Path, gpt2: Tokenizer) -> None:
    cases = [json.loads(line) for line in (shared / "tokenizers/gpt2/vectors.jsonl").read_text("utf-8").splitlines()]
    assert len(cases) == 47
    for case in cases:
        assert gpt2.encode(case["text"]) == case["ids"]
        assert gpt2.decode(case["ids"]) == case["text"]


@given(text=unicode_text)
def test_decode_of_encode_is_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(data=st.data())
def test_streamed_pieces_joined_are_the_whole(tokenizer: Tokenizer, data: st.DataObject) -> None:
    any_ids = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12)
    ids = data.draw(any_ids | unicode_text.map(tokenizer.encode))
    prompt = data.draw(any_ids | st.just([]) | unicode_text.map(tokenizer.encode))
    stream = tokenizer.stream(prompt)
    streamed = "".join([stream.push(each) for each in ids]) + stream.finish()
    before, whole = tokenizer.decode(prompt), tokenizer.decode(prompt + ids)
    common = next((i for i, pair in enumerate(zip(before, whole, strict=False)) if len(set(pair)) > 1), len(before))
    assert streamed == whole[common:]
    if whole.startswith(before):
        assert streamed == whole.removeprefix(before)


def test_a_stream_holds_back_only_incomplete_characters(gpt2: Tokenizer) -> None:
    stream = gpt2.stream()
    pieces = [stream.push(each) for each in gpt2.encode("Hi 😀!")]
    assert pieces == ["Hi", " ", "😀", "!"]
    assert stream.finish() == ""


def test_a_stream_leaves_special_tokens_out_where_asked(gpt2: Tokenizer) -> None:
    stream = gpt2.stream(skip_special=True)
    assert [stream.push(each) for each in (17250, 50256, 0)] == ["Hi", "", "!"]


_DECODERS: dict[str, Any] = {
    "none": None,
    "byte-level": decoders.ByteLevel(),
    "metaspace": decoders.Metaspace(),
    "metaspace-never": decoders.Metaspace(prepend_scheme="never"),
    "word-piece": decoders.WordPiece("##", True),
    "bpe": decoders.BPEDecoder("</w>"),
    "fallback": decoders.ByteFallback(),
    "fuse": decoders.Fuse(),
    "strip": decoders.Strip(" ", 2, 0),
    "gemma": decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    "fused-strip": decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 2, 0), decoders.Replace("a", "bb")]),
    "fallback-words": decoders.Sequence([decoders.ByteFallback(), decoders.WordPiece("##", False)]),
    "held: replaced over parts": decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "c")]),
    "held: stripped at the end": decoders.Strip(" ", 0, 1),
    "held: repeats dropped": decoders.CTC(),
}
_PARTS = [
    "a",
    "b",
    " ",
    "  ",
    "▁",
    "▁a",
    "##b",
    ".",
    " n't",
    "'m",
    "b</w>",
    "é",
    "Ġ",
    "Ã",
    "©",
    "ð",
    "Ł",
    "[x]",
    " do not",
]
_PARTS += ["<0x20>", "<0xC3>", "<0xA9>", "<0xF0>", "<0x9F>", "<0xFF>", "<0x+1>", "<0x -1>", "<0xé>", "<0xG0>", "�"]


@pytest.mark.parametrize("name", _DECODERS)
@given(ids=st.lists(st.integers(0, len(_PARTS) + 2)), split=st.integers(0, 5))
def test_every_kind_of_decoder_streams_exactly(name: str, ids: list[int], split: int) -> None:
    engine = Engine(models.WordLevel({part: i for i, part in enumerate(_PARTS)}, "a"))
    if _DECODERS[name] is not None:
        engine.decoder = _DECODERS[name]
    tokenizer = Tokenizer(engine, Path())
    try:
        before, whole = tokenizer.decode(ids[:split]), tokenizer.decode(ids)
    except TokenizerError:
        return  # the library itself fails on these
    stream = tokenizer.stream(ids[:split])
    streamed = "".join([stream.push(each) for each in ids[split:]]) + stream.finish()
    if whole.startswith(before):
        assert streamed == whole.removeprefix(before)
    else:
        assert whole.endswith(streamed)


@given(text=unicode_text, parse=st.booleans(), special=st.booleans())
def test_tokens_cover_the_text_in_order(tokenizer: Tokenizer, text: str, parse: bool, special: bool) -> None:
    tokens = tokenizer.tokens(text, special=special, parse_special=parse)
    data = text.encode()
    place = 0
    for token in tokens:
        assert token.start == place <= token.end
        place = token.end
        raw = tokenizer.token_bytes(token.id)
        if not token.special:
            assert raw.endswith(data[token.start : token.end])
    assert place == len(data)
    assert [each.id for each in tokens] == tokenizer.encode(text, special=special, parse_special=parse)


def test_a_character_split_over_tokens_gives_each_its_bytes(gpt2: Tokenizer, stories: Tokenizer) -> None:
    assert [each[2:4] for each in gpt2.tokens("a 😀")] == [(0, 1), (1, 5), (5, 6)]
    spans = [(each.start, each.end) for each in stories.tokens("你", special=True)]
    assert spans == [(0, 0), (0, 0), (0, 1), (1, 2), (2, 3)]


def test_special_tokens_are_plain_text_unless_asked(gpt2: Tokenizer, stories: Tokenizer) -> None:
    assert 50256 not in gpt2.encode("a<|endoftext|>b")
    assert gpt2.encode("a<|endoftext|>b", parse_special=True) == [64, 50256, 65]
    assert gpt2.encode("a", special=True) == gpt2.encode("a")
    assert stories.encode("a", special=True) == [1, *stories.encode("a")]
    assert 1 not in stories.encode("<s>")
    assert stories.adds_special == (1,)
    assert gpt2.adds_special == ()
    assert stories.is_special(1)
    assert not stories.is_special(5)


def test_begin_of_text(gpt2: Tokenizer, stories: Tokenizer, tmp_path: Path, shared: Path) -> None:
    assert gpt2.bos_id == 50256
    assert stories.bos_id == 1
    tokenizer_file = (shared / "models/stories260K/tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_file)
    assert Tokenizer.from_folder(tmp_path).bos_id is None
    (tmp_path / "config.json").write_text('{"bos_token_id": 1}')
    assert Tokenizer.from_folder(tmp_path).bos_id == 1
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "</s>"}}')
    assert Tokenizer.from_folder(tmp_path).bos_id == 2


def test_chat_template(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((shared / "models/stories260K/tokenizer.json").read_bytes())
    assert Tokenizer.from_folder(tmp_path).chat_template is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"chat_template": "one"}')
    assert Tokenizer.from_folder(tmp_path).chat_template == "one"
    named = [{"name": "tool", "template": "x"}, {"name": "default", "template": "two"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert Tokenizer.from_folder(tmp_path).chat_template == "two"
    (tmp_path / "chat_template.jinja").write_text("three")
    assert Tokenizer.from_folder(tmp_path).chat_template == "three"
    config.write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is not JSON"):
        _ = Tokenizer.from_folder(tmp_path).bos_id


def test_ids_outside_the_vocabulary_are_named(gpt2: Tokenizer) -> None:
    for number in (50257, -1, 1 << 40):
        with pytest.raises(UsageError, match=f"id {number} is outside the vocabulary, which has 50257 ids"):
            gpt2.piece(number)
    assert gpt2.decode([50257]) == ""  # a model may have more rows than its tokenizer tokens
    assert gpt2.vocab_size == 50257


def test_half_a_character_is_refused(gpt2: Tokenizer) -> None:
    with pytest.raises(UsageError, match="half a surrogate pair"):
        gpt2.encode("a\ud800")


def test_truncation_and_padding_of_the_file_are_switched_off(shared: Path, tmp_path: Path) -> None:
    state = json.loads((shared / "models/stories260K/tokenizer.json").read_bytes())
    state["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    state["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    state["model"]["dropout"] = 0.9
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    tokenizer = Tokenizer.from_folder(tmp_path)
    text = "Once upon a time there was a dog"
    assert tokenizer.encode(text) == Tokenizer.from_folder(shared / "models/stories260K").encode(text)


def _mutate(state: dict[str, Any], **changes: Any) -> str:
    return json.dumps({**state, **changes})


@pytest.mark.parametrize(
    "change",
    [
        lambda raw, _: raw[: len(raw) // 2],
        lambda *_: "",
        lambda *_: "null",
        lambda *_: "[]",
        lambda *_: "{}",
        lambda *_: "\x00\xff",
        lambda _, state: _mutate(state, model={**state["model"], "vocab": {}}),
        lambda _, state: _mutate(state, model={**state["model"], "vocab": "x"}),
        lambda _, state: _mutate(state, model={**state["model"], "merges": [["q", "zz"]]}),
        lambda _, state: _mutate(state, model={**state["model"], "type": "Other"}),
        lambda _, state: _mutate(state, normalizer={"type": "Other"}),
        lambda _, state: _mutate(state, added_tokens=[{"id": "x"}]),
        lambda _, state: _mutate(
            state, post_processor={**state["post_processor"], "special_tokens": {}}
        ),  # panics when it encodes
    ],
)
def test_what_is_no_tokenizer_is_one_clear_error(shared: Path, tmp_path: Path, change: Any, capfd: Any) -> None:
    raw = (shared / "models/stories260K/tokenizer.json").read_text("utf-8")
    (tmp_path / "tokenizer.json").write_text(change(raw, json.loads(raw)), "utf-8")
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.from_folder(tmp_path)
    assert str(caught.value).count("\n") == 0
    assert caught.value.remedy
    assert capfd.readouterr() == ("", "")


def test_a_panic_is_silent_beside_a_progress_bar_s_monitor(shared: Path, tmp_path: Path, capfd: Any) -> None:
    state = json.loads((shared / "models/stories260K/tokenizer.json").read_text("utf-8"))
    state["post_processor"]["special_tokens"] = {}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), "utf-8")
    done = threading.Event()
    monitor = threading.Thread(target=done.wait, name="tqdm_monitor", daemon=True)
    monitor.start()
    try:
        with pytest.raises(TokenizerError):
            Tokenizer.from_folder(tmp_path)
    finally:
        done.set()
        monitor.join()
    assert capfd.readouterr() == ("", "")


_ODD = [None, True, -1, 0, 1 << 40, 1e300, "", "x", "\u0000", "▁", [], {}, [[]], ["a", "b"], {"type": "Fuse"}, "[" * 50]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places in a JSON value, a few of each long list or table."""
    if isinstance(value, dict):
        return [path, *(each for key in list(value)[:9] for each in _paths(value[key], (*path, key)))]
    if isinstance(value, list):
        return [path, *(each for i, _ in enumerate(value[:4]) for each in _paths(value[i], (*path, i)))]
    return [path]


def test_any_value_in_any_place_is_read_or_refused_in_one_line(shared: Path, tmp_path: Path, capfd: Any) -> None:
    raw = (shared / "models/stories260K/tokenizer.json").read_text("utf-8")
    state = json.loads(raw)
    cases = [(path, odd) for path in _paths(state) if path for odd in _ODD]
    assert len(cases) >= 500
    said: list[str] = []
    for path, odd in cases:
        changed = json.loads(raw)
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = odd
        (tmp_path / "tokenizer.json").write_text(json.dumps(changed), "utf-8")
        try:
            tokenizer = Tokenizer.from_folder(tmp_path)
            stream = tokenizer.stream()
            ids = tokenizer.encode("Hi é\n", special=True)
            assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)
            tokenizer.tokens("Hi é\n")
            find_cuts(tokenizer)
        except TokenizerError as error:
            said.append(str(error))
    assert len(said) > 300
    assert not [each for each in said if "\n" in each]
    assert capfd.readouterr() == ("", "")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), data=st.binary(max_size=4), cut=st.booleans())
def test_damaged_bytes_are_read_or_refused(
    shared: Path, tmp_path: Path, capfd: Any, at: float, data: bytes, cut: bool
) -> None:
    raw = (shared / "models/stories260K/tokenizer.json").read_bytes()
    place = int(at * len(raw))
    (tmp_path / "tokenizer.json").write_bytes(raw[:place] + data + (b"" if cut else raw[place + 1 :]))
    try:
        Tokenizer.from_folder(tmp_path).encode("Hi é\n", special=True)
    except TokenizerError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
    assert capfd.readouterr() == ("", "")


def test_a_missing_or_unreadable_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"holds no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(TokenizerError, match=r"holds no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path / "absent")


def test_importing_it_is_light() -> None:
    code = "import sys, llmcli.tokenizer, llmcli.chunking; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "rich", "numpy", "typer"} & set(loaded)
