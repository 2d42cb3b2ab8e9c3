"""What fuzzing has found, replayed: whoever reads the bytes of others reads or refuses them, in bounded memory."""

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
def _memory_is_watched():
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


def test_seeds_are_read(loader, tmp_path):
    """Else all that fuzzing would show is that garbage is refused."""
    seeds = fuzz.LOADERS[loader].seeds(tmp_path)
    assert len(seeds) > 1
    for seed in seeds:
        assert fuzz.refusal(loader, seed, tmp_path) is None
        assert fuzz.refusal(loader, seed[: len(seed) // 2], tmp_path)


def test_corpus(loader, tmp_path):
    """With checksums as they are, and as one who writes them anew would have them: then more is read."""
    as_it_is = replay(loader, tmp_path)
    with fuzz.checksums_agree():
        agreed = replay(loader, tmp_path)
    assert len(set(agreed.values())) > 7
    assert None in agreed.values()
    assert all(agreed[name] is None for name, text in as_it_is.items() if text is None)


def test_other_errors_and_memory_are_findings(monkeypatch, tmp_path):
    """The harness itself."""

    def broken(data, folder):
        raise IndexError("a bug")

    def hungry(data, folder):
        return bytearray(10**7)

    for read, error in ((broken, IndexError), (hungry, MemoryError)):
        monkeypatch.setitem(fuzz.LOADERS, "npz", fuzz.Loader(read, lambda folder: []))
        with pytest.raises(error):
            fuzz.refusal("npz", b"", tmp_path)
