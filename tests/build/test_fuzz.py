"""Replay of the fuzzing corpus: every input is read or refused, in bounded memory."""

from __future__ import annotations

import sys
import tracemalloc

import helpers
import pytest

sys.path.insert(0, str(helpers.ROOT / "tools"))
import fuzz

CORPUS = helpers.ROOT / "tests" / "data" / "fuzz"
NEEDS = {"onnx": "onnx", "checkpoint": "google_crc32c", "safetensors": "safetensors"}


@pytest.fixture(autouse=True)
def _traced_memory():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.fixture(params=fuzz.LOADERS)
def loader(request):
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param], reason=f"{NEEDS[request.param]} is not installed")
    return request.param


def replay(name, folder):
    paths = sorted((CORPUS / name).iterdir())
    return {path.name: fuzz.refusal(name, path.read_bytes(), folder) for path in paths}


def test_seeds_are_read_and_their_halves_refused(loader, tmp_path):
    """Fuzzing needs valid inputs to start from."""
    seeds = fuzz.LOADERS[loader].seeds(tmp_path)
    assert len(seeds) > 1
    for seed in seeds:
        assert fuzz.refusal(loader, seed, tmp_path) is None
        assert fuzz.refusal(loader, seed[: len(seed) // 2], tmp_path)


def test_corpus_is_read_or_refused(loader, tmp_path):
    """With checksums and without their comparison: inputs that are read with it are read without it."""
    with_checksums = replay(loader, tmp_path)
    with fuzz.checksums_agree():
        without_checksums = replay(loader, tmp_path)
    assert len(set(without_checksums.values())) > 7
    assert None in without_checksums.values()
    assert all(without_checksums[name] is None for name, text in with_checksums.items() if text is None)


def test_refusal_other_errors_and_excessive_memory_raise(monkeypatch, tmp_path):

    def broken(data, folder):
        raise IndexError("a bug")

    def hungry(data, folder):
        return bytearray(10**7)

    for read, error in ((broken, IndexError), (hungry, MemoryError)):
        monkeypatch.setitem(fuzz.LOADERS, "npz", fuzz.Loader(read, lambda folder: []))
        with pytest.raises(error):
            fuzz.refusal("npz", b"", tmp_path)


def test_refusal_memory_of_the_first_reading_alone_is_not_counted(monkeypatch, tmp_path):
    """An import at the first reading, for example."""
    buffers = [bytearray(10**7).copy]

    def read_once(data, folder):
        return buffers.pop()() if buffers else None

    monkeypatch.setitem(fuzz.LOADERS, "npz", fuzz.Loader(read_once, lambda folder: []))
    assert fuzz.refusal("npz", b"", tmp_path) is None
    assert not buffers
