"""Who may call whom: downwards only, and each speciality in one place."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter

import helpers
import pytest

PACKAGE = helpers.ROOT / "indygru_cpu"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
CSRC = sorted((PACKAGE / "csrc").glob("*.[ch]"))
CYTHON = [path for ending in ("pyx", "pxi", "pxd") for path in sorted(PACKAGE.glob(f"*.{ending}"))]
#: The command line and the main job sit on top and may use everything.
TOP = ["__main__", "__init__", "_info", "_demo", "_demo_model", "_demo_plot"]


def imported(module):
    """Modules of the package that a module imports, in whatever form and place."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = "indygru_cpu." * bool(node.level) + (node.module or "")
            start = start.rstrip(".")
            names = [start, *[f"{start}.{alias.name}" for alias in node.names]]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            if head == "indygru_cpu" and rest:
                found.add(rest.split(".")[0])
    return found & {*MODULES, "_core"}


GRAPH = {module: imported(module) for module in MODULES}


def test_the_graph_is_seen():
    """The parser above finds the imports that are known."""
    assert {"_core", "_call", "_blas"} <= GRAPH["_engine"]
    assert "_engine" in GRAPH["functional"]
    assert "layer" in GRAPH["__init__"]


def test_no_circle():
    order = list(TopologicalSorter(GRAPH).static_order())
    assert order.index("_core") < order.index("_engine") < order.index("_stack") < order.index("layer")


#: What each module below the top may import at most. A module that is in no list fails.
ALLOWED = {
    "_environment": set(),
    "_version": set(),
    "_messages": set(),
    "_regular_files": set(),
    "_validation": {"_core"},
    "reference": set(),
    "_threads": {"_core"},
    "_blas": {"_core", "_environment"},
    "_memory": {"_core"},
    "_sequences": {"_memory"},
    "_call": {"_validation", "_threads", "_sequences"},
    "_engine": {"_blas", "_call", "_core", "_memory", "_threads"},
    "functional": {"_call", "_engine", "_memory", "_validation"},
    "_parameters": {"_validation"},
    "_atomic": set(),
    "_weights": set(),
    "_configuration": {"_weights", "_validation"},
    "_npz": {"_weights", "_configuration"},
    "_safetensors": {"_weights", "_configuration"},
    "_files": {"_weights", "_configuration", "_npz", "_safetensors", "_parameters", "_atomic", "_regular_files"},
    "_progress": set(),
    "_weighted": {"_files", "_parameters", "_validation"},
    "_forms": {"_sequences", "_validation", "_weighted"},
    "_stack": {"_call", "_engine", "_memory", "_progress", "_sequences", "_validation", "_weighted"},
    "stream": {
        "_call", "_core", "_memory", "_progress", "_sequences", "_stack", "_threads", "_validation", "_weighted",
    },
    "_layer_passes": {"_forms", "_memory", "_parameters", "_progress", "_stack", "_validation", "_weighted"},
    "layer": {"_forms", "_layer_passes", "_parameters", "_validation", "_weighted", "stream"},
    "_torch_ops": {
        "_call", "_engine", "_forms", "_memory", "_progress", "_sequences", "_stack", "_threads", "_validation",
    },
    "c_api": {"_core", "_engine"},
    "jax": {"_call", "_core", "_engine", "_threads", "_validation"},
    "_torch_passes": {"_torch_ops", "_validation"},
    "torch": {"_parameters", "_torch_ops", "_torch_passes", "_validation", "_weighted", "layer"},
    "dask": {"_validation", "layer"},
    "_arrow": {"_validation", "layer"},
    "ray": {"_arrow", "_validation", "layer"},
    "spark": {"_arrow", "layer"},
    "_gate_orders": set(),
    "_interop_weights": {"_gate_orders", "_validation", "layer"},
    "_interop_torch": {"_gate_orders", "_interop_weights", "layer"},
    "_interop_keras": {"_gate_orders", "_interop_weights", "layer"},
    "_interop_pararnn": {"_gate_orders", "_interop_weights", "layer"},
    "_interop_onnx_graph": {"_interop_weights"},
    "_interop_onnx_forms": {"_gate_orders", "_interop_onnx_graph", "_interop_weights", "layer"},
    "_interop_onnx": {
        "_interop_onnx_forms", "_interop_onnx_graph", "_interop_weights", "_validation", "_version", "layer",
    },
    "_interop_onnx_read": {"_gate_orders", "_interop_onnx_forms", "_interop_weights", "layer"},
    "interop": {"_interop_keras", "_interop_onnx", "_interop_onnx_read", "_interop_pararnn", "_interop_torch"},
    "_pooling": set(),
    "_training": {"_pooling", "layer"},
    "_sklearn_input": {"_pooling", "_validation"},
    "_sklearn_partial": set(),
    "_sklearn_base": {"_pooling", "_sklearn_input", "_sklearn_partial", "_training", "layer"},
    "sklearn": {"_pooling", "_sklearn_base", "_sklearn_partial", "_training"},
    "datasets": set(),
    "_custom_activation": {"reference"},
    "_cell_checks": {"_validation"},
    "_variables": {"_cell_checks"},
    "_registry": {"_variables"},
    "_scopes": {"_cell_checks", "_registry", "_variables"},
    "initializers": {"_cell_checks", "_scopes", "_validation"},
    "_tf_layer": {"_cell_checks", "_registry", "_scopes", "_variables"},
    "_rnn_cell": {"_cell_checks", "_registry", "_tf_layer"},
    "_cell_run": {
        "_custom_activation", "_engine", "_memory", "_validation", "_variables", "functional", "reference",
    },
    "cell": {"_cell_checks", "_cell_run", "_registry", "_rnn_cell", "_scopes", "_variables", "initializers"},
    "_dynamic_rnn": {"_cell_checks", "_cell_run", "_scopes", "cell"},
    "_bidirectional": {"_cell_checks", "_cell_run", "_dynamic_rnn", "_scopes", "_validation", "cell"},
    "_checkpoint_wire": set(),
    "_checkpoint_table": {"_checkpoint_wire"},
    "_checkpoint_index": {"_checkpoint_table", "_checkpoint_wire"},
    "_checkpoint_files": {"_atomic", "_checkpoint_table", "_checkpoint_wire", "_regular_files"},
    "_checkpoint": {"_atomic", "_checkpoint_files", "_checkpoint_index", "_checkpoint_table", "_checkpoint_wire"},
    "_checkpoint_cells": {"_checkpoint", "_checkpoint_wire", "_variables"},
    "tensorflow": {"_cell_checks", "_checkpoint", "_checkpoint_cells", "_checkpoint_files", "_variables", "cell"},
}  # fmt: skip


def test_every_module_is_listed_once():
    """Default deny: a new module must say what it imports, and a module that is gone leaves the lists."""
    assert sorted([*ALLOWED, *TOP]) == MODULES


@pytest.mark.parametrize("module", ALLOWED)
def test_downwards_only(module):
    assert GRAPH[module] <= ALLOWED[module] | {"_messages"}


#: Who may import what is not everybody's: the extension, its helpers, and the NumPy twin.
USERS = {
    "_core": ["_blas", "_engine", "_memory", "_threads", "_validation", "c_api", "jax", "stream"],
    "_blas": ["_engine"],
    "_threads": ["_call", "_engine", "_torch_ops", "jax", "stream"],
    "reference": ["_custom_activation", "_cell_run"],
    "_files": ["_weighted"],
    "_npz": ["_files"],
    "_safetensors": ["_files"],
    "layer": [
        *[name for name in MODULES if name.startswith("_interop")],
        "_arrow",
        "_sklearn_base",
        "_training",
        "dask",
        "ray",
        "spark",
        "torch",
    ],
    "cell": ["_bidirectional", "_dynamic_rnn", "tensorflow"],
}


@pytest.mark.parametrize("module", USERS)
def test_users(module):
    assert {user for user, uses in GRAPH.items() if module in uses} <= {*USERS[module], *TOP}


#: C that is no kernel: what the calls of a process share. It may ask the system for more.
SHARED = {
    "team.c": {"pthread.h", "sched.h", "string.h", "sys/syscall.h", "time.h", "unistd.h"},
    "memory.c": {"stdalign.h", "stdlib.h", "sys/mman.h", "unistd.h"},
}


def test_kernels_know_neither_python_nor_openmp():
    """No header of theirs, and of other headers only a handful of C's own."""
    assert len(CSRC) > 8
    for path in CSRC:
        text = path.read_text()
        headers = set(re.findall(r"#\s*include\s*<(.+?)>", text))
        allowed = SHARED.get(path.name, {"stddef.h", "string.h", "xmmintrin.h"}) | {"stdint.h"}
        assert headers <= allowed, path.name
        assert not re.search(r"\b(Py[A-Z_]\w*|npy_\w+|omp_\w+)\b", text), path.name
        assert not re.search(r"#\s*pragma\s+omp\s+(?!simd)", text), path.name


@pytest.mark.parametrize("path", [path for path in CSRC if path.name != "memory.c"], ids=lambda path: path.name)
def test_kernels_allocate_nothing(path):
    assert not re.search(r"\b(malloc|calloc|realloc|alloca|free|printf|abort|exit)\s*\(", path.read_text())


def code_of(path):
    """Without comments and docstrings."""
    return re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.S)


def test_threads_and_blas_live_in_the_core_alone():
    users = {path.name for path in CYTHON if re.search(r"\b(prange|[sd]gemm)\b", code_of(path))}
    included = set(re.findall(r'^include "(.+?)"', (PACKAGE / "_core.pyx").read_text(), re.M))
    assert "_core.pyx" in users
    assert users <= {"_core.pyx"} | included
    assert [path.name for path in PACKAGE.glob("*.pyx")] == ["_core.pyx"]
    assert not re.search(r"\bprange\b", "".join(code_of(PACKAGE / name) for name in included))


def test_each_tier_is_a_few_lines_around_one_body():
    files = [path for path in CSRC if path.name.startswith("kernels_") and path.suffix == ".c"]
    assert len(files) == 3
    for path in files:
        text = path.read_text()
        assert text.count("\n") < 40
        assert '#include "kernel_body.inc.h"' in text
        assert not re.search(r"\b(for|while)\b", text)
