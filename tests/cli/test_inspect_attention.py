"""`llmcli inspect-attention`: its options, its documents, its exit codes."""

import json
import re
import subprocess
import sys
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
import tiny

from llmcli.__main__ import run
from llmcli.inspect import attention as numbers

TEXT = "Once upon"  # one id a byte, and the beginning-of-text id


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("tiny"), num_hidden_layers=3)


@pytest.fixture
def inspect(folder, capsys, monkeypatch, tmp_path):
    """Runs the command; exit code, stdout, stderr."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments, text=TEXT):
        code = run(["inspect-attention", "-m", str(folder), "--threads", "1", *arguments, *([text] if text else [])])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def document(inspect):
    def call(*arguments, **how):
        code, out, err = inspect("--json", *arguments, **how)
        assert code == 0, err
        data = json.loads(out)
        jsonschema.validate(data, json.loads(files("llmcli").joinpath("schemas/inspect-attention.json").read_text()))
        return data

    return call


def test_the_overview_comes_first_then_the_mean_of_the_last_layer(inspect):
    code, out, err = inspect()
    assert (code, err) == (0, "")
    assert out.startswith("3 layers x 4 heads on 10 tokens")
    assert "L2 mean of heads" in out
    assert out.index("L2 mean") > out.index("H3→kv1")
    assert "\x1b" not in out


def test_one_head_by_its_true_numbers_from_either_end(inspect, document):
    _, out, _ = inspect("--layer", "-1", "--head", "-2")
    assert out.startswith("L2.H2→kv1 ")
    data = document("--layer", "-1", "--head", "-2")
    assert [(each["layer"], each["head"], each["kv_head"]) for each in data["maps"]] == [(2, 2, 1)]
    weights = np.array(data["maps"][0]["weights"])
    assert weights.shape == (10, 10)
    assert np.abs(weights.sum(axis=1) - 1).max() <= 1e-5
    assert not np.triu(weights, 1).any()
    assert [each["id"] for each in data["tokens"]] == [tiny.BOS, *TEXT.encode()]
    assert len(data["heads"]) == 12


def test_ranges_of_layers_and_heads_and_means(document):
    def names(*arguments):
        return [(each["layer"], each["head"]) for each in document(*arguments)["maps"]]

    assert names("--layer", "0-1,2", "--head", "1") == [(0, 1), (1, 1), (2, 1)]
    assert names("--layer", "1", "--head", "all") == [(1, 0), (1, 1), (1, 2), (1, 3)]
    assert names("--layer", "1") == [(1, 0), (1, 1), (1, 2), (1, 3)]
    assert names("--mean", "heads") == [(0, None), (1, None), (2, None)]
    assert names("--mean", "layers", "--head", "3") == [(None, 3)]
    assert names() == [(2, None)]


def test_values_are_those_of_the_document(inspect, document):
    _, out, _ = inspect("--layer", "1", "--head", "2", "--values", "--width", "120")
    weights = document("--layer", "1", "--head", "2")["maps"][0]["weights"]
    drawn = [line.split() for line in out.splitlines() if re.match(r" *\d+ ", line)]
    assert len(drawn) == 10
    for row, (number, *cells) in enumerate(drawn):
        assert int(number) == row
        assert cells[-row - 2 : -1] == [f"{each:.2f}" for each in weights[row][: row + 1]]
        assert cells[-1] == "1.000"


def test_scores_of_all_pairs_are_shown_and_are_no_symmetric_matrix(inspect, document):
    _, out, _ = inspect("--layer", "0", "--head", "0", "--scores")
    assert "×: masked" in out
    scores = np.array(document("--layer", "0", "--head", "0", "--scores")["maps"][0]["scores"])
    assert scores.shape == (10, 10)
    assert np.abs(scores - scores.T).max() > 0.01


def test_the_sink_can_be_taken_out(inspect, document):
    each = document("--drop-sink", "--layer", "0", "--head", "1")["maps"][0]
    assert np.abs(np.array(each["weights"]).sum(axis=1) - 1).max() <= 1e-5
    assert each["sink"][0] == 1
    assert "first sum" in inspect("--drop-sink", "--layer", "0", "--head", "1")[1]


def test_steps_of_one_head(inspect, document):
    code, out, _ = inspect("--steps", "--layer", "1", "--head", "3")
    assert code == 0
    assert "layer 1, head 3 of 4, which reads key/value head 1 of 2" in out
    steps = document("--steps", "--layer", "1", "--head", "3")["steps"]
    for tensor in steps["tensors"]:
        assert np.shape(tensor["values"]) == tuple(tensor["shape"])
        assert f"{tensor['name']} ({', '.join(map(str, tensor['shape']))})" in out
    assert steps["scale"] == pytest.approx(8**-0.5)
    assert f"{steps['scaled']['std']:.4f}" in out


def test_heads_are_ranked(inspect, document):
    for by in ("prev", "induction", "sink", "entropy"):
        data = document("--top-heads", by, "--limit", "5")
        values = [each["value"] for each in data["ranking"]["heads"]]
        assert len(values) == 5
        assert values == sorted(values, reverse=True)
        assert data["maps"] == []
    _, out, _ = inspect("--top-heads", "entropy", "--limit", "2")
    assert len(out.splitlines()) == 3


def test_one_token_as_bars(inspect, document):
    code, out, _ = inspect("--token", "-1")
    assert code == 0
    assert "where query 9 n looks" in out
    data = document("--token", "-1")
    assert data["token"] == 9
    for key, weight in enumerate(data["maps"][0]["weights"][9]):
        assert re.search(rf"^ *{key} .* {weight:.3f}", out, re.MULTILINE)


def test_a_generation_and_its_check(inspect, document):
    code, out, _ = inspect("--generate", "4", "--verify")
    assert code == 0
    assert re.search(r"token 13, .+, was drawn last and never fed: it has no row", " ".join(out.split()))
    assert "largest difference from one uncached pass" in out
    data = document("--generate", "4", "--verify", "--layer", "1", "--head", "0")
    assert len(data["tokens"]) == 14
    assert data["maps"][0]["queries"] == list(range(13))
    assert np.shape(data["maps"][0]["weights"]) == (13, 13)
    assert data["verify"]["largest_difference"] <= 1e-4


def test_a_check_that_fails_ends_with_5_after_the_result(inspect, monkeypatch):
    monkeypatch.setattr(numbers, "largest_difference", lambda *_args, **_how: 0.25)
    code, out, err = inspect("--generate", "2", "--verify", "--json")
    assert code == 5
    assert json.loads(out)["verify"]["largest_difference"] == 0.25
    assert "differ from one uncached pass by 2.50e-01" in err


def test_a_seed_is_used_and_said(inspect, document):
    arguments = ("--generate", "6", "--temperature", "1.5")
    one, two = document(*arguments, "--seed", "1"), document(*arguments, "--seed", "1")
    assert one == two
    _, _, err = inspect(*arguments, "--json")
    seed = re.fullmatch(r"seed (\d+)\n", err)[1]
    assert inspect(*arguments, "--seed", seed)[0] == 0


def test_the_seed_of_the_environment_is_no_mistake(inspect, monkeypatch):
    monkeypatch.setenv("LLMCLI_SEED", "4")
    assert inspect()[0] == 0


def test_all_files_at_once(inspect, tmp_path):
    paths = {name: tmp_path / f"a.{name}" for name in ("npz", "png", "svg", "html")}
    hidden = tmp_path / "hidden.npz"
    options = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    code, out, err = inspect(*options, "--hidden", str(hidden), "--json")
    assert code == 0
    assert json.loads(out)["schema_version"] == 1
    assert err.count("wrote ") == 5
    with np.load(paths["npz"], allow_pickle=False) as arrays:
        assert arrays["maps.weights"].shape == (1, 10, 10)
        assert arrays["heads.entropy"].shape == (12,)
    with np.load(hidden, allow_pickle=False) as arrays:
        assert arrays["hidden_states"].shape == (4, 10, 32)
        assert arrays["tokens.id"].tolist() == [tiny.BOS, *TEXT.encode()]
    page = paths["html"].read_text("utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert len(data["maps"]) == 12
    assert str(tmp_path.parent) not in page


def test_hidden_alone_prints_nothing(inspect, tmp_path):
    code, out, err = inspect("--hidden", str(tmp_path / "h.npz"), "--generate", "3")
    assert (code, out) == (0, "")
    assert "wrote" in err
    with np.load(tmp_path / "h.npz") as arrays:
        assert arrays["hidden_states"].shape[1] == 12


def test_csv_has_a_line_for_each_visible_pair(inspect):
    _, out, _ = inspect("--csv", "--layer", "1", "--head", "2")
    lines = out.splitlines()
    assert lines[0] == "layer,head,kv_head,query,key,weight"
    assert len(lines) == 1 + 10 * 11 // 2
    assert lines[1] == "1,2,1,0,0,1.0"


def test_windows(inspect):
    _, out, _ = inspect("--layer", "0", "--head", "0", "--rows", "3,5", "--cols", "0-2", "--values")
    assert [line.split()[0] for line in out.splitlines() if re.match(r" *\d+ ", line)] == ["3", "5"]
    _, out, _ = inspect("--layer", "0", "--head", "0", "--pool", "5")
    assert [line.split()[0] for line in out.splitlines() if re.match(r" *\d+ ", line)] == ["0", "5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "3"], "there is no layer 3"),
        (["--head", "-5"], "there is no head -5"),
        (["--layer", "x"], "layer 'x' is no range"),
        (["--token", "10"], "there is no token 10"),
        (["--token", "0", "--layer", "1"], "--token looks at one map"),
        (["--steps"], "--steps shows one head"),
        (["--steps", "--layer", "1", "--head", "0-1"], "--steps shows one head"),
        (["--steps", "--layer", "1", "--head", "0", "--generate", "2"], "--generate does not go with --steps"),
        (["--steps", "--layer", "1", "--head", "0", "--token", "2"], "--token does not go with --steps"),
        (["--top-heads", "prev", "--verify", "--generate", "2"], "--verify does not go with --top-heads"),
        (["--top-heads", "prev", "--layer", "1"], "--layer does not go with --top-heads"),
        (["--token", "1", "--values"], "--values does not go with --token"),
        (["--verify"], "--verify belongs to --generate"),
        (["--seed", "3", "--generate", "2"], "--seed belongs to --temperature"),
        (["--temperature", "1"], "--temperature belongs to --generate"),
        (["--limit", "3"], "--limit belongs to --top-heads"),
        (["--rows", "99"], "there is no query 99"),
        (["--pool", "2", "--values"], "--values prints single numbers"),
        (["--json", "--csv"], "--json and --csv"),
        (["--hidden", "no/such/x.npz"], "lies in a folder that does not exist"),
        (["--limit", "0", "--top-heads", "prev"], "--limit"),
    ],
)
def test_usage_errors_end_with_2_and_print_nothing(inspect, arguments, message):
    code, out, err = inspect(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 2


def test_a_text_longer_than_the_context_ends_with_4(inspect):
    assert inspect(text="x" * 64)[0] == 4


def test_text_from_stdin_and_colour_on_request(folder):
    command = [sys.executable, "-m", "llmcli", "inspect-attention", "-m", str(folder), "--threads", "1"]
    piped = subprocess.run(command, input="Once\n", capture_output=True, text=True, timeout=120, check=True)
    assert "on 5 tokens" in piped.stdout
    assert "\x1b" not in piped.stdout
    colored = subprocess.run(
        [*command, "--color", "always", "--layer", "0", "--head", "0", "a\x1b[2Jb"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "\x1b[38;" in colored.stdout
    assert "\x1b[2J" not in colored.stdout
    assert "␛" in colored.stdout


def test_the_python_method_gives_plain_arrays(folder):
    import llmcli

    found = llmcli.load(folder).attention("Once", layers=[0], heads=[1])
    assert type(found.maps[0].weights) is np.ndarray
    assert found.maps[0].weights.shape == (5, 5)


def test_a_real_model_by_default(shared, capsys):
    model = str(shared / "models" / "stories260K")
    assert (
        run(["inspect-attention", "-m", model, "--top-heads", "prev", "--limit", "1", "Once upon a time, a girl"]) == 0
    )
    out = capsys.readouterr().out
    assert re.search(r"L[1-3]\.H\d→kv\d", out)
