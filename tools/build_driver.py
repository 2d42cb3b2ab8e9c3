"""Build the C driver, which runs the kernels without Python: ``python tools/build_driver.py FOLDER [FLAG...]``.

The program is FOLDER/driver; the compiler is $CC, or cc.
"""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "indygru_cpu" / "_engine" / "csrc"
#: The C dialect of the extension: the default of the compilers, with system functions such as fork and mmap.
STANDARD = ("-std=gnu11", "-pthread")


def run(*command: object, text: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with `text` as standard input and more variables of the environment, and capture its output.

    On failure, exit with that output.
    """
    words = [str(word) for word in command]
    variables = {**os.environ, **environment}
    completed = subprocess.run(words, capture_output=True, text=True, input=text, env=variables)
    if completed.returncode:
        raise SystemExit(f"{shlex.join(words)}: status {completed.returncode}\n{completed.stdout}{completed.stderr}")
    return completed


def compiler() -> list[str]:
    """Return the command of the C compiler: $CC, as for setuptools, or cc."""
    return shlex.split(os.environ.get("CC", "cc"))


def read_setup_flags(name: str) -> list[str]:
    """Return a list of flags that setup.py assigns. It is parsed, because importing it runs the build."""
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return list(ast.literal_eval(statement.value))
    raise SystemExit(f"setup.py: expected an assignment to {name}")


def release_flags() -> list[str]:
    """Return the flags with which setup.py compiles the kernels with this compiler."""
    is_clang = "__clang__" in run(*compiler(), "-E", "-dM", "-x", "c", "-", text="").stdout
    return read_setup_flags("CFLAGS") + ([] if is_clang else read_setup_flags("GCC_CFLAGS"))


def build_driver(folder: Path, *extra: str) -> Path:
    """Build driver.c with the kernels, as position-independent code like the extension.

    ``extra`` follows the flags of the release, for example ``-fsanitize=address,undefined``.
    """
    command = (*compiler(), *STANDARD, *release_flags(), "-fPIC", *extra)
    program = folder / "driver"

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        run(*command, f"-I{CSRC}", "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, [Path(__file__).with_name("driver.c"), *sorted(CSRC.glob("*.c"))]))
    run(*command, *objects, "-o", program, "-lm")
    return program


if __name__ == "__main__":
    print(build_driver(Path(sys.argv[1]), *sys.argv[2:]))
