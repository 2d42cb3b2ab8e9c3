"""Writing weight files: the same bytes for the same layer, what a failure leaves, permissions, links, suffixes."""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
import zipfile

import file_checks
import helpers
import numpy as np
import pytest
import safetensors
from file_checks import assert_reads
from weight_files import PLAIN, RICH, SUFFIXES, TINY, random_arrays

from indygru_cpu import IndyGRU, WeightsError, _files
from indygru_cpu._files import atomic

path = file_checks.path


def test_same_layer_same_bytes(path, run_python):
    code = """
        import sys
        from weight_files import RICH, random_arrays
        from indygru_cpu import _files
        _files.write(sys.argv[1], RICH, random_arrays(RICH))
    """
    written = set()
    for seed in ("1", "2", "3"):
        run_python(code, path, PYTHONPATH=os.pathsep.join(sys.path), PYTHONHASHSEED=seed, TZ=f"UTC{seed}")
        written.add(path.read_bytes())
    shuffled = dict(reversed(RICH.items()))
    _files.write(path, shuffled, random_arrays(RICH))
    written.add(path.read_bytes())
    assert len(written) == 1


def test_no_date(tmp_path):
    _files.write(tmp_path / "layer.npz", PLAIN, random_arrays(PLAIN))
    with zipfile.ZipFile(tmp_path / "layer.npz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.fixture
def old(path):
    """A file that is there, beside another one."""
    _files.write(path, PLAIN, random_arrays(PLAIN))
    (path.parent / "other").write_text("other")
    return path


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def fail(*_, **__):
    raise OSError("disk full")


#: Where writing can fail: the file's suffix, whose function it is, and its name.
STEPS = [
    (".npz", np.lib.format, "write_array"), (".npz", _files.npz, "opened"),
    (".safetensors", safetensors.numpy, "save"), (".safetensors", _files.safetensors, "opened"),
    *[(suffix, atomic.os, name) for suffix in SUFFIXES for name in ("fsync", "replace")],
]  # fmt: skip
WITH_OLD_FILE = [(suffix, atomic.os, "chmod") for suffix in SUFFIXES]


def check_that_failure_changes_nothing(path, where, what, monkeypatch):
    before = contents(path.parent)
    with monkeypatch.context() as patch:
        patch.setattr(where, what, fail)
        with pytest.raises(OSError, match="disk full"):
            _files.write(path, RICH, random_arrays(RICH))
    assert contents(path.parent) == before
    _files.write(path, RICH, random_arrays(RICH))
    assert_reads(path, RICH, random_arrays(RICH))


@pytest.mark.parametrize(("path", "where", "what"), STEPS + WITH_OLD_FILE, indirect=["path"])
def test_a_failure_leaves_the_old_file(old, where, what, monkeypatch):
    check_that_failure_changes_nothing(old, where, what, monkeypatch)


@pytest.mark.parametrize(("path", "where", "what"), STEPS, indirect=["path"])
def test_a_failure_leaves_no_file(path, where, what, monkeypatch):
    check_that_failure_changes_nothing(path, where, what, monkeypatch)


def test_a_disk_that_is_full(old, run_python):
    """The real thing: the system lets no file grow past 1000 bytes, in the midst of writing."""
    before = contents(old.parent)
    code = """
        import resource, sys
        from weight_files import RICH, random_arrays
        from indygru_cpu import _files
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            _files.write(sys.argv[1], RICH, random_arrays(RICH))
        except OSError as error:
            print(type(error).__name__, error.strerror)
    """
    assert run_python(code, old, PYTHONPATH=os.pathsep.join(sys.path)) == "OSError File too large"
    assert contents(old.parent) == before


def test_an_interrupt_leaves_the_old_file(old, monkeypatch):
    before = contents(old.parent)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _files.write(old, RICH, random_arrays(RICH))
    assert contents(old.parent) == before


def test_the_order_of_things(path, monkeypatch):
    """The bytes are on disk before they have the name, and then the name is."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append(("fsync folder" if is_folder else "fsync file", path.exists(), os.fstat(descriptor).st_size > 0))
        fsync(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", recorded_fsync)
    monkeypatch.setattr(atomic.os, "replace", lambda *names: calls.append("replace") or replace(*names))
    _files.write(path, PLAIN, random_arrays(PLAIN))
    assert calls == [("fsync file", False, True), "replace", ("fsync folder", True, True)]


def test_a_folder_that_cannot_be_synced(path, monkeypatch):
    """The file is in place and complete all the same."""
    monkeypatch.setattr(atomic.os, "open", fail)
    _files.write(path, PLAIN, random_arrays(PLAIN))
    monkeypatch.undo()
    assert_reads(path, PLAIN, random_arrays(PLAIN))


@pytest.mark.parametrize(("mask", "mode"), [(0o027, 0o640), (0o077, 0o600)])
def test_permissions_follow_the_umask(path, mask, mode):
    before = os.umask(mask)
    try:
        _files.write(path, PLAIN, random_arrays(PLAIN))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_permissions_stay(old):
    old.chmod(0o604)
    _files.write(old, RICH, random_arrays(RICH))
    assert stat.S_IMODE(old.stat().st_mode) == 0o604


def test_a_link_stays(old):
    folder = old.parent / "folder"
    folder.mkdir()
    target = old.rename(folder / old.name)
    old.symlink_to(os.path.join("folder", old.name))
    _files.write(old, RICH, random_arrays(RICH))
    assert old.is_symlink()
    assert not target.is_symlink()
    assert_reads(target, RICH, random_arrays(RICH))
    assert list(folder.iterdir()) == [target]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"hidden_size": 8}, r"'kernel_l0': expected shape \(9, 24\), got \(9, 21\)"),
     ({"bias": False}, r"unknown arrays \['bias_l0'\]"),
     ({"dtype": "float64"}, "'kernel_l0': expected dtype float64, got 'float32'"),
     ({"activation": "gelu"}, "activation: expected one of"), ({"num_threads": 2}, r"unknown \['num_threads'\]")],
)  # fmt: skip
def test_nothing_is_written_that_cannot_be_read(old, change, message):
    before = contents(old.parent)
    with pytest.raises(WeightsError, match=message):
        _files.write(old, PLAIN | change, random_arrays(PLAIN))
    assert contents(old.parent) == before


def test_more_layers_than_are_read_are_not_written(old):
    """Thousands of layers of one unit, whose names take up more than their numbers."""
    before = contents(old.parent)
    configuration = TINY | {"num_layers": 3000}
    with pytest.raises(WeightsError, match=f"{old}: a (header|directory) of .* bytes in a file of"):
        _files.write(old, configuration, random_arrays(configuration))
    assert contents(old.parent) == before


def test_object_arrays_are_not_written(old):
    before = contents(old.parent)
    arrays = {name: array.astype(object) for name, array in random_arrays(PLAIN).items()}
    with pytest.raises(WeightsError, match="'kernel_l0': expected dtype float32, got 'object'"):
        _files.write(old, PLAIN, arrays)
    assert contents(old.parent) == before


def test_arrays_that_change_meanwhile_are_written_as_they_were(path, monkeypatch):
    """By another thread that trains the layer: the checksum is of what is written."""
    arrays = random_arrays(PLAIN)
    encode = _files.config.encode

    def change(*arguments):
        for array in arrays.values():
            array += 1
        return encode(*arguments)

    monkeypatch.setattr(_files.config, "encode", change)
    _files.write(path, PLAIN, arrays)
    monkeypatch.undo()
    assert_reads(path, PLAIN, random_arrays(PLAIN))


def test_path_with_zero_bytes_raises_value_error(path):
    for call in (lambda name: _files.write(name, PLAIN, random_arrays(PLAIN)), _files.read):
        with pytest.raises(ValueError, match="path: expected a name without zero bytes"):
            call(f"a\0{path.name}")


def test_a_folder_is_not_replaced(path):
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        _files.write(path, PLAIN, random_arrays(PLAIN))
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_not_there(path):
    path = path.parent / "none" / path.name
    with pytest.raises(FileNotFoundError, match=re.escape(repr(str(path)))):
        _files.write(path, PLAIN, random_arrays(PLAIN))


def test_a_pipe_is_not_replaced(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match=f"Expected a regular file.*{path}"):
        _files.write(path, PLAIN, random_arrays(PLAIN))
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("n_bytes", [229, 230, 240, 255])
@pytest.mark.parametrize("character", ["a", "\N{GREEK SMALL LETTER ALPHA}"])
def test_names_as_long_as_the_file_system_allows(path, n_bytes, character):
    assert os.pathconf(path.parent, "PC_NAME_MAX") == 255
    n_free = n_bytes - len(path.suffix)
    path = path.with_name("a" * (n_free % len(character.encode())) + character * (n_free // len(character.encode()))
                          + path.suffix)  # fmt: skip
    assert len(os.fsencode(path.name)) == n_bytes
    for configuration in (PLAIN, RICH):
        _files.write(path, configuration, random_arrays(configuration))
        assert_reads(path, configuration, random_arrays(configuration))
    assert list(path.parent.iterdir()) == [path]


def test_a_read_only_file_is_refused_as_by_numpy(old):
    """By a user without special rights, which the superuser becomes here."""
    old.chmod(0o444)
    before = contents(old.parent)
    code = """
        import os, sys
        import helpers
        import numpy as np
        from weight_files import RICH, random_arrays
        from indygru_cpu import _files

        helpers.give_up_capabilities()
        path = sys.argv[1]
        for write in (lambda: np.ones(3).tofile(path), lambda: _files.write(path, RICH, random_arrays(RICH))):
            try:
                print("written", write())
            except OSError as error:
                print(type(error).__name__, error.filename == path)
        _files.write("other" + os.path.splitext(path)[1], RICH, random_arrays(RICH))
        print(os.listdir())
    """
    (old.parent / "elsewhere").mkdir()
    printed = helpers.run_python(code, old, folder=old.parent / "elsewhere", PYTHONPATH=os.pathsep.join(sys.path))
    assert printed.splitlines() == ["PermissionError True"] * 2 + [f"['other{old.suffix}']"]
    assert contents(old.parent) == before
    assert stat.S_IMODE(old.stat().st_mode) == 0o444


def test_a_read_only_file_is_replaced_by_whoever_may_open_it(old):
    """As by `open`: the superuser may."""
    old.chmod(0o444)
    try:
        old.open("r+b").close()
    except PermissionError:
        with pytest.raises(PermissionError):
            _files.write(old, RICH, random_arrays(RICH))
    else:
        _files.write(old, RICH, random_arrays(RICH))
        assert_reads(old, RICH, random_arrays(RICH))
    assert stat.S_IMODE(old.stat().st_mode) == 0o444


def test_a_killed_writer_leaves_one_file_of_the_documented_name(old, run_python):
    before = contents(old.parent)
    code = """
        import os, signal, sys
        from weight_files import RICH, random_arrays
        from indygru_cpu._files import atomic
        from indygru_cpu import _files
        atomic.os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
        _files.write(sys.argv[1], RICH, random_arrays(RICH))
    """
    run_python(code, old, status=-signal.SIGKILL, PYTHONPATH=os.pathsep.join(sys.path))
    after = contents(old.parent)
    (left,) = after.keys() - before.keys()
    assert re.fullmatch(r"\.indygru_cpu-[0-9a-f]{16}\.tmp", left)
    assert ".indygru_cpu-<16 hexadecimal digits>.tmp" in IndyGRU.save.__doc__
    assert {name: after[name] for name in before} == before
    (old.parent / left).unlink()
    _files.write(old, RICH, random_arrays(RICH))
    assert contents(old.parent).keys() == before.keys()


@pytest.mark.parametrize("name", ["layer", "layer.npy", "layer.npz.bak", ".npz", "layer.pt"])
def test_suffixes(tmp_path, name):
    for call in [lambda path: _files.write(path, PLAIN, random_arrays(PLAIN)), _files.read]:
        with pytest.raises(WeightsError, match=r"path: .*ends in \.npz or \.safetensors, got "):
            call(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_missing_package_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "layer.safetensors"
    _files.write(path, PLAIN, random_arrays(PLAIN))
    before = contents(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in [lambda: _files.write(path, RICH, random_arrays(RICH)), lambda: _files.read(path)]:
        with pytest.raises(ImportError, match=r'pip install "indygru_cpu\[safetensors\]"'):
            call()
    assert contents(tmp_path) == before
    _files.write(tmp_path / "layer.npz", PLAIN, random_arrays(PLAIN))
    assert_reads(tmp_path / "layer.npz", PLAIN, random_arrays(PLAIN))


def test_npz_imports_no_extra(tmp_path, run_python):
    code = """
        import sys
        from indygru_cpu import IndyGRU
        IndyGRU(9, 7, seed=0).save("layer.npz")
        IndyGRU.load("layer.npz")
        print([name for name in sys.modules if name.startswith("safetensors")])
    """
    assert run_python(code, PYTHONPATH=os.pathsep.join(sys.path)) == "[]"
