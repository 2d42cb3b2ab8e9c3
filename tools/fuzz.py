"""Coverage-guided fuzzing of all readers: every input is read, or refused with a documented error.

    pip install -e ".[fuzz]"
    python tools/fuzz.py npz --seconds 600 --corpus build/fuzz/npz

Another error, ten seconds of processor time, or memory beyond four times the file ends the run and leaves the input
in the current folder as `crash-*`. `--keep tests/data/fuzz/npz` runs nothing: it copies the shortest input of the
corpus for each error text, and for inputs that are read, into that folder; tests/build/test_fuzz.py replays them.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

#: Memory of a reader: a multiple of the file, and a constant for buffers such as those of `zipfile`.
MAX_BYTES_PER_BYTE, MAX_EXTRA_BYTES = 4, 1.25 * 2**20
MAX_SECONDS = 10
#: A checkpoint as one input starts with the length of its index, in so many bytes.
_INDEX_SIZE = 2


class Loader(NamedTuple):
    """A function that reads an input, with a folder for files, and one that returns valid inputs."""

    read: Callable[[bytes, Path], object]
    seeds: Callable[[Path], list[bytes]]


def _layer_file(suffix: str) -> Loader:
    def read(data: bytes, folder: Path) -> object:
        from indygru_cpu import IndyGRU

        path = folder / f"layer{suffix}"
        path.write_bytes(data)
        return IndyGRU.load(path)

    def seeds(folder: Path) -> list[bytes]:
        from indygru_cpu import IndyGRU

        path, inputs = folder / f"layer{suffix}", []
        for layer in (IndyGRU(2, 1, bias=False), IndyGRU(2, 4, 2, dtype="float64", groups=2, bidirectional=True)):
            layer.save(path)
            inputs.append(path.read_bytes())
        return inputs

    return Loader(read, seeds)


def _read_checkpoint(data: bytes, folder: Path) -> object:
    from indygru_cpu.tensorflow import load_checkpoint

    index_end = _INDEX_SIZE + int.from_bytes(data[:_INDEX_SIZE], "little")
    (folder / "model.index").write_bytes(data[_INDEX_SIZE:index_end])
    (folder / "model.data-00000-of-00001").write_bytes(data[index_end:])
    return load_checkpoint(folder / "model")


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    from indygru_cpu import IndyGRUCell
    from indygru_cpu.tensorflow import save_checkpoint

    inputs = []
    for dtype in ("float32", "float64"):
        cell = IndyGRUCell(1, name="cell", dtype=dtype)
        cell.build((None, 2))
        save_checkpoint(folder / dtype, cell)
        index, data = ((folder / f"{dtype}.{kind}").read_bytes() for kind in ("index", "data-00000-of-00001"))
        inputs.append(len(index).to_bytes(_INDEX_SIZE, "little") + index + data)
    return inputs


def _read_onnx(data: bytes, folder: Path) -> object:
    import onnx
    from google.protobuf.message import DecodeError

    from indygru_cpu.interop import from_onnx

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:  # raised by the package onnx, not by the reader
        raise ValueError("no protobuf") from None
    return from_onnx(model, reverse=True, project="diagonal")


def _onnx_seeds(folder: Path) -> list[bytes]:
    from indygru_cpu import IndyGRU
    from indygru_cpu.interop import to_onnx

    layers = IndyGRU(2, 1, activation="elu"), IndyGRU(2, 3, 2, bidirectional=True, bias=False, dtype="float64")
    return [to_onnx(layer).SerializeToString() for layer in layers]


LOADERS = {
    "npz": _layer_file(".npz"),
    "safetensors": _layer_file(".safetensors"),
    "checkpoint": Loader(_read_checkpoint, _checkpoint_seeds),
    "onnx": Loader(_read_onnx, _onnx_seeds),
}


def refusal(name: str, data: bytes, folder: Path) -> str | None:
    """Return the error text of a refusal, or None if the loader reads the input. Any other outcome raises.

    Memory is measured if the caller has started `tracemalloc`: once a process, because each start leaks memory. It
    counts if a second reading takes as much, because imports and other threads also allocate memory.
    """
    from indygru_cpu import WeightsError
    from indygru_cpu.tensorflow import CheckpointError

    refusals = {"checkpoint": (CheckpointError,), "onnx": (ValueError, TypeError)}.get(name, (WeightsError,))

    def read() -> tuple[str | None, int]:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        try:
            LOADERS[name].read(data, folder)
            text = None
        except refusals as error:
            text = str(error)
        return text, tracemalloc.get_traced_memory()[1] - before

    start = time.process_time()  # independent of the load of the machine
    text, peak = read()
    if (seconds := time.process_time() - start) > MAX_SECONDS:
        raise TimeoutError(f"{seconds} seconds for {len(data)} bytes")
    # The memory of ONNX's parser is not bounded by this library.
    limit = MAX_BYTES_PER_BYTE * len(data) + MAX_EXTRA_BYTES
    if name != "onnx" and peak > limit and (peak := read()[1]) > limit:
        raise MemoryError(f"{peak} bytes for {len(data)}")
    return text


class _Agrees(int):
    """A checksum that equals every other checksum."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


@contextmanager
def checksums_agree() -> Iterator[None]:
    """Disable the comparison of checksums: an attacker can write valid ones, a fuzzer cannot."""
    modules = ("tensorflow._checkpoint.masked_crc32c", "tensorflow._sstable.masked_crc32c", "_files._checksum")
    with ExitStack() as stack:
        stack.enter_context(mock.patch("zipfile.ZipExtFile._update_crc"))
        for name in modules:
            stack.enter_context(mock.patch(f"indygru_cpu.{name}", return_value=_Agrees()))
        yield


def copy_shortest(name: str, corpus: Path, target: Path, folder: Path) -> None:
    """Copy the shortest input for each error text; texts that differ in numbers or quoted parts count as equal."""
    shortest: dict[str | None, bytes] = {}
    for data in sorted((path.read_bytes() for path in corpus.iterdir()), key=lambda data: (len(data), data)):
        text = refusal(name, data, folder)
        shortest.setdefault(text and re.sub(r"'[^']*'|\"[^\"]*\"|b?\S*\\x\S*|\d+", "_", text), data)
    target.mkdir(parents=True, exist_ok=True)
    for data in shortest.values():
        (target / hashlib.sha1(data).hexdigest()[:12]).write_bytes(data)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loader", choices=LOADERS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, required=True, help="a folder that is read, and added to")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the shortest inputs, and run nothing")
    options = parser.parse_args()
    if options.keep:
        with tempfile.TemporaryDirectory() as folder, checksums_agree():
            copy_shortest(options.loader, options.corpus, options.keep, Path(folder))
        return
    fuzz(options.loader, options.corpus, options.seconds)


def fuzz(name: str, corpus: Path, seconds: int) -> None:
    """Run the fuzzer; it ends the process."""
    import atheris

    with atheris.instrument_imports(include=["indygru_cpu", "zipfile"]):
        import zipfile  # noqa: F401

        import indygru_cpu.interop
        import indygru_cpu.tensorflow  # noqa: F401
        from indygru_cpu import _files  # noqa: F401
    corpus.mkdir(parents=True, exist_ok=True)
    tracemalloc.start()
    with tempfile.TemporaryDirectory() as folder, checksums_agree():
        for number, seed in enumerate(LOADERS[name].seeds(Path(folder))):
            (corpus / f"seed-{number}").write_bytes(seed)
        arguments = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=600", "-rss_limit_mb=2048", str(corpus)]
        atheris.Setup([sys.argv[0], *arguments], lambda data: refusal(name, data, Path(folder)) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
