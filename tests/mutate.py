"""Mutation testing of what chooses tokens: `python tests/mutate.py [FILE ...]`.

Each mutant is one small change (an operator, a constant, a condition) inside one function of a file of
`llmcli/sampling` or of `llmcli/sampling_params.py`. The tests of sampling are collected once; for each mutant a forked
process takes over the function's changed code and runs them, and one of them has to fail. Mutants that all tests pass
are printed, unless `equivalent_mutants.txt` tells why they change nothing that can be seen; the exit code is then 1. No
file is changed. What stands outside functions (constants, tables) is not mutated.
"""

import argparse
import ast
import copy
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACES = [*sorted((ROOT / "llmcli" / "sampling").glob("*.py")), ROOT / "llmcli" / "sampling_params.py"]
TESTS = ["tests/sampling", "tests/test_sampling.py", "tests/test_sampling_params.py"]
# Without those that count thousands of draws: they take half of the time.
OPTIONS = ["-q", "-s", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "-k", "not chi_squared"]
OPTIONS += ["--hypothesis-profile", "mutants", "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
# Of computing, more than twice what all tests take: a mutant that never ends is found out too.
SECONDS = 25

# Those that change nothing a test could see are listed with the reason; each stands in a line that begins with two
# spaces, as "file: line of the source: before -> after".
LISTED = Path(__file__).with_name("equivalent_mutants.txt")
EQUIVALENT = {line.strip() for line in LISTED.read_text("utf-8").splitlines() if line.startswith("  ")}

SWAPS: dict[type[ast.AST], list[type[ast.AST]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Div],
    ast.Mod: [ast.Mult],
    ast.Pow: [ast.Mult],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
    ast.BitXor: [ast.BitAnd],
    ast.RShift: [ast.LShift],
    ast.LShift: [ast.RShift],
}


def changed(node: ast.AST) -> list[ast.AST]:
    """What a node is replaced by, one mutant each."""
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op):
            return [_with(node, op=new()) for new in SWAPS.get(type(op), [])]
        case ast.Compare(ops=[op]):
            return [_with(node, ops=[new()]) for new in SWAPS[type(op)]]
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            return [operand]
        case ast.IfExp() | ast.If() | ast.While():
            return [_with(node, test=ast.UnaryOp(ast.Not(), node.test))]
        case ast.Constant(value=bool(value)):
            return [ast.Constant(not value)]
        case ast.Constant(value=int() | float() as value):
            return [ast.Constant(value + 1)]
        case ast.Continue():
            return [ast.Break()]
        case ast.Break():
            return [ast.Continue()]
    return []


def _with(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def mutants(tree: ast.Module) -> Iterator[tuple[str, int, str, str]]:
    """Changes the tree in place, one mutant after another: the function it is in, as `Class.name` or `name`, its line,
    what stood there and what stands there now."""
    for outer in tree.body:
        inside = outer.body if isinstance(outer, ast.ClassDef) else [outer]
        for function in inside:
            if isinstance(function, ast.FunctionDef):
                name = function.name if function is outer else f"{outer.name}.{function.name}"  # type: ignore[attr-defined]
                for each in _of_function(function):
                    yield name, *each


def _of_function(function: ast.FunctionDef) -> Iterator[tuple[int, str, str]]:
    for inner in ast.walk(function):
        if isinstance(inner, ast.arg | ast.AnnAssign) and inner.annotation is not None:
            _mark(inner.annotation)
    for parent in [each for statement in function.body for each in ast.walk(statement)] + [function]:
        fields = [("body", function.body)] if parent is function else list(ast.iter_fields(parent))
        for name, value in fields:
            for index, node in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(node, ast.AST) or hasattr(node, "is_type"):
                    continue
                for new in changed(node):
                    ast.copy_location(new, node)
                    _put(parent, name, index, new)
                    yield node.lineno, _brief(node), _brief(ast.fix_missing_locations(new))
                    _put(parent, name, index, node)


def _mark(annotation: ast.AST) -> None:
    for node in ast.walk(annotation):
        node.is_type = True  # type: ignore[attr-defined]


def _put(parent: ast.AST, name: str, index: int, node: ast.AST) -> None:
    value = getattr(parent, name)
    if isinstance(value, list):
        value[index] = node
    else:
        setattr(parent, name, node)


def _brief(node: ast.AST) -> str:
    return ast.unparse(node).splitlines()[0][:90]


def functions(path: Path) -> dict[str, FunctionType]:
    """The functions of an imported module, by their names within it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    found: dict[str, Any] = dict(vars(module))
    for name, each in vars(module).items():
        if isinstance(each, type):
            found |= {f"{name}.{inner}": value for inner, value in vars(each).items()}
    plain = {name: getattr(each, "fget", None) or getattr(each, "__func__", each) for name, each in found.items()}
    return {name: each for name, each in plain.items() if isinstance(each, FunctionType)}


def code_of(code: CodeType, name: str) -> CodeType:
    """The code of a function within that of its module."""
    todo = [code]
    while todo:
        each = todo.pop()
        if each.co_qualname == name:
            return each
        todo += [inner for inner in each.co_consts if isinstance(inner, CodeType)]
    raise LookupError(name)


class Mutants:
    """A plugin of pytest that runs the collected tests once for every mutant."""

    def __init__(self, files: Sequence[Path], log: Path) -> None:
        self.files, self.log = files, log
        self.made = self.left = self.equal = 0

    def pytest_runtestloop(self, session: "pytest.Session") -> bool:
        reading, writing = os.pipe()
        if not self._survives(session, None, writing):
            raise pytest.UsageError(f"the tests fail as they are: see --log {self.log}")
        with os.fdopen(reading) as pipe:
            seconds = json.loads(pipe.readline())
        session.items.sort(key=lambda each: seconds[each.nodeid])  # the quick ones find most mutants out
        for path in map(Path.resolve, self.files):
            self._file(session, path, path.read_text())
        return True

    def _file(self, session: "pytest.Session", path: Path, source: str) -> None:
        lines, tree, known = source.splitlines(), ast.parse(source), functions(path)
        began = time.monotonic()
        for name, number, before, after in mutants(tree):
            mutant = f"{path.name}: {lines[number - 1].strip()}: {before} -> {after}"
            new = code_of(compile(tree, str(path), "exec"), name)
            self.made += 1
            if not self._survives(session, (known[name], new)):
                continue
            if mutant in EQUIVALENT:
                self.equal += 1
                continue
            self.left += 1
            print(f"{number}: {mutant}", flush=True)
        print(f"{path.name}: {self.made} mutants so far, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    def _survives(
        self, session: "pytest.Session", change: tuple[FunctionType, CodeType] | None, told: int | None = None
    ) -> bool:
        """Runs the tests in a process of its own, and tells whether all pass; what each took goes to `told`."""
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1] == 0
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        os.dup2(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        if change is not None:
            change[0].__code__ = change[1]
        seconds = {}
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            began = time.process_time()
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            seconds[item.nodeid] = time.process_time() - began
            if session.testsfailed:
                os._exit(1)
        if told is not None:
            os.write(told, json.dumps(seconds).encode() + b"\n")
        os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=PLACES)
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="what pytest says of the last mutant")
    args = parser.parse_args()
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # that a test fails is enough: nothing is shrunk
    hypothesis.settings.register_profile(
        "mutants", derandomize=True, database=None, deadline=None, max_examples=40, phases=phases
    )
    plugin = Mutants(args.files, args.log)
    os.chdir(ROOT)
    code = pytest.main([*OPTIONS, *TESTS], plugins=[plugin])
    if code:
        return int(code)
    caught = plugin.made - plugin.left - plugin.equal
    print(f"{plugin.made} mutants, {caught} found out, {plugin.equal} equivalent, {plugin.left} survive")
    return 1 if plugin.left else 0


if __name__ == "__main__":
    sys.exit(main())
