"""Checkpoints of other savers: renamed, partitioned, averaged, float16, object-based, V1."""

from __future__ import annotations

import shutil

import cells
import helpers
import numpy as np
import pytest
from cells import VARIABLE_NAMES
from checkpoint_files import GOLDEN_CHECKPOINTS, entry_record, write_forged_checkpoint

from indygru_cpu import IndyGRUCell
from indygru_cpu.tensorflow import latest_checkpoint, list_variables, load_checkpoint, load_variable, save_checkpoint
from indygru_cpu.tensorflow._bundle import _decode_signed
from indygru_cpu.tensorflow._checkpoint import write_checkpoint
from indygru_cpu.tensorflow._protobuf import CheckpointError, masked_crc32c, message_field, varint_field

rng = cells.rng
SAVERS_FOLDER = helpers.ROOT / "tests" / "data" / "tensorflow"
STORED_NAMES = {name: f"old/{name.replace('/', '_')}" for name in VARIABLE_NAMES}
#: Name in `expected.npz`, arguments of load_checkpoint, and expected scope.
LOADABLE = [
    ("colon", {}, "rnn/cell"),
    ("colon", {"scope": "rnn/cell"}, "rnn/cell"),
    ("half", {"dtype": "float32"}, "rnn/cell"),
    ("half", {"dtype": np.float64}, "rnn/cell"),
    ("averages", {"moving_averages": True}, "rnn/cell"),
    ("object", {}, "cell"),
    ("object", {"scope": "cell", "dtype": "float64"}, "cell"),
    ("partitioned", {}, "rnn/cell"),
    ("parts", {"scope": "rnn/cell"}, "rnn/cell"),
    ("renamed", {"names": STORED_NAMES}, ""),
    ("renamed", {"names": STORED_NAMES, "scope": "rnn/cell"}, "rnn/cell"),
    ("renamed", {"names": lambda name: name.replace("/", "_")}, "old"),
    ("renamed", {"names": lambda name: name.replace("/", "_") + ":0", "scope": "old"}, "old"),
]


@pytest.fixture(scope="module")
def expected_tensors():
    with np.load(SAVERS_FOLDER / "expected.npz", allow_pickle=False) as file:
        return dict(file)


def prefix_of(name):
    return SAVERS_FOLDER / f"{name}.ckpt"


@pytest.mark.parametrize(("name", "options", "scope"), LOADABLE)
def test_load_checkpoint_every_saver_gives_the_stored_values(name, options, scope, expected_tensors):
    cell = load_checkpoint(prefix_of(name), **options)
    assert (cell.scope_name, cell.state_size) == (scope, 4)
    assert cell.dtype == np.dtype(options.get("dtype", "float32")).name
    for variable in VARIABLE_NAMES:
        values = expected_tensors[f"{name}:{variable}"].astype(cell.dtype)
        np.testing.assert_array_equal(cell.named_variables[variable], values, strict=True)
    assert cell(np.ones((2, 3), cell.dtype), np.zeros((2, 4), cell.dtype))[0].shape == (2, 4)


def test_load_checkpoint_without_moving_averages_gives_the_variables(expected_tensors):
    cell = load_checkpoint(prefix_of("averages"))
    bias = cell.named_variables["gates/bias"]
    assert (bias == 2).all()  # 1, and 1 that the script adds; the average is between both
    assert (expected_tensors["averages:gates/bias"] < 2).all()


@pytest.mark.parametrize(("name", "options", "error", "message"), [
    ("v1", {}, CheckpointError, r"v1\.ckpt: expected a checkpoint of the V2 format, got one of the V1 format"),
    ("half", {}, CheckpointError, r"half\.ckpt: tensor 'rnn/cell/gates/kernel_w': expected .*, got float16"),
    ("renamed", {}, CheckpointError, r"expected an IndyGRUCell, got \['old/candidate_bias'.*names="),
    ("renamed", {"names": {"gates/bias": "b"}}, CheckpointError, r"expected an IndyGRUCell with the names .*'b'"),
    ("colon", {"moving_averages": True}, CheckpointError, "expected the moving averages of an IndyGRUCell, got "),
    ("object", {"scope": "rnn/cell"}, ValueError, r"scope: expected one of .*\['cell'\], got 'rnn/cell'"),
    ("object", {"moving_averages": True}, CheckpointError, "got an object-based checkpoint of "),
    ("colon", {"names": {"kernel": "x"}}, ValueError, r"names: .*'gates/kernel_w'.* got the keys \['kernel'\]"),
    ("colon", {"names": 3}, TypeError, "names: expected a mapping or a function of a name, got int"),
    ("colon", {"names": lambda _: "x"}, ValueError, "names: expected six different names"),
    ("colon", {"names": lambda _: None}, TypeError, "names: expected a name for 'gates/kernel_w', got None"),
    ("colon", {"moving_averages": "yes"}, TypeError, "moving_averages: expected True or False, got 'yes'"),
    ("colon", {"dtype": "float16"}, TypeError, "dtype: expected float32 or float64, got 'float16'"),
    ("colon", {"scope": 7}, TypeError, "scope: expected a string, got 7"),
])  # fmt: skip
def test_load_checkpoint_invalid_arguments_or_files_raise(name, options, error, message):
    with pytest.raises(error, match=message):
        load_checkpoint(prefix_of(name), **options)


def test_load_checkpoint_object_based_without_a_cell_raises(tmp_path):
    graph = np.float32(3)
    write_checkpoint(tmp_path / "a", {"net/w/.ATTRIBUTES/VARIABLE_VALUE": graph, "_CHECKPOINTABLE_OBJECT_GRAPH": graph})
    with pytest.raises(CheckpointError, match=r"expected an IndyGRUCell, got an object-based checkpoint of "):
        load_checkpoint(tmp_path / "a")


def test_load_checkpoint_sharded_v1_raises(tmp_path):
    shutil.copy(prefix_of("v1"), tmp_path / "model.ckpt-00000-of-00002")
    for call in (load_checkpoint, list_variables):
        with pytest.raises(CheckpointError, match=r"model.ckpt-00000-of-00002: expected .*, got one of the V1 format"):
            call(tmp_path / "model.ckpt")


def test_load_checkpoint_values_too_large_for_dtype_raise(tmp_path, rng):
    cell = IndyGRUCell(2, name="wide", dtype="float64")
    cell.build((None, 3))
    cell.variables[3].value[1, 1] = 1e39
    cell.variables[0].value[0, :3] = np.inf, -np.inf, np.nan  # these are the same in float32
    save_checkpoint(tmp_path / "a", cell)
    with pytest.raises(CheckpointError, match=r"tensor 'wide/candidate/kernel': values too large for dtype='float32'"):
        load_checkpoint(tmp_path / "a", dtype="float32")
    cell.variables[3].value[1, 1] = 1e38
    save_checkpoint(tmp_path / "a", cell)
    loaded = load_checkpoint(tmp_path / "a", dtype="float32")
    np.testing.assert_array_equal(loaded.variables[0].value, cell.variables[0].value.astype("float32"))


def variable_values(cell):
    return {variable.name.removesuffix(":0"): variable.value for variable in cell.variables}


def split_into_parts(array, axis, n):
    return {f"part_{i}": part for i, part in enumerate(np.array_split(array, n, axis))}


@pytest.mark.parametrize("axis", [0, 1])
def test_load_checkpoint_parts_are_joined_along_either_axis(axis, tmp_path):
    """The sizes are chosen so that the parts' shapes alone would allow both axes."""
    cell = IndyGRUCell(6, name="enc")
    cell.build((None, 12))
    stored = {}
    for name, value in variable_values(cell).items():
        along = axis if value.ndim == 2 and value.shape[0] > 1 else value.ndim - 1
        stored |= {f"{name}/{part}": values for part, values in split_into_parts(value, along, 2).items()}
    write_checkpoint(tmp_path / "a", stored)
    loaded = load_checkpoint(tmp_path / "a")
    for actual, expected in zip(loaded.variables, cell.variables, strict=True):
        np.testing.assert_array_equal(actual.value, expected.value)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda stored: stored.pop("enc/gates/bias/part_1"), r"'enc/gates/bias': expected parts .*, got \[0, 2\]"),
    (lambda stored: stored.pop("enc/candidate/kernel/part_2"), r"'enc/candidate/kernel': expected float32 of shape"),
    (lambda stored: stored.update({"enc/candidate/bias/part_1": np.zeros((2, 2), "f4")}),
     r"'enc/candidate/bias': expected parts of one shape .*, got \[\(2,\), \(2, 2\)"),
])  # fmt: skip
def test_load_checkpoint_inconsistent_parts_raise(damage, message, tmp_path):
    cell = IndyGRUCell(6, name="enc")
    cell.build((None, 12))
    stored = {
        f"{name}/{part}": values
        for name, value in variable_values(cell).items()
        for part, values in split_into_parts(value, value.ndim - 1, 3).items()
    }
    damage(stored)
    write_checkpoint(tmp_path / "a", stored)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a", "enc")


# --- single variables --------------------------------------------------------------------------------------


def test_load_variable_partitioned_is_joined(expected_tensors):
    wide = load_variable(
        prefix_of("partitioned"), "rnn/wide"
    )  # its slices begin at 100 and 200, which take two bytes in the key
    np.testing.assert_array_equal(wide, expected_tensors["partitioned:wide"], strict=True)
    for name in VARIABLE_NAMES:
        tensor = load_variable(prefix_of("partitioned"), f"rnn/cell/{name}")
        np.testing.assert_array_equal(tensor, expected_tensors[f"partitioned:{name}"], strict=True)


def test_load_variable_accepts_names_with_and_without_suffix(expected_tensors):
    for prefix, name in (("colon", "gates/kernel_w"), ("half", "candidate/bias")):
        for written in (name, f"{name}:0"):
            tensor = load_variable(prefix_of(prefix), f"rnn/cell/{written}")
            np.testing.assert_array_equal(tensor, expected_tensors[f"{prefix}:{name}"], strict=True)


def test_load_variable_invalid_name_raises():
    with pytest.raises(
        CheckpointError, match=r"name: expected one of 6 tensors in .*, such as \['rnn/cell.*, got 'rnn/cell/gates'"
    ):
        load_variable(prefix_of("half"), "rnn/cell/gates")
    with pytest.raises(TypeError, match="name: expected a string, got 7"):
        load_variable(prefix_of("half"), 7)
    with pytest.raises(CheckpointError, match=r"'_CHECKPOINTABLE_OBJECT_GRAPH': expected a type with .*, got string"):
        load_variable(prefix_of("object"), "_CHECKPOINTABLE_OBJECT_GRAPH")


def test_list_variables_equals_tensorflow():
    """The lists are those of `tf.train.list_variables` for these files."""
    assert list_variables(prefix_of("partitioned")) == [
        ("rnn/cell/candidate/bias", [4]), ("rnn/cell/candidate/kernel", [3, 4]),
        ("rnn/cell/candidate/kernel_u", [1, 4]), ("rnn/cell/gates/bias", [8]),
        ("rnn/cell/gates/kernel_u", [1, 8]), ("rnn/cell/gates/kernel_w", [3, 8]),
        ("rnn/wide", [300]),
    ]  # fmt: skip
    assert list_variables(prefix_of("object"))[0] == ("_CHECKPOINTABLE_OBJECT_GRAPH", [])
    assert len(list_variables(prefix_of("object"))) == 21


SLICE_KEY = b"\0t\0\1\1\1"  # variable "t" of rank 1; start and length follow, 0x80 is 0
SLICE = message_field(7, message_field(1, varint_field(2, 2)))


@pytest.mark.parametrize(("whole", "slices", "message"), [
    ({"extra": SLICE * 2}, {b"\x80\x82": (2, 0), b"\x82\x82": (2, 8)}, None),
    ({"extra": SLICE}, {b"\x80\x7f": (4, 0)}, None),  # the whole axis
    ({"extra": SLICE}, {b"\x80\x82": (2, 0), b"\x82\x82": (2, 8)}, "expected entries of 1 slices, got 2"),
    ({"extra": SLICE * 2}, {b"\x80\x82": (2, 0)}, "expected entries of 2 slices, got 1"),
    ({"extra": SLICE * 257}, {b"\x80\x82": (2, 0)}, "expected at most 256 slices, got 257"),
    ({"extra": SLICE * 2}, {b"\x80\x82": (2, 0), b"\x81\x82": (2, 8)}, "its slices overlap"),
    ({"extra": SLICE * 2}, {b"\x80\x82": (2, 0), b"\x82\x82": (2, 4)}, "tensors 't' and 't' overlap at byte 4"),
    ({"extra": SLICE * 2}, {b"\x80\x82": (2, 0), b"\x82\x81": (1, 8)}, "expected slices that cover .*, got 3 elements"),
    ({"extra": SLICE * 2}, {b"\x80\x82": (2, 0), b"\x83\x82": (2, 8)}, "a slice of float32 of shape .2,. does not fit"),
    ({"extra": SLICE, "shape": (4, 1)}, {b"\x80\x84": (4, 0)}, "does not fit into float32 of shape .4, 1."),
    ({"extra": SLICE, "shape": (1 << 40,)}, {b"\x80\x7f": (1 << 40, 0)}, "reach beyond the 64 bytes"),
    ({"extra": SLICE}, {b"\x80\x7e": (4, 0)}, "expected a slice with .*, got 0 and -2"),
    ({"extra": SLICE}, {b"\x80": (4, 0)}, "the key of a slice is truncated"),
    ({"extra": SLICE}, {b"\x80\xe0": (4, 0)}, "the key of a slice is truncated"),
    ({"extra": SLICE}, {b"\x80\x82\x80\x81": (4, 0)}, "expected extents of 1 axes .*, got 2"),
    ({"extra": SLICE, "dtype": 2}, {b"\x80\x7f": (4, 0)}, "a slice of float32 of shape .4,. does not fit into float64"),
])  # fmt: skip
def test_load_variable_forged_slices_are_joined_or_raise(whole, slices, message, tmp_path):
    data = np.arange(16, dtype="f4").tobytes()
    records = {b"t": entry_record(**{"shape": (4,), "size": 0} | whole)}
    for code, (n, offset) in slices.items():
        crc = masked_crc32c(data[offset : offset + 4 * n])
        records[SLICE_KEY + code] = entry_record(shape=(n,), offset=offset, size=4 * n, crc=crc)
    write_forged_checkpoint(tmp_path / "a", records, data)
    if message is None:
        np.testing.assert_array_equal(load_variable(tmp_path / "a", "t"), np.arange(4, dtype="f4"), strict=True)
    else:
        with pytest.raises(CheckpointError, match=message):
            load_variable(tmp_path / "a", "t")


@pytest.mark.parametrize(("code", "value"), [
    (b"\x80", 0), (b"\xbf", 63), (b"\xc0\x40", 64), (b"\xdf\xff", 8191), (b"\xe0\x20\x00", 8192),
    (b"\xff\xa0" + bytes(7), 1 << 61), (b"\xff\xc0" + bytes(7) + b"\7", 7), (b"\x7f", -1),
])  # fmt: skip
def test_decode_signed_decodes_ordered_code(code, value):
    """TensorFlow `core/lib/strings/ordered_code_test.cc`: n bytes hold 7 n - 1 bits after n ones and a zero."""
    assert _decode_signed(b"?" + code + b"?", 1) == (value, 1 + len(code))


# --- folders -----------------------------------------------------------------------------------------------


def test_latest_checkpoint_written_by_tensorflow_is_returned():
    assert latest_checkpoint(SAVERS_FOLDER) == str(prefix_of("parts"))
    assert latest_checkpoint(str(GOLDEN_CHECKPOINTS / "train")) == str(GOLDEN_CHECKPOINTS / "train" / "model.ckpt-25")


def test_latest_checkpoint_returns_the_last_saved(tmp_path):
    cell = IndyGRUCell(2, name="last")
    cell.build((None, 3))
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "none") is None
    for name in ("b-2", "a-1", 'dé"j\\à'):
        save_checkpoint(tmp_path / name, cell)
        assert latest_checkpoint(tmp_path) == str(tmp_path / name)
        assert load_checkpoint(tmp_path).scope_name == "last"
    (tmp_path / 'dé"j\\à.index').unlink()
    assert latest_checkpoint(tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r"prefixes in .*'.*a-1', '.*b-2'"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(("text", "name"), [
    (b'model_checkpoint_path: "b"\n', "b"),
    (b"all_model_checkpoint_paths: 'x'\n  model_checkpoint_path : 'b'\n", "b"),
    (rb'model_checkpoint_path: "\x62"', "b"),
    (rb'model_checkpoint_path: "\142"', "b"),
])  # fmt: skip
def test_latest_checkpoint_reads_text_format(text, name, tmp_path):
    write_checkpoint(tmp_path / name, {"t": np.float32(7)})
    (tmp_path / "latest").write_bytes(text)
    assert latest_checkpoint(tmp_path, "latest") == str(tmp_path / name)


def test_latest_checkpoint_accepts_absolute_path_and_v1(tmp_path):
    shutil.copy(prefix_of("v1"), tmp_path / "old")
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{tmp_path}/old"\n')
    assert latest_checkpoint(tmp_path) == str(tmp_path / "old")
    with pytest.raises(CheckpointError, match="V1 format"):
        load_variable(tmp_path, "t")


def test_latest_checkpoint_damaged_text_raises(tmp_path):
    (tmp_path / "checkpoint").write_bytes(b"model_checkpoint_path: b\n")
    with pytest.raises(CheckpointError, match="checkpoint: expected a line 'model_checkpoint_path: "):
        latest_checkpoint(tmp_path)
