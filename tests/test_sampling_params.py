import re
import subprocess
import sys

import pytest

from llmcli.errors import UsageError
from llmcli.sampling_params import SamplingParams, merged


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("temperature", -0.1, "--temperature"),
        ("temperature", float("nan"), "--temperature"),
        ("temperature", float("inf"), "--temperature"),
        ("temperature", "hot", "--temperature"),
        ("top_k", -1, "--top-k"),
        ("top_k", 1.5, "--top-k"),
        ("top_k", True, "--top-k"),
        ("top_p", 1.01, "--top-p"),
        ("top_p", -0.01, "--top-p"),
        ("min_p", 2, "--min-p"),
        ("typical_p", 0, "--typical-p"),
        ("repetition_penalty", 0, "--repetition-penalty"),
        ("max_tokens", -1, "--max-tokens"),
        ("seed", -1, "--seed"),
        ("seed", 2**63, "--seed"),
        ("stop", ("",), "--stop"),
        ("stop", (3,), "--stop"),
    ],
)
def test_a_value_out_of_range_names_its_flag(field, value, flag):
    with pytest.raises(UsageError, match=flag) as caught:
        SamplingParams(**{field: value})
    assert caught.value.remedy


def test_edges_are_allowed():
    SamplingParams(temperature=0, top_k=0, top_p=0, min_p=1, typical_p=1, max_tokens=0, seed=0, logprobs=0)
    SamplingParams(seed=2**63 - 1)
    SamplingParams(penalty_window=-1, dry_penalty_last_n=-1, dry_allowed_length=1, dry_base=1)
    SamplingParams(repetition_penalty=1e-6, logit_bias={5: 1e6, 6: -1e6})
    assert SamplingParams(temperature=0).greedy
    assert not SamplingParams(temperature=1e-9).greedy
    assert SamplingParams(stop="end").stop == ("end",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")


def test_what_is_given_wins_over_the_model_and_the_model_over_defaults():
    params = merged({"top_p": 0.5, "top_k": 9}, {"top_k": 3, "temperature": None})
    assert (params.temperature, params.top_k, params.top_p) == (0.8, 3, 0.5)


def test_greedy_is_temperature_0_and_contradicts_a_positive_one():
    assert merged({"temperature": 0.6}, {"greedy": True}).greedy
    assert merged({}, {"greedy": True, "temperature": 0}).greedy
    assert not merged({}, {"greedy": False}).greedy
    with pytest.raises(UsageError, match="--greedy"):
        merged({}, {"greedy": True, "temperature": 0.5})


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="topk"):
        merged({}, {"topk": 3})


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("top_n_sigma", -1, "--top-n-sigma"),
        ("xtc_probability", 1.5, "--xtc-probability"),
        ("xtc_threshold", -0.1, "--xtc-threshold"),
        ("presence_penalty", float("inf"), "--presence-penalty"),
        ("frequency_penalty", float("nan"), "--frequency-penalty"),
        ("repetition_penalty", 1e39, "--repetition-penalty"),
        ("penalty_window", -2, "--penalty-window"),
        ("dry_multiplier", -1, "--dry-multiplier"),
        ("dry_base", 0.5, "--dry-base"),
        ("dry_allowed_length", 0, "--dry-allowed-length"),
        ("dry_penalty_last_n", -2, "--dry-penalty-last-n"),
        ("dry_sequence_breakers", ("",), "--dry-sequence-breaker"),
        ("no_repeat_ngram", -1, "--no-repeat-ngram"),
        ("logit_bias", 5, "--logit-bias"),
        ("logit_bias", (("a", "b"),), "--logit-bias"),
        ("logit_bias", {"": 1.0}, "--logit-bias"),
        ("logit_bias", {5: float("inf")}, "--logit-bias"),
        ("ban", ("",), "--ban"),
        ("ban", 5, "--ban"),
        ("mirostat", 1, "--mirostat"),
        ("mirostat", True, "--mirostat"),
        ("mirostat_tau", -1, "--mirostat-tau"),
        ("mirostat_eta", -1, "--mirostat-eta"),
        ("min_tokens", -1, "--min-tokens"),
        ("min_tokens", 257, "--max-tokens"),
        ("samplers", "top-k,topp", "did you mean|topp"),
        ("samplers", "top-k,top-k", "twice"),
        ("samplers", 5, "--samplers"),
        ("logprobs", -1, "--logprobs"),
    ],
)
def test_the_other_values_out_of_range_too(field, value, flag):
    with pytest.raises(UsageError, match=flag) as caught:
        SamplingParams(**{field: value})
    assert caught.value.remedy


def test_an_unknown_filter_is_answered_with_the_nearest():
    with pytest.raises(UsageError) as caught:
        SamplingParams(samplers="top_k")
    assert "did you mean top-k?" in caught.value.remedy


def test_values_are_brought_to_one_form():
    params = SamplingParams(logit_bias={5: 1, "a": -2}, samplers="top-k, temperature", ban="x")
    assert params.logit_bias == ((5, 1.0), ("a", -2.0))
    assert params.samplers == ("top-k", "temperature")
    assert params.ban == ("x",)
    assert params == SamplingParams(logit_bias=[[5, 1], ["a", -2]], samplers=["top-k", "temperature"], ban=["x"])
    assert isinstance(hash(params), int)


@pytest.mark.parametrize(
    ("extra", "flag"), [({"mirostat": 2}, "--mirostat"), ({"xtc_probability": 0.5}, "--xtc-probability")]
)
def test_what_draws_by_chance_is_not_greedy(extra, flag):
    with pytest.raises(UsageError, match=f"{flag} is given, and temperature 0"):
        merged({}, {"greedy": True, **extra})


@pytest.mark.parametrize(("field", "value"), [("regex", ""), ("regex", 5), ("grammar", ""), ("json_schema", 1.5)])
def test_a_constraint_is_a_text(field, value):
    with pytest.raises(UsageError, match="--" + field.replace("_", "-")):
        SamplingParams(**{field: value})


def test_two_constraints_exclude_each_other():
    with pytest.raises(UsageError, match=r"^--regex and --choice exclude each other$"):
        SamplingParams(regex="a", choice=("a", "b"))


@pytest.mark.parametrize(
    ("field", "value", "reach"),
    [
        ("top_k", -1, "of 0 or more"),
        ("seed", -1, f"from 0 to {2**63 - 1}"),
        ("top_p", 2, "of 0 or more, at most 1"),
        ("typical_p", 0, "above 0, at most 1"),
        ("temperature", -1, "of 0 or more$"),
    ],
)
def test_the_remedy_says_how_far_a_value_may_go(field, value, reach):
    with pytest.raises(UsageError) as caught:
        SamplingParams(**{field: value})
    assert re.search(reach, caught.value.remedy)


def test_typical_p_is_a_share():
    with pytest.raises(UsageError, match="--typical-p"):
        SamplingParams(typical_p=1.5)


def test_with_mirostat_only_cuts_that_were_asked_for_are_made():
    params = merged({"top_k": 40, "temperature": 0.6}, {"mirostat": 2})
    assert (params.top_k, params.top_p, params.temperature) == (0, 1.0, 0.6)
    assert merged({"top_k": 40}, {"mirostat": 2, "top_k": 5}).top_k == 5
    assert merged({"top_k": 40}, {"mirostat": 0}).top_k == 40


@pytest.mark.parametrize(
    ("given", "needs"),
    [
        ({"xtc_threshold": 0.2}, "--xtc-probability"),
        ({"dry_base": 2}, "--dry-multiplier"),
        ({"dry_sequence_breakers": ()}, "--dry-multiplier"),
        ({"mirostat_tau": 3}, "--mirostat"),
        ({"penalty_window": 9}, "--repetition-penalty"),
    ],
)
def test_what_would_have_no_effect_is_refused(given, needs):
    with pytest.raises(UsageError, match="without " + needs):
        merged({}, given)
    extra = {"xtc_probability": 0.5, "dry_multiplier": 1, "mirostat": 2, "presence_penalty": 1}
    assert merged({}, given | extra)


def test_a_filter_that_was_set_must_be_among_those_that_run():
    with pytest.raises(UsageError, match=r"--top-k is given.*top-k"):
        merged({}, {"samplers": "temperature", "top_k": 3})
    assert merged({"top_k": 3}, {"samplers": "temperature"}).samplers == ("temperature",)
    assert merged({}, {"samplers": "temperature", "top_k": 0, "top_p": 1}).samplers == ("temperature",)
    assert merged({}, {"samplers": "repetition-penalty", "greedy": True}).greedy


def test_it_needs_no_torch():
    code = "import sys, llmcli.sampling_params; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_greedy_needs_no_temperature_among_the_samplers_and_excuses_nothing_else():
    assert merged({}, {"temperature": 0, "samplers": "top-k", "top_k": 3}).greedy
    with pytest.raises(UsageError, match="--top-k is given, and --samplers does not name top-k"):
        merged({}, {"temperature": 0, "samplers": "top-p", "top_k": 3})
