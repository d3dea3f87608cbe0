"""Logs, loss curves, and the scaling law."""

import json
from pathlib import Path

import pytest

from llmcli.errors import UsageError
from llmcli.render.plot import draw, save_png
from llmcli.train.log import Event, Log, last_values, read_log
from llmcli.train.plots import charts_of, figures_of
from llmcli.train.scaling import fit_power_law


def write_log(
    path: Path, parameters: int, final: float, *, steps: int = 20, facts: bool = True, name: str = ""
) -> Path:
    log = Log(path)
    said = {"name": name or f"m{parameters}", "parameters": parameters, "tokens_per_step": 100}
    log.begin(said if facts else {}, 0)
    for step in range(steps):
        bits = final + 2 * 0.7**step
        log.write(Event("step", step, {"bits_per_byte": bits, "loss": 3 * bits}))
    log.write(Event("valid", steps, {"bits_per_byte": final}))
    return path


def test_a_log_tells_parameters_compute_and_the_final_loss(tmp_path: Path) -> None:
    log = read_log(write_log(tmp_path / "log.jsonl", 1000, 2.0))
    assert (log.name, log.parameters, log.final) == ("m1000", 1000, 2.0)
    assert log.compute == 6 * 1000 * 100 * 20
    assert read_log(tmp_path).steps == log.steps


def test_without_validation_the_last_steps_count(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.jsonl", 1000, 2.0, steps=40)
    path.write_text("".join(line for line in path.read_text().splitlines(True) if '"valid"' not in line))
    assert read_log(path).final == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize("text", ["", "no json\n{}\n", '{"kind": "step"}\n{"kind": "step"}\n', '{"kind": "run"}\n'])
def test_what_is_no_log_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_log(path)


def test_a_log_that_is_being_written_is_read(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.jsonl", 1000, 2.0)
    path.write_text(path.read_text() + '{"kind": "st')
    assert len(read_log(path).steps) == 20


def test_beginning_again_drops_what_is_about_to_be_repeated(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.begin({"name": "a"}, 0)
    for step in range(4):
        log.write(Event("step", step, {}))
        log.write(Event("valid", step + 1, {}))
    log.begin({"name": "b"}, 2)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert lines[0] == {"kind": "run", "step": 0, "schema_version": 1, "name": "b"}
    assert [(line["kind"], line["step"]) for line in lines[1:]] == [
        ("step", 0),
        ("valid", 1),
        ("step", 1),
        ("valid", 2),
    ]


def test_the_power_law_is_found_again() -> None:
    xs = [1e5, 1e6, 3e7]
    law = fit_power_law(xs, [7 * x**-0.08 for x in xs])
    assert law is not None
    assert (law.factor, law.exponent) == pytest.approx((7, -0.08))
    assert law(1e6) == pytest.approx(7 * 1e6**-0.08)
    assert fit_power_law([5, 5, 5], [1, 2, 3]) is None
    assert fit_power_law([1, 2, float("nan")], [1, 2, 3]) is None
    assert fit_power_law([1000, 1001, 1002], [2, 20, 200]) is None  # 1000^2300 is no float
    steep = fit_power_law([1000, 1030, 1060], [1.5, 4.0, 9.0])
    assert steep is not None
    assert steep(1030) == pytest.approx(4, rel=0.1)


def test_three_logs_give_curves_and_both_scaling_laws(tmp_path: Path) -> None:
    paths = [write_log(tmp_path / f"{n}.jsonl", n, 9 * n**-0.1) for n in (10_000, 100_000, 1_000_000)]
    charts, notes = charts_of(paths)
    assert notes == []
    assert [chart.log for chart in charts] == [False, True, True]
    assert "x^-0.1000" in charts[1].series[-1].name
    assert len(charts_of(paths[:2])[0]) == 1
    drawn = draw(charts[1], 70, 12)
    for shown in ("10000", "100000", "1e+06", "m10000", "m1000000", "x^-0.1000"):
        assert shown in drawn


def test_the_numbers_are_those_of_the_charts(tmp_path: Path) -> None:
    paths = [write_log(tmp_path / f"{n}.jsonl", n, 9 * n**-0.1) for n in (10_000, 100_000, 1_000_000)]
    figures, notes = figures_of(paths)
    charts, _ = charts_of(paths)
    assert notes == []
    for run, path, number in zip(figures["runs"], paths, (0, 1, 2), strict=True):
        assert run["log"] == str(path)
        assert (run["name"], run["parameters"]) == (f"m{10_000 * 10**number}", 10_000 * 10**number)
        for kind, series in zip(("training", "validation"), charts[0].series[2 * number :], strict=False):
            assert list(map(tuple, run[kind])) == series.points
        assert run["final_bits_per_byte"] == run["validation"][-1][1]
        assert run["compute"] == 6 * run["parameters"] * run["tokens_per_step"] * 20
    assert [law["against"] for law in figures["laws"]] == ["parameters", "compute"]
    for law in figures["laws"]:
        assert law["exponent"] == pytest.approx(-0.1, abs=1e-5)
        for x, y in law["points"]:
            assert law["factor"] * x ** law["exponent"] == pytest.approx(y, rel=1e-4)
    assert figures_of(paths[:2])[0]["laws"] == []


def test_what_an_old_log_does_not_say_is_none(tmp_path: Path) -> None:
    paths = [write_log(tmp_path / f"{n}.jsonl", 500, 2.0, facts=False) for n in range(3)]
    paths[0].write_text(paths[0].read_text().replace('"bits_per_byte": 2.0}', '"bits_per_byte": NaN}'))
    figures, notes = figures_of(paths)
    assert len(notes) == 2
    assert figures["laws"] == []
    run = figures["runs"][0]
    assert [run[key] for key in ("parameters", "tokens_per_step", "compute", "final_bits_per_byte")] == [None] * 4
    assert run["validation"] == [[20, None]]
    json.dumps(figures, allow_nan=False)


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.jsonl", 1000, 2.0)
    path.write_text(path.read_text() + '{"kind": "step", "step": 20, "loss": NaN}\n7\n{}\n{"kind": "st')
    last = last_values(path)
    assert last["step"] == {"kind": "step", "step": 20, "loss": None}
    assert (last["valid"]["step"], last["run"]["parameters"]) == (20, 1000)


def test_runs_of_one_size_have_no_law_and_that_is_said(tmp_path: Path) -> None:
    paths = [write_log(tmp_path / f"{n}.jsonl", 500, 2.0 + n) for n in range(3)]
    charts, notes = charts_of(paths)
    assert len(charts) == 1
    assert len(notes) == 2
    assert len({series.name for series in charts[0].series}) == 6
    old = [write_log(tmp_path / f"old{n}.jsonl", 500, 2.0, facts=False) for n in range(3)]
    assert len(charts_of(old)[0]) == 1


def test_runs_of_one_recipe_are_told_apart_by_size_then_by_number(tmp_path: Path) -> None:
    sizes = (1_234_000, 500_000, 500_000)
    paths = [write_log(tmp_path / f"{n}.jsonl", size, 2.0, name="small") for n, size in enumerate(sizes)]
    paths.append(write_log(tmp_path / "other.jsonl", 500_000, 2.0, name="other"))
    names = [run["name"] for run in figures_of(paths)[0]["runs"]]
    assert names == ["small, 1.23 million", "small, 0.5 million (1)", "small, 0.5 million (2)", "other"]


def test_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = [write_log(tmp_path / f"{n}.jsonl", n, 9 * n**-0.1) for n in (10_000, 100_000, 1_000_000)]
    charts, _ = charts_of(paths)
    save_png(charts, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not list(tmp_path.glob(".*"))
