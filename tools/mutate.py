"""Mutation testing: every small change of a module must make a test fail. Prints those that no test notices.

    python tools/mutate.py functional _engine.checks

The tests are collected once. Each change is made in a fork of that process, which runs the tests that reach its lines,
quickest first, until one fails. A test's own processes do not see it. The modules must be used by their names
(`functional.forward`): whoever has imported a function itself keeps the old one.

mutmut 3 hands names of tests to pytest, which refuses some of ours, and takes that for a failing test.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import pickle
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).parent.parent
TESTS = [
    "error_texts", "validation", "validation_memory", "hostile_arguments", "serving", "serving_refused",
    "ragged_refused", "step", "groups", "dropout", "layer", "layer_parameters", "layer_refused", "cell_construction",
    "cell_weights", "stream_use", "memory", "progress", "threads",
]  # fmt: skip
#: The first run is of all tests, and traced.
MOST_SECONDS, MOST_SECONDS_OF_ALL = 300, 1200
OPPOSITES = {
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE], ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is], ast.In: [ast.NotIn],
    ast.NotIn: [ast.In], ast.And: [ast.Or], ast.Or: [ast.And], ast.Add: [ast.Sub], ast.Sub: [ast.Add],
    ast.Mult: [ast.FloorDiv], ast.FloorDiv: [ast.Mult], ast.Mod: [ast.Mult], ast.Pow: [ast.Mult],
    ast.BitOr: [ast.BitAnd], ast.BitAnd: [ast.BitOr],
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str(value)):
            yield ast.Constant(value + "?")
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.BoolOp(values=members) | ast.Call(keywords=[_, *_] as members):
            for i in range(len(members)):
                fewer = members[:i] + members[i + 1 :]
                if isinstance(node, ast.Call):
                    yield ast.Call(node.func, node.args, fewer)
                else:
                    yield ast.BoolOp(node.op, fewer) if len(fewer) > 1 else fewer[0]
        case ast.Raise() | ast.AugAssign() | ast.Expr() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
    for opposite in OPPOSITES.get(type(node), []):
        yield opposite()


def places(parent: ast.AST, lines: range = range(0)) -> Iterator[tuple[range, ast.AST, str, int, ast.AST]]:
    """Where changes are: lines of the innermost statement or condition, the parent, its field, which child of that."""
    for field, value in ast.iter_fields(parent):
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if isinstance(child, ast.AST) and field not in ("annotation", "returns", "ctx") and not docstring:
                inside = lines and (isinstance(parent, ast.expr) or not hasattr(parent, "body"))
                own = range(child.lineno, child.end_lineno + 1) if hasattr(child, "lineno") else range(0)
                yield lines if inside else own, parent, field, i, child
                yield from places(child, lines if inside else own)


def mutants(tree: ast.AST) -> Iterator[tuple[range, str, str]]:
    """Change `tree` in one place after the other: the lines, and what stood there and stands there now."""
    may_be_none = {(ast.Call, "args"), (ast.Assign, "value"), (ast.Return, "value"), (ast.FormattedValue, "value")}

    def put(parent: ast.AST, field: str, i: int, new: ast.AST) -> None:
        if isinstance(siblings := getattr(parent, field), list):
            siblings[i] = new
        else:
            setattr(parent, field, new)

    for lines, parent, field, i, child in list(places(tree)):
        nothing = (type(parent), field) in may_be_none and not isinstance(child, ast.Constant)
        before = ast.unparse(parent)
        for new in (*changes(child), *[ast.Constant(None)] * nothing):
            put(parent, field, i, ast.copy_location(new, child))
            ast.fix_missing_locations(tree)
            yield lines, before, ast.unparse(parent)
        put(parent, field, i, child)


def forked(function: Callable[[], Any], seconds: int) -> Any:
    """What a function returns in a child of this process; None if that ends otherwise, or takes too long."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(seconds)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        try:
            with os.fdopen(writing, "wb") as file:
                pickle.dump(function(), file)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    return pickle.loads(data) if data else None


def passes(item: pytest.Item) -> bool:
    """Whether a test passes here and now, or is skipped."""
    return not any(report.failed for report in runtestprotocol(item, nextitem=None, log=False))


def reached(item: pytest.Item, path: str) -> tuple[float, set[int]]:
    """Seconds of a test, and the lines of a file that it reaches in this process: none if it fails."""
    lines: set[int] = set()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename == path:
            lines.add(frame.f_lineno)
            return trace
        return None

    began = time.monotonic()
    sys.settrace(trace)
    passed = passes(item)
    sys.settrace(None)
    return time.monotonic() - began, lines if passed else set()


def mutate(module: ModuleType, items: list[pytest.Item]) -> None:
    """Make each change of a module, and print those that no test notices."""
    path, began = str(module.__file__), time.monotonic()
    tree = ast.parse(Path(path).read_text())

    def reach(code: CodeType) -> list[tuple[float, set[int]]]:
        exec(code, module.__dict__)
        return [reached(item, path) for item in items]

    def hold(code: CodeType, chosen: list[pytest.Item]) -> bool:
        try:
            exec(code, module.__dict__)
        except Exception:  # at import
            return False
        return all(passes(item) for item in chosen)

    unchanged = forked(partial(reach, compile(tree, path, "exec")), MOST_SECONDS_OF_ALL)
    tests = sorted(zip(unchanged, items, strict=True), key=lambda test: test[0][0])
    found = []
    for span, before, after in mutants(tree):
        of_line = [item for (_, lines), item in tests if lines & set(span)]
        chosen = of_line or [item for (_, lines), item in tests if lines]  # of what runs at import
        holds = forked(partial(hold, compile(tree, path, "exec"), chosen), MOST_SECONDS)
        found.append("noticed" if holds is False else "NOT NOTICED" if holds else "crashed or endless")
        if holds is not False:
            print(f"line {span.start}, {len(chosen)} tests, {found[-1]}:\n    {before}\n    {after}", flush=True)
    print(f"{path}: {len(found)} changes, {Counter(found)}; {time.monotonic() - began:.0f} s", flush=True)


class Mutation:
    """A plugin of pytest: it runs the collected tests in its own way."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Called by pytest once all tests are collected."""
        for name in self.names:
            mutate(importlib.import_module(f"indygru_cpu.{name}"), session.items)
        return True


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    parser.add_argument(
        "--tests", nargs="+", default=[str(next(ROOT.glob(f"tests/*/test_{name}.py"))) for name in TESTS]
    )
    options = parser.parse_args()
    arguments = ["-qs", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    sys.exit(pytest.main([*arguments, *options.tests], [Mutation(options.modules)]))


if __name__ == "__main__":
    main()
