"""Reading and writing of checkpoints: prefixes, names, tensors, failures, concurrent writers, permissions."""

from __future__ import annotations

import doctest
import os
import shutil
import stat
import sys
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
from checkpoint_files import PREFIXES, data_file, index_file, random_tensor, read_index, read_tensors

import indygru_cpu.tensorflow._checkpoint as checkpoint
from indygru_cpu.tensorflow import latest_checkpoint
from indygru_cpu.tensorflow._checkpoint import CheckpointError, TensorEntry, read_tensor, write_checkpoint

STRING_DTYPE = np.dtypes.StringDType() if hasattr(np.dtypes, "StringDType") else "S4"


def test_read_wrong_prefix_error_suggests_the_prefix():
    for file in (index_file(PREFIXES[1]), data_file(PREFIXES[1])):
        with pytest.raises(
            FileNotFoundError, match=r"prefix: expected .*, got .*\.index'.*: the prefix is .*model.ckpt-25'$"
        ):
            read_index(file)
    for prefix in (PREFIXES[1].parent, PREFIXES[1].with_name("none.index")):
        with pytest.raises(FileNotFoundError, match=r"prefix: expected .*, got .*\.index'.*: prefixes in .*ckpt-25'$"):
            read_index(prefix)


def test_read_missing_checkpoint_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prefix: expected .*, got .*none\.index'.*: prefixes in .*: none"):
        read_tensors(tmp_path / "none", ["t"])


def test_read_tensor_missing_name_error_suggests_names():
    with pytest.raises(
        CheckpointError, match=r"name: expected one of 6 tensors .*gates/kernel_w'.*, got '.*gates/kernel'"
    ):
        read_tensor(PREFIXES[0], "rnn/indy_gru_cell/gates/kernel")
    with pytest.raises(
        CheckpointError, match=r"name: expected one of 27 tensors in .*, such as \['beta1_power'.*, got '7'"
    ):
        read_tensor(PREFIXES[1], "7")


def test_crc32c_package_missing_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    for call in (
        lambda: read_index(PREFIXES[0]),
        lambda: write_checkpoint(tmp_path / "a", {"t": np.float32(7)}),
    ):
        with pytest.raises(ImportError, match=r'pip install "indygru_cpu\[tensorflow\]"'):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "tensor", "error", "words"),
    [
        ("t", [7.0], TypeError, "expected NumPy arrays, got list for 't'"),
        ("t", 7.0, TypeError, "expected NumPy arrays, got float for 't'"),
        ("t", np.array(["text"]), TypeError, "tensors: expected .*, got <U4 for 't'"),
        ("t", np.array([None]), TypeError, "tensors: expected .*, got object for 't'"),
        ("t", np.array(["text"], STRING_DTYPE), TypeError, "tensors: expected .*, got .* for 't'"),
        pytest.param(
            *("t", np.longdouble(7), TypeError, "tensors: expected .*, got float.* for 't'"),
            marks=pytest.mark.skipif(np.longdouble(0).nbytes == 8, reason="the same as float64 here"),
        ),
        ("t", np.array(["2026"], "M8[Y]"), TypeError, "tensors: expected .*, got datetime64.* for 't'"),
        (7, np.float32(7), TypeError, "expected names of type str, got 7"),
        ("", np.float32(7), ValueError, "tensors: expected names .*, got ''"),
        ("\0t", np.float32(7), ValueError, r"tensors: expected names .*, got .*x00t"),
        ("t\ud800", np.float32(7), ValueError, r"tensors: expected names .*, got .*ud800"),
    ],
)
def test_write_checkpoint_invalid_tensor_raises_and_writes_nothing(name, tensor, error, words, tmp_path):
    with pytest.raises(error, match=words):
        write_checkpoint(tmp_path / "a", {"fine": np.float32(7), name: tensor})
    assert list(tmp_path.iterdir()) == []


def test_write_checkpoint_invalid_prefix_raises_and_writes_nothing(tmp_path):
    tensors = {"t": np.float32(7)}
    with pytest.raises(ValueError, match="tensors: expected at least one"):
        write_checkpoint(tmp_path / "a", {})
    with pytest.raises(ValueError, match=r"prefix: expected .* other than 'checkpoint', got .*checkpoint'"):
        write_checkpoint(tmp_path / "checkpoint", tensors)
    with pytest.raises(ValueError, match=r"prefix: expected .*, got "):
        write_checkpoint(f"{tmp_path}/", tensors)
    with pytest.raises(FileNotFoundError, match=r"prefix: expected a path in an existing directory, got '.*none/a'"):
        write_checkpoint(tmp_path / "none" / "a", tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["sync_and_close", "encode_index"])
def test_write_checkpoint_failure_keeps_the_old_checkpoint(broken, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "a", {"t": random_tensor("float32", (9,))})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, broken, fail)
        with pytest.raises(OSError, match="disk full"):
            write_checkpoint(tmp_path / "a", {"t": random_tensor("float32", (8,))})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_checkpoint(tmp_path / "a", {"t": random_tensor("float32", (8,))})
    assert read_index(tmp_path / "a")["t"].shape == (8,)


def test_write_checkpoint_renames_data_before_index(tmp_path, monkeypatch):
    targets = []
    monkeypatch.setattr(checkpoint.os, "replace", lambda _, target: targets.append(Path(target).name))
    write_checkpoint(tmp_path / "a", {"t": np.float32(7)})
    assert targets == ["a.data-00000-of-00001", "a.index", "checkpoint"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_write_checkpoint_killed_at_any_step_leaves_a_complete_checkpoint(tmp_path, run_script):
    """The value after each exit is the old one up to some step, and the new one afterwards."""
    values = run_script("tensorflow/overwrite_and_die.py", tmp_path / "model.ckpt").split()
    n_old, n_new = values.count("1"), values.count("2")
    assert values == ["1"] * n_old + ["2"] * n_new
    assert n_old >= 6  # two new files, the directory, two renames
    assert n_new >= 3  # removal of the old data, and the state file


@pytest.mark.parametrize("n", range(3))
def test_write_checkpoint_failed_rename_leaves_a_complete_checkpoint(n, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "a", {"t": np.float32(1)})
    replace, remaining = os.replace, n

    def fail(source, target):
        nonlocal remaining
        if not remaining:
            raise OSError("disk full")
        remaining -= 1
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_checkpoint(tmp_path / "a", {"t": np.float32(2)})
    assert read_tensor(tmp_path / "a", "t") == (1 if n < 2 else 2)
    assert all(path.name == "checkpoint" or path.name.startswith("a.") for path in tmp_path.iterdir())
    assert len(list(tmp_path.glob("a.*"))) == (3 if n == 1 else 2)  # 3: new data to which no index refers yet
    write_checkpoint(tmp_path / "a", {"t": np.float32(3)})
    assert read_tensor(tmp_path / "a", "t") == 3
    assert len(list(tmp_path.glob("a.*"))) == 2


def test_write_checkpoint_overwriting_alternates_data_file_names(tmp_path):
    for value in range(4):
        write_checkpoint(tmp_path / "a", {"t": np.float32(value)})
        n = 1 + value % 2
        assert sorted(path.name for path in tmp_path.glob("a.*")) == [f"a.data-00000-of-{n:05d}", "a.index"]
        assert read_tensor(tmp_path / "a", "t") == value


def test_write_checkpoint_overwriting_removes_only_its_old_data_files(tmp_path):
    others = ["a.data-00000-of-00003", "a.data-x-of-00002", "a2.data-00000-of-00002", "b.a.data-00000-of-00002"]
    for path in (helpers.ROOT / "tests" / "data" / "tensorflow").glob("object.ckpt.*"):
        shutil.copy(path, tmp_path / path.name.replace("object.ckpt", "a"))
    for name in others:
        (tmp_path / name).touch()
    write_checkpoint(tmp_path / "a", {"t": np.float32(7)})
    assert {path.name for path in tmp_path.iterdir()} == {"a.data-00000-of-00001", "a.index", "checkpoint", *others}


def test_write_checkpoint_overwriting_a_damaged_checkpoint_succeeds(tmp_path):
    (tmp_path / "a.index").write_bytes(b"damaged")
    write_checkpoint(tmp_path / "a", {"t": np.float32(7)})
    assert read_tensor(tmp_path / "a", "t") == 7


def test_read_tensor_checkpoint_replaced_meanwhile_reads_the_new_one(tmp_path, monkeypatch):
    """If the data file is missing because the index was replaced after it was read, the new checkpoint is read."""
    write_checkpoint(tmp_path / "a", {"t": np.float32(1)})
    entries, values = checkpoint.CheckpointReader.entries, iter([2.0, 3.0])

    def overwritten(self):
        if (value := next(values, None)) is not None:
            write_checkpoint(tmp_path / "a", {"t": np.float32(value)})
        return entries(self)

    monkeypatch.setattr(checkpoint.CheckpointReader, "entries", overwritten)
    assert read_tensor(tmp_path / "a", "t") == 3
    data_file(tmp_path / "a").unlink()
    with pytest.raises(CheckpointError, match=r"data file .* is missing"):
        read_tensor(tmp_path / "a", "t")


def test_write_checkpoint_updates_the_state_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint").write_bytes(
        b'model_checkpoint_path: "b"\nall_model_checkpoint_paths: "/else\\"where/a"\n'
        b'all_model_checkpoint_paths: "b"\nlast_preserved_timestamp: 7.5\nrubbish\n'
    )
    for name in ("c", "b", 'dé"j\\à'):
        write_checkpoint(name, {"t": np.float32(7)})
    assert (tmp_path / "checkpoint").read_bytes().splitlines() == [
        rb'model_checkpoint_path: "d\303\251\042j\134\303\240"',
        rb'all_model_checkpoint_paths: "/else\"where/a"',
        rb'all_model_checkpoint_paths: "c"',
        rb'all_model_checkpoint_paths: "b"',
        rb'all_model_checkpoint_paths: "d\303\251\042j\134\303\240"',
    ]


def contents_and_modes(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mode) for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["a.index", "a.data-00000-of-00001", "checkpoint"])
def test_write_checkpoint_read_only_file_raises_permission_error(name, tmp_path, run_script):
    """For a user without capabilities. The script gives up those of the superuser."""
    write_checkpoint(tmp_path / "a", {"t": np.float32(1)})
    (tmp_path / name).chmod(0o444)
    before = contents_and_modes(tmp_path)
    printed = run_script("tensorflow/overwrite_without_capabilities.py", tmp_path / "a")
    assert printed == f"PermissionError {tmp_path / name}"
    assert contents_and_modes(tmp_path) == before


def test_write_checkpoint_read_only_index_is_replaced_if_it_can_be_opened(tmp_path):
    """Whether the index is replaced depends on whether `open` succeeds, which it does for the superuser."""
    write_checkpoint(tmp_path / "a", {"t": np.float32(1)})
    index = tmp_path / "a.index"
    index.chmod(0o444)
    try:
        index.open("r+b").close()
    except PermissionError:
        with pytest.raises(PermissionError):
            write_checkpoint(tmp_path / "a", {"t": np.float32(2)})
        assert read_tensor(tmp_path / "a", "t") == 1
    else:
        write_checkpoint(tmp_path / "a", {"t": np.float32(2)})
        assert read_tensor(tmp_path / "a", "t") == 2
    assert stat.S_IMODE(index.stat().st_mode) == 0o444


def test_write_checkpoint_keeps_the_permissions(tmp_path):
    write_checkpoint(tmp_path / "a", {"t": np.float32(1)})
    index_file(tmp_path / "a").chmod(0o600)
    write_checkpoint(tmp_path / "a", {"t": np.float32(2)})
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("a.*")} == {0o600}


@pytest.mark.parametrize("name", ["a.index", "a.data-00000-of-00001"])
def test_read_tensor_file_replaced_by_a_pipe_raises(name, tmp_path, monkeypatch):
    """Reading does not wait for a writer of the pipe. The pipe takes the place of the file after `isfile`."""
    write_checkpoint(tmp_path / "a", {"t": np.zeros(0, np.float32), "u": np.float32(1)})
    length = (tmp_path / name).stat().st_size
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    monkeypatch.setattr(checkpoint.os.path, "isfile", lambda _: True)
    monkeypatch.setattr(checkpoint.os.path, "getsize", lambda _: length)
    with pytest.raises(CheckpointError, match=rf"{name}: expected a regular file$"):
        read_tensor(tmp_path / "a", "u")


def test_checkpoint_pipe_instead_of_a_file_raises(tmp_path):
    """A pipe with the name of the prefix, which a V1 checkpoint has, and a pipe named `checkpoint`."""
    os.mkfifo(tmp_path / "a")
    os.mkfifo(tmp_path / "checkpoint")
    with pytest.raises(FileNotFoundError, match=r"prefix: expected .*, got "):
        read_tensor(tmp_path / "a", "t")
    with pytest.raises(CheckpointError, match=r"checkpoint: expected a regular file$"):
        latest_checkpoint(tmp_path)
    with pytest.raises(OSError, match="Expected a regular file"):
        write_checkpoint(tmp_path / "b", {"t": np.float32(1)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "checkpoint"]


def test_tensor_entry_is_immutable():
    entry = read_index(PREFIXES[1])["global_step"]
    assert replace(entry, shard=3) == TensorEntry(np.dtype("int64"), 9, (), 3, 512, 8, entry.crc)
    with pytest.raises(AttributeError):
        entry.shard = 3


def test_checkpoint_examples_run():
    results = doctest.testmod(checkpoint)
    assert results.attempted > 8
    assert results.failed == 0
