"""Imports between modules go downwards only, and each library, header and allocator is used in listed places."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter

import helpers
import pytest

from indygru_cpu._engine import _core

PACKAGE = helpers.ROOT / "indygru_cpu"
CSRC = sorted((PACKAGE / "_engine" / "csrc").glob("*.[ch]"))
CYTHON = [path for ending in ("pyx", "pxd") for path in sorted(PACKAGE.rglob(f"*.{ending}"))]


def name_of(path):
    """The module of a file, dotted, without the package's own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = {*FILES, "_engine._core"}


def imported(module):
    """Modules of the package that a module imports, in whatever form and place."""
    modules = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative imports are not read by this test"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] != "indygru_cpu":
                continue
            longest = [".".join(parts[1:n]) for n in range(len(parts), 1, -1) if ".".join(parts[1:n]) in MODULES]
            modules.update(longest[:1] or ["__init__"])
    return modules - {module}


GRAPH = {module: imported(module) for module in FILES}


def test_imports_are_found_by_the_parser():
    assert {"_engine._core", "_engine.blas", "_engine.environment"} <= GRAPH["_engine"]
    assert "_engine.arguments" in GRAPH["functional"]
    assert "layer" in GRAPH["__init__"]


def test_modules_form_no_cycle():
    """A package's __init__ counts as importing its own modules, never the other way round."""
    graph = {
        module: {name for name in uses if name != "__init__" and not module.startswith(f"{name}.")}
        for module, uses in GRAPH.items()
    }
    order = list(TopologicalSorter(graph).static_order())
    assert (
        order.index("_engine._core") < order.index("_engine") < order.index("_layers.parameters") < order.index("layer")
    )


#: Every module, by folder. Modules of a folder may import each other, and those of the folders below (USES).
FOLDERS = {
    "_engine": [
        "_engine", "_engine.arguments", "_engine.blas", "_engine.checks", "_engine.environment", "_engine.memory",
        "_engine.messages", "_engine.quantization", "_engine.threads",
    ],
    "functional": ["functional"],
    "reference": ["reference"],
    "_files": [
        "_files", "_files.arrays", "_files.atomic", "_files.c_source", "_files.compact", "_files.config", "_files.npz",
        "_files.regular",
        "_files.safetensors",
    ],
    "_layers": [
        "_layers", "_layers.generators", "_layers.options", "_layers.parameters", "_layers.progress",
    ],
    "layer": ["layer", "stream"],
    "c_api": ["c_api"],
    "jax": ["jax"],
    "torch": ["torch", "torch._onnx", "torch._ops"],
    "dask": ["dask", "ray", "spark", "_arrow"],
    "interop": [
        "interop", "interop._activations", "interop._gate_orders", "interop._keras", "interop._mingru",
        "interop._onnx_read", "interop._onnx_write", "interop._pararnn", "interop._state_dicts", "interop._torch",
        "interop._weights", "interop._xma",
    ],
    "sklearn": [
        "sklearn", "sklearn._base", "sklearn._columns", "sklearn._network", "sklearn._partial", "sklearn._pooling",
        "sklearn._sequences", "sklearn._training",
    ],
    "datasets": ["datasets"],
    "_tf1": [
        "_tf1", "_tf1.cell", "_tf1.checks", "_tf1.dynamic_rnn", "_tf1.layer", "_tf1.run", "_tf1.scopes",
        "_tf1.variables", "initializers",
    ],
    "tensorflow": [
        "tensorflow", "tensorflow._bundle", "tensorflow._cells", "tensorflow._checkpoint", "tensorflow._protobuf",
        "tensorflow._sstable",
    ],
    "_cli": ["_cli", "_cli.bench", "_cli.demo", "_cli.demo_model", "_cli.demo_plot", "_cli.info", "__main__"],
    "top": ["__init__", "_version"],
    "_typing": ["_typing"],
}  # fmt: skip
#: The folders that each folder may import. What is in no list is denied.
USES = {
    "_engine": set(),
    "functional": {"_engine"},
    "reference": set(),
    "_files": {"_engine", "_layers"},
    "_layers": {"_engine"},
    "layer": {"_engine", "_files", "_layers"},
    "c_api": {"_engine"},
    "jax": {"_engine"},
    "torch": {"_engine", "_layers", "interop", "layer"},
    "dask": {"_engine", "layer"},
    "interop": {"_engine", "_layers", "layer", "top"},
    "sklearn": {"_engine", "dask", "layer"},
    "datasets": set(),
    "_tf1": {"_engine", "functional", "reference"},
    "tensorflow": {"_engine", "_files", "_tf1"},
    "_cli": {"_engine", "datasets", "reference", "sklearn", "top"},
    "_typing": set(),
    "top": {"_engine", "_files", "_tf1", "c_api", "functional", "layer"},
}
FOLDER_OF = {module: folder for folder, modules in FOLDERS.items() for module in modules}


def test_every_module_is_listed_once():
    assert sorted(module for modules in FOLDERS.values() for module in modules) == sorted(FILES)
    assert FOLDERS.keys() == USES.keys()


@pytest.mark.parametrize("module", FILES)
def test_module_imports_its_folder_and_folders_below_only(module):
    own = FOLDER_OF[module]
    used = {FOLDER_OF.get(name, "_engine") for name in GRAPH[module]} - {own, "_typing"}
    assert used <= USES[own]


def test_every_allowed_import_exists():
    imported = {
        folder: {FOLDER_OF.get(name, "_engine") for module in modules for name in GRAPH[module]} - {folder, "_typing"}
        for folder, modules in FOLDERS.items()
    }
    assert imported == USES


def test_folders_form_no_cycle():
    """The package's __init__ is on top; interop and the command line read only its version."""
    below = {folder: uses - {"top"} for folder, uses in USES.items()}
    list(TopologicalSorter(below).static_order())
    allowed = {"_version", "__init__"}
    assert all(
        {name for name in GRAPH[module] if FOLDER_OF.get(name) == "top"} <= allowed
        for folder in ("interop", "_cli")
        for module in FOLDERS[folder]
    )


#: Modules that only some modules of the folders above may import, and all modules that import them.
USERS = {
    "_engine._core": {
        "_engine", "_engine.arguments", "_engine.blas", "_engine.checks", "_engine.memory", "_engine.threads", "c_api",
        "functional", "jax", "layer", "stream", "torch._ops", "_cli.info",
    },
    "_engine.blas": {"_engine", "_cli.info"},
    "_engine.threads": {"_engine.arguments", "_cli.info", "__init__", "jax", "stream", "torch._ops"},
    "reference": {"_cli.demo", "_cli.demo_model", "_tf1.run"},
    "_files": {"layer"},
    "_files.npz": {"_files"},
    "_files.safetensors": {"_files"},
    "_files.atomic": {"_files", "tensorflow._checkpoint"},
    "_files.regular": {"_files", "tensorflow._checkpoint"},
}  # fmt: skip


@pytest.mark.parametrize("module", USERS)
def test_module_is_imported_by_its_users_only(module):
    assert {user for user, uses in GRAPH.items() if module in uses} == USERS[module]


def test_parameter_names_are_composed_in_one_module():
    """ONNX's own names of a GRU's weights, W_l0 and so on, are not parameter names."""
    composed = re.compile(r"""(?<![WRB])_l\{|["']_reverse["']""")
    assert [module for module, path in FILES.items() if composed.search(path.read_text())] == ["_layers.parameters"]


def test_parts_of_the_layer_are_imported_by_listed_folders():
    """Files and interop use the names and shapes of parameters only."""
    parts = {user: {name for name in uses if name.startswith("_layers.")} for user, uses in GRAPH.items()}
    users = {FOLDER_OF[user] for user, used in parts.items() if used}
    assert users == {"_files", "interop", "layer", "torch"}
    assert all(parts[user] <= {"_layers.parameters"} for user in (*FOLDERS["_files"], *FOLDERS["interop"]))


def test_class_names_of_the_layer_have_one_meaning():
    """The PyTorch module has the name of the layer, because both replace torch.nn.GRU."""
    folders = ("_engine", "_layers", "_typing", "functional", "jax", "layer", "reference", "torch")
    trees = [ast.parse(FILES[module].read_text()) for folder in folders for module in FOLDERS[folder]]
    names = [node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    assert [name for name in names if names.count(name) > 1] == ["IndyGRU", "IndyGRU"]


def test_top_level_has_at_most_16_modules():
    assert len(list(PACKAGE.glob("*.py"))) <= 16


#: The C files of the runtime, and the system headers that each may include beside those of the kernels.
SYSTEM_HEADERS = {
    "dispatch.c": {"cpuid.h", "unistd.h"},
    "fp_state.c": {"xmmintrin.h"},
    "pool.c": {"stdalign.h", "stdlib.h", "sys/mman.h"},
    "target_begin.h": {"immintrin.h"},
    "threads.c": {"pthread.h", "sched.h", "sys/syscall.h", "time.h", "unistd.h"},
}


def test_csrc_includes_listed_headers_and_knows_neither_python_nor_openmp():
    assert len(CSRC) > 8
    for path in CSRC:
        text = path.read_text()
        headers = set(re.findall(r"#\s*include\s*<(.+?)>", text))
        assert headers <= SYSTEM_HEADERS.get(path.name, set()) | {"stddef.h", "stdint.h", "string.h"}, path.name
        assert not re.search(r"\b(Py[A-Z_]\w*|npy_\w+|omp_\w+)\b", text), path.name
        assert not re.search(r"#\s*pragma\s+omp\s+(?!simd)", text), path.name


def test_kernels_do_not_include_the_runtime():
    """Tiers, their body and the step index; `tuning.c` asks for the size of L2."""
    runtime = {"dispatch.c", "fp_state.c", "pool.c", "thread_autotuner.c", "threads.c", "tuning.c"}
    assert {path.name for path in CSRC if '#include "indygru_runtime.h"' in path.read_text()} == runtime


@pytest.mark.parametrize("path", [path for path in CSRC if path.name != "pool.c"], ids=lambda path: path.name)
def test_csrc_allocates_memory_in_the_pool_only(path):
    assert not re.search(r"\b(malloc|calloc|realloc|alloca|free|printf|abort|exit)\s*\(", path.read_text())


def code_of(path):
    """Without comments and docstrings."""
    return re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.S)


#: The Cython modules of the core, and those of the core that each may cimport. What is in no list is denied.
CIMPORTS = {
    "atomics": set(),
    "kernels": set(),
    "runtime": {"kernels"},
    "plan": {"kernels", "runtime"},
    "buffers": {"plan"},
    "dlpack": {"buffers", "kernels", "plan"},
    "schedule": {"atomics", "kernels", "plan", "runtime"},
    "products": {"kernels", "plan", "runtime"},
    "tiles": {"kernels", "plan", "products", "runtime", "schedule"},
    "time_parallel": {"atomics", "kernels", "plan", "runtime", "schedule", "tiles"},
    "passes": {"kernels", "plan", "products", "runtime", "schedule", "tiles", "time_parallel"},
    "capi": {"kernels", "passes", "plan", "schedule"},
    "xla": {"capi", "kernels", "plan"},
    "_core": {
        "atomics",
        "buffers",
        "capi",
        "dlpack",
        "kernels",
        "passes",
        "plan",
        "runtime",
        "schedule",
        "tiles",
        "time_parallel",
        "xla",
    },
}
ENGINE = {path.stem: path for path in CYTHON if path.parent.name == "_engine"}


def test_the_core_is_one_extension_of_listed_cython_modules():
    assert [path.name for path in PACKAGE.rglob("*.pyx")] == ["_core.pyx"]
    assert sorted(ENGINE) == sorted(CIMPORTS)


def test_nothing_is_included_textually():
    assert list(PACKAGE.rglob("*.pxi")) == []
    assert not any(re.search(r"^\s*include\b", code_of(path), re.M) for path in CYTHON)


@pytest.mark.parametrize("module", CIMPORTS)
def test_cython_module_cimports_named_parts_of_listed_modules(module):
    code = code_of(ENGINE[module])
    assert set(re.findall(r"from indygru_cpu\._engine\.(\w+) cimport", code)) == CIMPORTS[module]
    assert not re.search(r"cimport \*", code)


def test_cython_modules_form_no_cycle():
    list(TopologicalSorter(CIMPORTS).static_order())


def names_in(body):
    """Names that a stub's module or class defines."""
    names = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    return names | {node.target.id for node in body if isinstance(node, ast.AnnAssign)}


def test_stub_of_the_core_lists_its_functions():
    """Those that only tests call are in one namespace, `_core.testing`."""
    body = ast.parse((PACKAGE / "_engine" / "_core.pyi").read_text()).body
    classes = {node.name: node.body for node in body if isinstance(node, ast.ClassDef)}
    functions = {name for name, value in vars(_core).items() if "cython" in type(value).__name__ and name[0] != "_"}
    assert vars(_core.testing).keys() == names_in(classes["Testing"])
    assert functions <= names_in(body) <= vars(_core).keys()


@pytest.mark.parametrize(
    ("pattern", "users"), [("prange", {"schedule"}), ("[sd]gemm", {"_core", "products", "runtime"})]
)
def test_threads_and_blas_are_called_in_one_place(pattern, users):
    """`_core` sets the addresses that `runtime` holds; `products` calls them."""
    assert {name for name, path in ENGINE.items() if re.search(rf"\b{pattern}\b", code_of(path))} == users
    assert not re.search(rf"\b{pattern}\(", code_of(ENGINE["_core"]))


def test_tier_files_define_constants_and_include_one_body():
    files = [path for path in CSRC if path.name.startswith("kernels_") and path.suffix == ".c"]
    assert len(files) == 3
    for path in files:
        text = path.read_text()
        assert text.count("\n") <= 10
        assert '#include "kernel_tier.inc.h"' in text
        assert not re.search(r"\b(for|while)\b", text)
