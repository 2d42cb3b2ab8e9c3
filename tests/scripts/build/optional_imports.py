"""Print the optional or heavy packages that `import indygru_cpu` loads: `[]` expected."""

from __future__ import annotations

import sys

import indygru_cpu

OPTIONAL = {"scipy", "matplotlib", "tqdm", "tensorflow", "torch", "pytest", "google_crc32c", "indygru_cpu._tf1.cell"}
assert {"IndyGRU", "IndyGRUCell", "variable_scope"} <= set(dir(indygru_cpu))
print(sorted(OPTIONAL & sys.modules.keys()))
