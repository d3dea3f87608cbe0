"""`import llmcli`: what it offers and what it costs."""

import subprocess
import sys

import pytest
from tiny import write_model

import llmcli


def test_importing_it_imports_nothing_heavy():
    code = (
        "import sys, llmcli; llmcli.SamplingParams(); llmcli.Step; "
        "print(sorted({'torch', 'tokenizers', 'numpy', 'typer', 'rich', 'jinja2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_load_and_use(tmp_path):
    model = llmcli.load(write_model(tmp_path / "m"))
    assert isinstance(model, llmcli.Pipeline)
    result = model.generate("Once", seed=3, max_tokens=8)
    assert isinstance(result, llmcli.Generation)
    steps = list(model.stream("Once", seed=3, max_tokens=8))
    assert isinstance(steps[0], llmcli.Step)
    assert "".join(step.text for step in steps) == result.text
    assert model.decode(model.encode("Once")) == "Once"
    assert model.logits("Once").shape == (5, 259)


def test_every_public_name_is_there():
    for name in llmcli.__all__:
        assert getattr(llmcli, name) is not None
    with pytest.raises(AttributeError, match="nothing_such"):
        llmcli.nothing_such  # noqa: B018


def test_errors_are_the_projects_own(tmp_path):
    with pytest.raises(llmcli.LlmcliError):
        llmcli.load(tmp_path)
