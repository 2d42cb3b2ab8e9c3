"""The tests of the core, for runs that must be short: they run every line of `_core`, and need no foreign library.

Beside pytest and hypothesis they need safetensors. ``python tools/core_tests.py`` prints their paths.
"""

from __future__ import annotations

NAMES = [
    "activations", "blas", "cell_golden", "dropout", "files", "files_written", "golden", "groups", "hostile_arguments",
    "kernels", "layer", "layer_files", "layer_parameters", "layer_refused", "properties", "ragged", "ragged_refused",
    "segments", "serving", "stacks", "step", "stream", "stream_threads", "threads", "validation", "validation_memory",
]  # fmt: skip
PATHS = [f"tests/test_{name}.py" for name in NAMES]
NEEDS = ["pytest", "hypothesis", "safetensors"]

if __name__ == "__main__":
    print(*PATHS)
