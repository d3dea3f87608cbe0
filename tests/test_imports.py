"""Who may import whom, and what the light commands may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llmcli
from llmcli.cli.app import COMMANDS

PACKAGE = Path(llmcli.__file__).parent
MODULES = {
    ".".join(each.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): each
    for each in PACKAGE.rglob("*.py")
}
HEAVY = ("torch", "transformers", "numpy", "rich", "huggingface_hub", "jinja2", "matplotlib", "plotext", "safetensors")


def imported(module: str, *, inside_functions: bool) -> set[str]:
    """The modules that a module imports, as full names; those inside functions only if asked for."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    found: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node)
        if inside_functions or not lazy:
            todo += ast.iter_child_nodes(node)
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def inside(name: str, *packages: str) -> bool:
    return any(name == each or name.startswith(each + ".") for each in packages)


# What knows ids and no text.
OF_IDS = ("llmcli.model", "llmcli.sampling", "llmcli.generation", "llmcli.draft", "llmcli.batch", "llmcli.beams")
# The modules a rule is for, and what they may not import, anywhere in them.
RULES = [
    (OF_IDS, ("llmcli.tokenizer", "llmcli.render", "llmcli.cli", "typer", "rich", "tokenizers")),
    (("llmcli.render",), ("torch", "llmcli.model", "llmcli.cli", "llmcli.pipeline")),
    (("llmcli.tokenizer",), ("torch", "llmcli.model", "llmcli.cli", "llmcli.render", "llmcli.pipeline")),
    (("llmcli.resolve", "llmcli.hub"), ("torch", "llmcli.cli", "llmcli.render", "llmcli.pipeline")),
]
LEAVES = ("llmcli.errors", "llmcli.settings", "llmcli.sampling_params", "llmcli.model.config")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_import_directions(module: str) -> None:
    names = imported(module, inside_functions=True)
    for subjects, forbidden in RULES:
        if inside(module, *subjects):
            assert not {each for each in names if inside(each, *forbidden)}
    if module in LEAVES:
        assert {each for each in names if inside(each, "llmcli")} <= {"llmcli.errors"} | {
            each for each in names if each.startswith("llmcli.errors.")
        }


@pytest.mark.parametrize(
    "module", sorted({"llmcli.cli.app", "llmcli.cli.io", *(where.partition(":")[0] for where, _ in COMMANDS.values())})
)
def test_commands_import_heavy_things_in_their_bodies_only(module: str) -> None:
    names = imported(module, inside_functions=False)
    heavy = (*HEAVY, "llmcli.pipeline", "llmcli.inspect", "llmcli.model", "llmcli.generation", "llmcli.sampling")
    assert not {each for each in names if inside(each, *heavy) and not inside(each, "llmcli.model.config")}


def test_the_package_itself_imports_nothing_heavy() -> None:
    assert not loaded_by(["-c", "import llmcli"]) & {*HEAVY, "typer", "tokenizers"}


@pytest.mark.parametrize(
    "package", ["llmcli.render", "llmcli.tokenizer", "llmcli.model.config", "llmcli.model.families"]
)
def test_what_is_free_of_torch_stays_so_through_all_it_imports(package: str) -> None:
    names = ", ".join(each for each in sorted(MODULES) if inside(each, package))
    assert "torch" not in loaded_by(["-c", f"import {names}"])


def loaded_by(arguments: list[str]) -> set[str]:
    """Top-level modules that a Python process has loaded when it ends."""
    code = f"""
import atexit, runpy, sys
atexit.register(lambda: sys.stderr.write("\\n@" + ",".join({{name.split(".")[0] for name in sys.modules}})))
sys.argv = {arguments!r}
if sys.argv[0] == "-c":
    exec(sys.argv[1])
else:
    sys.argv.insert(0, "llmcli")
    runpy.run_module("llmcli", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("@")[2].split(","))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["completions", "bash"],
        ["models"],
        ["models", "--names"],
        ["config", "show"],
        *([name, "--help"] for name in COMMANDS),
    ],
    ids=" ".join,
)
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    assert not loaded_by(arguments) & set(HEAVY)


def test_program_help_loads_no_command_and_no_pydantic() -> None:
    assert not loaded_by(["--help"]) & {"pydantic", "tokenizers", "tomllib"}


@pytest.mark.parametrize(
    "arguments", [["tokenize", "Once"], ["tokenize", "--count", "x"], ["decode", "300"]], ids=" ".join
)
def test_the_tokenizer_commands_load_no_torch(arguments: list[str], shared: Path) -> None:
    model = str(shared / "models" / "stories260K")
    assert not loaded_by([*arguments, "-m", model]) & {"torch", "transformers", "numpy", "safetensors"}
