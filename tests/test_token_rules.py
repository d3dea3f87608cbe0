"""What parameters say in texts, as ids of a tokenizer."""

import pytest
from tiny import EOS, USER, write_tokenizer

from llmcli.errors import UsageError
from llmcli.sampling_params import SamplingParams
from llmcli.token_pieces import piece_table
from llmcli.token_rules import token_rules
from llmcli.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_tokenizer(folder)
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def llama(shared):
    return Tokenizer.from_folder(shared / "models" / "stories260K")


def test_without_texts_there_are_no_rules(tiny):
    rules = token_rules(SamplingParams(), tiny, 259, [EOS])
    assert (rules.bias, rules.bans, rules.breakers.rows, rules.ends) == ({}, (), {}, frozenset())


def test_tokens_are_named_by_id_spelling_or_text(llama):
    named = llama.id_of("▁the")
    params = SamplingParams(logit_bias=((5, 1.0), ("▁the", 2.0), (" the", 0.5), ("the", 4.0), ("\n", 3.0), ("t", 1.5)))
    bias = token_rules(params, llama, 512, ()).bias
    assert bias[5] == 1.0
    assert bias[named] == 6.5  # there is no token "the"; the text alone is encoded as "▁the"
    assert bias[llama.id_of("t")] == 1.5
    assert bias[llama.encode("x\n")[-1]] == 3.0
    assert len(bias) == 4


@pytest.mark.parametrize(("token", "said"), [(512, "512"), (-1, "-1"), ("two words", "not one token")])
def test_what_names_no_token_is_refused(llama, token, said):
    with pytest.raises(UsageError, match=said) as caught:
        token_rules(SamplingParams(logit_bias=((token, 1.0),)), llama, 512, ())
    assert caught.value.remedy


def test_without_a_tokenizer_ids_alone_can_be_named():
    assert token_rules(SamplingParams(logit_bias=((5, 1.0),), dry_multiplier=1), None, 9, ()).bias == {5: 1.0}
    for params in (SamplingParams(ban="x"), SamplingParams(logit_bias=(("x", 1.0),))):
        with pytest.raises(UsageError, match="no tokenizer"):
            token_rules(params, None, 9, ())


def test_special_tokens_and_ids_without_a_token_stand_for_nothing(tiny):
    table = piece_table(tiny, 300)
    assert table[:256] == [bytes([i]) for i in range(256)]
    assert set(table[256:]) == {b""}


def test_a_ban_sees_through_special_tokens(tiny):
    [ban] = token_rules(SamplingParams(ban="é!"), tiny, 259, ()).bans
    assert ban.completing([0xC3, USER, 0xA9]) == {ord("!")}
    assert ban.completing([0xA9]) == set()


def test_ends_are_the_models_own_unless_they_are_ignored(tiny):
    assert token_rules(SamplingParams(min_tokens=2), tiny, 259, [EOS, 999]).ends == {EOS}
    assert token_rules(SamplingParams(min_tokens=2, ignore_eos=True), tiny, 259, [EOS]).ends == frozenset()


def test_breakers_are_all_tokens_that_hold_the_text_or_begin_it(llama):
    params = SamplingParams(dry_multiplier=1, dry_sequence_breakers=(",", "\nThe"))
    rows = token_rules(params, llama, 512, ()).breakers.rows
    for token in range(512):
        data = b"" if llama.is_special(token) else llama.token_bytes(token)
        assert (() in rows.get(token, ())) == (b"," in data or b"\nThe" in data)
        for size in (1, 2, 3):
            if data.endswith(b"\nThe"[:size]):
                assert tuple(llama.encode("\nThe"[size:])) in rows[token]
    assert token_rules(SamplingParams(), llama, 512, ()).breakers.rows == {}
