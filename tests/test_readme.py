"""The README tells the truth: every command in it runs, and prints what stands below it.

`LLMCLI_UPDATE=1 pytest tests/test_readme.py` writes the outputs anew.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
UPDATE = bool(os.environ.get("LLMCLI_UPDATE"))

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ROW = re.compile(r"^\|.*?\| `(llmcli [^`]*)`.*\|$", re.MULTILINE)
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks() -> list[str]:
    return [match[1] for match in _BLOCK.finditer(README.read_text("utf-8"))]


def commands(block: str) -> list[tuple[str, str]]:
    """The commands of a block, each with the output shown below it. A command goes on after a backslash."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    found = []
    for part in parts:
        command, _, output = re.sub(r"\\\n", "\0", part).partition("\n")
        found.append((command.replace("\0", "\\\n"), output))
    return found


def ended(output: str) -> str:
    """Output as a terminal would leave it: `decode` ends its own without a newline in a pipe."""
    return output if output.endswith("\n") or not output else output + "\n"


@pytest.fixture
def shell(tmp_path: Path):
    """Runs a command line as a reader would, in an empty folder, with the `llmcli` of this environment."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    folder = str(Path(sys.executable).parent)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLMCLI_")}
    environment |= {"PATH": f"{folder}{os.pathsep}{environment['PATH']}", "COLUMNS": "80", "LC_ALL": "C.UTF-8"}
    environment |= {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}

    def run(command: str, *, codes: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
        )
        assert done.returncode in codes, f"{command}\nexit {done.returncode}\n{done.stderr.decode()}"
        return done.stdout.decode()

    return run


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """The tokenizer of GPT-2 as if it had been downloaded, where the files that stand beside the project are there."""
    source = README.parent.parent / "shared" / "data" / "tokenizers" / "gpt2" / "tokenizer.json"
    repository = tmp_path / "hub" / "models--openai-community--gpt2"
    if source.is_file():
        folder = repository / "snapshots" / "1"
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").symlink_to(source)
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("1")
    return repository


@pytest.mark.parametrize("index", range(len(blocks())))
def test_every_command_runs_and_prints_what_is_shown(index: int, shell, gpt2: Path) -> None:
    block = blocks()[index]
    if "jq" in block and shutil.which("jq") is None:
        pytest.skip("needs jq")
    if "gpt2" in block and not gpt2.is_dir():
        pytest.skip("needs ../shared/data, which is absent here")
    # diff ends with 1 where there is a difference to show.
    results = [(each, shell(each, codes=(1,) if each.startswith("diff") else (0,))) for each, _ in commands(block)]
    real = "".join(f"$ {command}\n{ended(output)}" for command, output in results)
    if UPDATE:
        text = README.read_text("utf-8")
        README.write_text(text.replace(f"```console\n{block}```", f"```console\n{real}```"), "utf-8")
    else:
        assert real == block


@pytest.mark.parametrize("command", _ROW.findall(README.read_text("utf-8")))
def test_every_row_of_a_table_runs(command: str, shell) -> None:
    assert shell(command.replace(r"\|", "|"))


@pytest.mark.parametrize("code", _PYTHON.findall(README.read_text("utf-8")))
def test_every_python_example_runs(code: str, shell, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(code, "utf-8")
    shell(f"{sys.executable} example.py")


def test_there_are_commands() -> None:
    assert len(blocks()) >= 4
