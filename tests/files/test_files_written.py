"""Writing weight files: reproducible bytes, atomic replacement, permissions, links, suffixes."""

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


def test_same_layer_gives_the_same_bytes(path, run_script):
    written = set()
    for seed in ("1", "2", "3"):
        run_script("files/write_weights.py", path, PYTHONHASHSEED=seed, TZ=f"UTC{seed}")
        written.add(path.read_bytes())
    shuffled = dict(reversed(RICH.items()))
    _files.write(path, shuffled, random_arrays(RICH))
    written.add(path.read_bytes())
    assert len(written) == 1


def test_npz_members_have_a_fixed_date(tmp_path):
    _files.write(tmp_path / "layer.npz", PLAIN, random_arrays(PLAIN))
    with zipfile.ZipFile(tmp_path / "layer.npz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.fixture
def old(path):
    """An existing weight file, beside another file."""
    _files.write(path, PLAIN, random_arrays(PLAIN))
    (path.parent / "other").write_text("other")
    return path


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def fail(*_, **__):
    raise OSError("disk full")


#: Functions that can fail during writing: suffix of the file, module, name.
STEPS = [
    (".npz", np.lib.format, "write_array"), (".npz", _files.npz, "open_reader"),
    (".safetensors", safetensors.numpy, "save"), (".safetensors", _files.safetensors, "open_reader"),
    *[(suffix, atomic.os, name) for suffix in SUFFIXES for name in ("fsync", "replace")],
]  # fmt: skip
STEPS_WITH_OLD_FILE = [(suffix, atomic.os, "chmod") for suffix in SUFFIXES]


def check_failure_changes_nothing(path, module, name, monkeypatch):
    before = contents(path.parent)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(OSError, match="disk full"):
            _files.write(path, RICH, random_arrays(RICH))
    assert contents(path.parent) == before
    _files.write(path, RICH, random_arrays(RICH))
    assert_reads(path, RICH, random_arrays(RICH))


@pytest.mark.parametrize(("path", "module", "name"), STEPS + STEPS_WITH_OLD_FILE, indirect=["path"])
def test_failed_write_leaves_the_old_file(old, module, name, monkeypatch):
    check_failure_changes_nothing(old, module, name, monkeypatch)


@pytest.mark.parametrize(("path", "module", "name"), STEPS, indirect=["path"])
def test_failed_write_without_an_old_file_leaves_no_file(path, module, name, monkeypatch):
    check_failure_changes_nothing(path, module, name, monkeypatch)


def test_write_beyond_the_file_size_limit_leaves_the_old_file(old, run_script):
    """The system limits files to 1000 bytes."""
    before = contents(old.parent)
    assert run_script("files/write_weights_beyond_size_limit.py", old) == "OSError File too large"
    assert contents(old.parent) == before


def test_interrupted_write_leaves_the_old_file(old, monkeypatch):
    before = contents(old.parent)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _files.write(old, RICH, random_arrays(RICH))
    assert contents(old.parent) == before


def test_write_syncs_the_file_before_the_rename_and_the_folder_after_it(path, monkeypatch):
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


def test_write_into_a_folder_that_cannot_be_synced_succeeds(path, monkeypatch):
    monkeypatch.setattr(atomic.os, "open", fail)
    _files.write(path, PLAIN, random_arrays(PLAIN))
    monkeypatch.undo()
    assert_reads(path, PLAIN, random_arrays(PLAIN))


@pytest.mark.parametrize(("mask", "mode"), [(0o027, 0o640), (0o077, 0o600)])
def test_new_file_has_the_permissions_of_the_umask(path, mask, mode):
    before = os.umask(mask)
    try:
        _files.write(path, PLAIN, random_arrays(PLAIN))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_replaced_file_keeps_its_permissions(old):
    old.chmod(0o604)
    _files.write(old, RICH, random_arrays(RICH))
    assert stat.S_IMODE(old.stat().st_mode) == 0o604


def test_write_to_a_symbolic_link_replaces_its_target(old):
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
def test_write_of_a_wrong_configuration_raises_and_leaves_the_old_file(old, change, message):
    before = contents(old.parent)
    with pytest.raises(WeightsError, match=message):
        _files.write(old, PLAIN | change, random_arrays(PLAIN))
    assert contents(old.parent) == before


def test_write_of_more_layers_than_can_be_read_raises_and_leaves_the_old_file(old):
    """Thousands of layers of one unit, whose names take more bytes than their weights."""
    before = contents(old.parent)
    configuration = TINY | {"num_layers": 3000}
    with pytest.raises(WeightsError, match=f"^{old}: (header|directory): expected at most .* bytes in a file of"):
        _files.write(old, configuration, random_arrays(configuration))
    assert contents(old.parent) == before


def test_write_of_object_arrays_raises_and_leaves_the_old_file(old):
    before = contents(old.parent)
    arrays = {name: array.astype(object) for name, array in random_arrays(PLAIN).items()}
    with pytest.raises(WeightsError, match="'kernel_l0': expected dtype float32, got 'object'"):
        _files.write(old, PLAIN, arrays)
    assert contents(old.parent) == before


def test_arrays_changed_during_a_write_are_written_unchanged(path, monkeypatch):
    """As by a thread that trains the layer: the checksum matches the written arrays."""
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


def test_write_to_a_folder_raises(path):
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        _files.write(path, PLAIN, random_arrays(PLAIN))
    assert list(path.parent.iterdir()) == [path]


def test_write_into_a_missing_folder_raises_an_error_that_names_the_path(path):
    path = path.parent / "none" / path.name
    with pytest.raises(FileNotFoundError, match=re.escape(repr(str(path)))):
        _files.write(path, PLAIN, random_arrays(PLAIN))


def test_write_to_a_pipe_raises(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match=f"Expected a regular file.*{path}"):
        _files.write(path, PLAIN, random_arrays(PLAIN))
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("n_bytes", [229, 230, 240, 255])
@pytest.mark.parametrize("character", ["a", "\N{GREEK SMALL LETTER ALPHA}"])
def test_file_name_of_maximum_length_is_written(path, n_bytes, character):
    assert os.pathconf(path.parent, "PC_NAME_MAX") == 255
    n_free = n_bytes - len(path.suffix)
    path = path.with_name("a" * (n_free % len(character.encode())) + character * (n_free // len(character.encode()))
                          + path.suffix)  # fmt: skip
    assert len(os.fsencode(path.name)) == n_bytes
    for configuration in (PLAIN, RICH):
        _files.write(path, configuration, random_arrays(configuration))
        assert_reads(path, configuration, random_arrays(configuration))
    assert list(path.parent.iterdir()) == [path]


def test_write_to_a_read_only_file_raises_as_in_numpy(old):
    """For a user without superuser capabilities, which the script gives up."""
    old.chmod(0o444)
    before = contents(old.parent)
    (old.parent / "elsewhere").mkdir()
    printed = helpers.run_script("files/write_read_only_file.py", old, folder=old.parent / "elsewhere")
    assert printed.splitlines() == ["PermissionError True"] * 2 + [f"['other{old.suffix}']"]
    assert contents(old.parent) == before
    assert stat.S_IMODE(old.stat().st_mode) == 0o444


def test_write_to_a_read_only_file_needs_the_permission_of_open(old):
    """`open` succeeds for the superuser."""
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


def test_killed_writer_leaves_a_temporary_file_of_the_documented_name(old, run_script):
    before = contents(old.parent)
    run_script("files/write_weights_and_die.py", old, status=-signal.SIGKILL)
    after = contents(old.parent)
    (temporary,) = after.keys() - before.keys()
    assert re.fullmatch(r"\.indygru_cpu-[0-9a-f]{16}\.tmp", temporary)
    assert ".indygru_cpu-<16 hexadecimal digits>.tmp" in IndyGRU.save.__doc__
    assert {name: after[name] for name in before} == before
    (old.parent / temporary).unlink()
    _files.write(old, RICH, random_arrays(RICH))
    assert contents(old.parent).keys() == before.keys()


@pytest.mark.parametrize("name", ["layer", "layer.npy", "layer.npz.bak", ".npz", "layer.pt"])
def test_path_of_an_unknown_suffix_raises(tmp_path, name):
    for call in [lambda path: _files.write(path, PLAIN, random_arrays(PLAIN)), _files.read]:
        with pytest.raises(WeightsError, match=r"path: .*ends in \.npz or \.safetensors, got "):
            call(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_missing_safetensors_raises_import_error_that_names_the_extra(tmp_path, monkeypatch):
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


def test_npz_file_needs_no_import_of_safetensors(run_script):
    assert run_script("files/save_npz.py") == "[]"
