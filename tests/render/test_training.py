"""How a run looks while it goes."""

import io

from rich.console import Console

from llmcli.render.training import LiveView, PlainView, SilentView, duration

RUN = {"name": "small", "steps": 10, "parameters": 1_234_567}
STEP = {"loss": 4.5, "bits_per_byte": 2.25, "seconds": 2.0, "tokens_per_second": 1000.0}


def run(view: PlainView | LiveView | SilentView) -> None:
    with view:
        view.progress("tokens", 0.5)
        view.note("a note \x1b[2J")
        view.take("run", 0, RUN)
        for step in range(4):
            view.take("step", step, STEP)
        view.take("valid", 4, {"bits_per_byte": 2.125})
        view.take("sample", 4, {"text": "Once\n[red]upon\x1b[31m"})


def test_lines_hold_the_figures_and_no_control_characters() -> None:
    lines: list[str] = []
    run(PlainView(lines.append, every_seconds=0))
    assert lines[:3] == ["tokens 50%", "a note ␛[2J", "small: 1,234,567 parameters, 10 steps"]
    assert lines[6] == "step 4/10  loss 4.5000  2.2500 bits per byte  1,000 tokens/s  0:12 left"
    assert lines[7:] == ["step 4/10  validation 2.1250 bits per byte", "sample: Once␊[red]upon␛[31m"]


def test_steps_are_told_now_and_then_and_the_last_always() -> None:
    lines: list[str] = []
    view = PlainView(lines.append, every_seconds=3600)
    view.take("run", 0, RUN)
    for step in range(10):
        view.take("step", step, STEP)
    assert [line.split()[1] for line in lines[1:]] == ["1/10", "10/10"]


def test_the_panel_shows_figures_bar_and_sample() -> None:
    file = io.StringIO()
    run(LiveView(Console(file=file, force_terminal=True, width=90, markup=False, highlight=False, _environ={})))
    text = file.getvalue()
    for each in ("step 4/10", "loss 4.5000", "validation 2.1250", "1,000 tokens/s", "0:12 left", "[red]upon␛[31m", "━"):
        assert each in text
    assert "a note ␛[2J" in text
    assert "\x1b[2J" not in text


def test_silence(capsys: object) -> None:
    run(SilentView())
    assert capsys.readouterr() == ("", "")  # type: ignore[attr-defined]


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.6, 3599, 3661)] == ["0:00", "1:00", "59:59", "1:01:01"]
