"""Tests of the core for short runs: they cover every line of `_core` and need few packages.

These are pytest, hypothesis and safetensors. ``python tools/core_tests.py`` prints the paths of the tests.
"""

from __future__ import annotations

NAMES = {
    "engine": [
        "activations", "blas", "golden", "groups", "hostile_arguments", "kernels", "properties", "ragged",
        "ragged_refused", "segments", "step", "threads", "validation", "validation_memory",
    ],
    "files": ["files", "files_written"],
    "layers": [
        "dropout", "layer", "layer_files", "layer_parameters", "layer_refused", "serving", "stacks", "stream",
        "stream_threads",
    ],
    "tf1": ["cell_golden"],
}  # fmt: skip
PATHS = [f"tests/{folder}/test_{name}.py" for folder, names in NAMES.items() for name in names]
NEEDS = ["pytest", "hypothesis", "safetensors"]

if __name__ == "__main__":
    print(*PATHS)
