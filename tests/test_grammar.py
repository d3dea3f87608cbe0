"""Constrained text: what may follow, when it may end, and that the whole of it is what was asked for."""

import json
import re
import sys

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EOS, VOCAB, write_model

import llmcli
from llmcli.errors import LlmcliError, UsageError
from llmcli.grammar import Constraint, check_grammar, constraint
from llmcli.sampling_params import SamplingParams
from llmcli.token_pieces import piece_table
from llmcli.tokenizer import Tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "tags": {"type": "array", "items": {"enum": ["a", "b", None]}, "maxItems": 3},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random model whose ids are bytes: it says everything that it may."""
    return llmcli.load(write_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def llama(shared):
    return llmcli.load(shared / "models" / "stories260K")


def held_to(tokenizer, vocab_size=VOCAB, eos=(EOS,), **params) -> Constraint:
    made = constraint(SamplingParams(**params), tokenizer, vocab_size, eos)
    assert made is not None
    return made


def test_what_may_follow_is_what_leads_to_a_choice(llama):
    """Against the definition, over every way into the choices. Where only one byte can come next the tokens are those
    that the tokenizer cuts, so there are fewer of them."""
    choices = ("once", "on the way", "one day", "never", "né")
    tokenizer, size = llama.tokenizer, 512
    pieces = piece_table(tokenizer, size)
    held = held_to(tokenizer, size, (2,), choice=choices)
    seen, todo = 0, [[]]
    while todo:
        ids = todo.pop()
        text = b"".join(pieces[each] for each in ids)
        rests = {each.encode()[len(text) :] for each in choices if each.encode().startswith(text)}
        viable = {i for i, piece in enumerate(pieces) if piece and any(rest.startswith(piece) for rest in rests)}
        assert held.complete([1, *ids], len(ids)) == (b"" in rests)
        assert held.closed([1, *ids], len(ids)) == (rests == {b""})
        if rests == {b""}:
            seen += 1
            continue
        allowed = set(np.flatnonzero(held.allowed([1, *ids], len(ids))).tolist())
        assert allowed <= viable
        assert allowed
        if len({rest[:1] for rest in rests}) > 1:
            assert allowed == viable
        todo += [[*ids, each] for each in allowed]
    assert seen > len(choices)


def test_an_end_is_allowed_where_the_text_is_complete(tiny):
    held = held_to(tiny.tokenizer, regex="ab*")
    assert not held.allowed([5], 0)[EOS]
    assert np.flatnonzero(held.allowed([5, 97], 1)).tolist() == [98, EOS]
    assert held.complete([5, 97], 1)
    assert not held.closed([5, 97], 1)
    assert held.complete([5, 97, EOS], 2)
    assert not held.complete([5], 0)


def test_answers_depend_on_the_ids_alone(tiny):
    """Samples, beams and drafts ask about several texts in turn."""
    texts = [[], [97], [97, 98], [98], [97, 97, 98], [97, 98, 98], []]
    alone = [held_to(tiny.tokenizer, regex="(ab|ba|aab)+c").allowed([7, *each], len(each)) for each in texts[:4]]
    shared = held_to(tiny.tokenizer, regex="(ab|ba|aab)+c")
    for _ in range(3):
        for each, mask in zip(texts[:4], alone, strict=True):
            assert (shared.allowed([7, *each], len(each)) == mask).all()


def test_the_space_that_a_text_loses_at_its_start_is_not_counted_on(llama):
    """SentencePiece decodes the first token without its space."""
    assert llama.generate([1], choice=("once", " once"), seed=1).text == "once"
    assert llama.generate("Once upon", choice=(" a",), seed=1).text == " a"
    with pytest.raises(LlmcliError, match="no token of this model can follow"):
        llama.generate([1], choice=(" once",), seed=1)


def test_text_that_is_certain_is_made_of_pieces_rather_than_bytes(llama):
    """The model knows pieces; ids of single bytes are for what has none. Certain text is cut by no draw."""
    assert llama.generate("ab", regex="a(b|c)", seed=1).ids[0] > 258


@pytest.mark.parametrize("seed", range(12))
def test_json_is_valid_or_said_to_be_cut(tiny, seed):
    result = tiny.generate("x", json_schema=PERSON, seed=seed, temperature=1.0, top_p=1.0, max_tokens=60)
    if result.finish_reason in ("eos", "complete"):
        jsonschema.validate(json.loads(result.text), PERSON)
    else:
        assert result.finish_reason in ("length", "context")


@pytest.mark.parametrize(
    "params", [{"greedy": True}, {"seed": 3, "top_k": 1}, {"seed": 3, "min_p": 0.9}, {"seed": 3, "mirostat": 2}]
)
def test_every_way_to_choose_keeps_to_it(tiny, params):
    result = tiny.generate("x", regex="[0-9]{3}-[xyz]", max_tokens=20, **params)
    assert re.fullmatch("[0-9]{3}-[xyz]", result.text)
    assert result.finish_reason == "complete"


PIECES = st.sampled_from(["a", "é", "[bc]", "(ab)+", "[0-9]{2}", "(x|yz)?", ".", "\\.", "日本"])


@given(st.lists(PIECES, min_size=1, max_size=5).map("".join), st.integers(0, 2**31))
@settings(max_examples=60)
def test_a_text_matches_its_expression(tiny, pattern, seed):
    result = tiny.generate("x", regex=pattern, seed=seed, temperature=1.5, top_p=1.0, max_tokens=40)
    whole = re.fullmatch(pattern, result.text) is not None
    assert whole == (result.finish_reason in ("eos", "complete"))


def test_a_limit_at_a_complete_text_cuts_nothing(tiny):
    assert tiny.generate("x", regex="a*", max_tokens=4, logit_bias=((97, 100),)).finish_reason == "complete"
    assert tiny.generate("x", regex="a*b", max_tokens=4, logit_bias=((97, 100),)).finish_reason == "length"


def test_lark_and_the_trace(tiny):
    run = tiny.stream("x", grammar='start: "<" word ">"\nword: /[a-c]{1,3}/', seed=1, trace=True)
    steps = list(run)
    assert re.fullmatch("<[a-c]{1,3}>", run.result().text)
    names = [each.name for each in steps[1].trace.stages]
    assert names[:2] == ["model", "grammar"]
    assert steps[0].trace.stages[1].candidates == 1
    assert steps[1].trace.stages[1].candidates == 3


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"regex": "(a"}, "--regex: unclosed group"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"grammar": 'start: "a" b'}, '--grammar: at 1.8.: unknown name: "b"'),
        ({"grammar": "x: y"}, "--grammar: "),
        ({"json_schema": "{"}, "--json-schema: EOF while parsing"),
        ({"json_schema": '{"type": "objec"}'}, "--json-schema: Invalid type: objec"),
        ({"json_schema": '{"not": {}}'}, "--json-schema: Unimplemented keys"),
        ({"json_schema": "[1]"}, "--json-schema: "),
        ({"json_schema": '{"$ref": "http://127.0.0.1:9/x"}'}, "--json-schema: Resource"),
    ],
)
def test_what_is_malformed_is_named_in_one_line(params, said):
    with pytest.raises(UsageError, match=said) as caught:
        check_grammar(SamplingParams(**params))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"regex": "a", "choice": ("b",)}, "--regex and --choice exclude each other"),
        ({"regex": "a", "stop": ("b",)}, "--regex and --stop exclude each other"),
        ({"regex": "a", "ignore_eos": True}, "--regex and --ignore-eos exclude each other"),
        ({"grammar": "a", "min_tokens": 2}, "--grammar and --min-tokens exclude each other"),
        ({"regex": ""}, "--regex is ''"),
        ({"choice": ("a", "")}, "--choice is empty"),
    ],
)
def test_what_does_not_go_together_is_said(params, said):
    with pytest.raises(UsageError, match=said):
        SamplingParams(**params)


def test_a_missing_library_is_said_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(LlmcliError) as caught:
        check_grammar(SamplingParams(regex="a"))
    assert "llguidance" in str(caught.value)
    assert caught.value.remedy == "install it: pip install 'llmcli[grammar]'"


def test_texts_need_a_tokenizer_that_joins_bytes(tmp_path):
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models

    engine = Engine(models.WordPiece({"a": 0, "##b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    engine.decoder = decoders.WordPiece()
    engine.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UsageError, match="joins its tokens by rules"):
        held_to(Tokenizer.from_folder(tmp_path), 3, regex="ab")
    with pytest.raises(UsageError, match="the model has no tokenizer"):
        held_to(None, regex="ab")


def test_rules_that_leave_nothing_are_an_error(tiny):
    with pytest.raises(LlmcliError, match="no token is left"):
        tiny.generate("x", choice=("yes",), ban=("y",))
