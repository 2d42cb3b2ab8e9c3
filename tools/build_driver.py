"""Builds the C driver, which runs the kernels without Python: ``python tools/build_driver.py FOLDER [FLAG...]``.

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
#: The language of the extension, which is the compiler's own: C and what systems add to it, such as fork and mmap.
STANDARD = ("-std=gnu11", "-pthread")


def run(*command: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command with `text` as its input and return what it printed; its own words are the error."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, input=text)
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def compiler() -> list[str]:
    """Return the command of the C compiler, as setuptools takes it from the environment."""
    return shlex.split(os.environ.get("CC", "cc"))


def flags_of_setup(name: str) -> list[str]:
    """Return a list of flags of setup.py, which cannot be imported without building."""
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return list(ast.literal_eval(statement.value))
    raise SystemExit(f"setup.py: expected an assignment to {name}")


def release_flags() -> list[str]:
    """Return the flags that setup.py gives this compiler for the kernels."""
    is_clang = "__clang__" in run(*compiler(), "-E", "-dM", "-x", "c", "-", text="").stdout
    return flags_of_setup("CFLAGS") + ([] if is_clang else flags_of_setup("GCC_CFLAGS"))


def build_driver(folder: Path, *extra: str) -> Path:
    """Build driver.c with the kernels, as position-independent code like the extension.

    ``extra`` comes after the release's flags, for example ``-fsanitize=address,undefined``.
    """
    command = (*compiler(), *STANDARD, *release_flags(), "-fPIC", *extra)
    program = folder / "driver"

    def compile_one(source: Path) -> Path:
        done = folder / f"{source.stem}.o"
        run(*command, f"-I{CSRC}", "-c", source, "-o", done)
        return done

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, [Path(__file__).with_name("driver.c"), *sorted(CSRC.glob("*.c"))]))
    run(*command, *objects, "-o", program, "-lm")
    return program


if __name__ == "__main__":
    print(build_driver(Path(sys.argv[1]), *sys.argv[2:]))
