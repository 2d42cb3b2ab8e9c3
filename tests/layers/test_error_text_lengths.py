"""No error text of any entry point exceeds 2,000 characters, however long the values are that it shows."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from weight_files import PLAIN, craft, random_arrays, text_of

from indygru_cpu import (
    IndyGRU,
    IndyGRUCell,
    StreamPool,
    bidirectional_dynamic_rnn,
    dynamic_rnn,
    functional,
    initializers,
    reset_default_scope,
    reverse_sequence,
    variable_scope,
)
from indygru_cpu._engine.messages import listed, quoted_path, shortened, shown, shown_path
from indygru_cpu._files.arrays import WeightsError
from indygru_cpu._files.config import checked
from indygru_cpu.stream import Stream

#: Every refusal has the same text whether or not compiled code could read the other arguments itself.
pytestmark = pytest.mark.usefixtures("both_ways")

MAX_TEXT = 2000
LONG = "n" * 10_000
HUGE = 10**5000  # too many digits for str()
FIELDS = np.dtype([(f"field_{i}", np.float32) for i in range(1000)])
RECORDS = np.zeros((2, 3), FIELDS)
DEEP = IndyGRU(1, 1, num_layers=300)


def forward(**changes):
    case = {"x": np.zeros((2, 3, 4), "f4"), "h0": np.zeros((3, 5), "f4"), "kernel": np.zeros((4, 15), "f4"),
            "recurrent_kernel": np.zeros(15, "f4"), "bias": None}  # fmt: skip
    return functional.forward(**case | changes)


class LongRefusal:
    def __array__(self, *_, **__):
        raise ValueError(LONG)


class RefusedCell:
    def __repr__(self):
        return LONG


class OtherCell(RefusedCell):
    output_size = state_size = 2

    def zero_state(self, batch_size, dtype):
        raise NotImplementedError

    def __call__(self, inputs, state):
        raise NotImplementedError


class NamedBytes(io.BytesIO):
    name = LONG


def load(tmp_path, name, text, arrays=None):
    path = craft(tmp_path / name, text, random_arrays(PLAIN) if arrays is None else arrays)
    return IndyGRU.load(path)


def load_zip(tmp_path, members):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return IndyGRU.load(tmp_path / "a.npz")


def load_header(tmp_path, entry):
    header = json.dumps({"__metadata__": {"configuration": text_of(PLAIN)}, LONG: entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return IndyGRU.load(tmp_path / "a.safetensors")


def in_scope(name):
    with variable_scope(name):
        pass


def reset_inside(name):
    with variable_scope(name):
        reset_default_scope()


def left_too_early(name):
    outer = variable_scope("outer")
    with outer, variable_scope(name):
        outer.__exit__()


def built(cell):
    cell.build((None, 3))
    return cell


def shared_twice():
    with variable_scope("s" * 5000):
        first = built(IndyGRUCell(2, name="c"))
        built(IndyGRUCell(3, name="c", reuse=True))
    return first


def interop(name, *arguments, needs="indygru_cpu", **options):
    def call(_):
        pytest.importorskip(needs, reason=f"{needs} is not installed: the extra `interop` brings it")
        import indygru_cpu.interop as module

        return getattr(module, name)(*arguments, **options)

    return call


def onnx_model(change):
    def call(_):
        onnx = pytest.importorskip("onnx", reason="onnx is not installed: the extra `interop` brings it")
        from indygru_cpu.interop import from_onnx, to_onnx

        model = to_onnx(IndyGRU(2, 3, activation="relu"))
        change(onnx, model, next(node for node in model.graph.node if node.op_type == "GRU"))
        return from_onnx(model)

    return call


def set_activations(onnx, _, node):
    names = next(attribute for attribute in node.attribute if attribute.name == "activations")
    names.strings[:] = [LONG.encode()] * 1000


def set_direction(onnx, _, node):
    node.attribute.append(onnx.helper.make_attribute("direction", LONG))


def set_name(onnx, model, node):
    node.name = LONG
    del model.graph.initializer[:]


def ray_table(column, output):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra `spark` brings it")
    pytest.importorskip("ray.data", reason="ray is not installed: the extra `ray` brings it")
    from indygru_cpu._arrow import LayerRunner
    from indygru_cpu.ray import Actor

    return Actor(LayerRunner(IndyGRU(1, 1), False, 1), column, output)(
        pa.table({f"{LONG}{i}": [1] for i in range(100)})
    )


def torch_module(**options):
    pytest.importorskip("torch", reason="torch is not installed: the extra `torch` brings it")
    from indygru_cpu.torch import IndyGRU as Module

    return Module(2, 2, **options)


def torch_run(input):
    torch = pytest.importorskip("torch", reason="torch is not installed: the extra `torch` brings it")
    return torch_module()(input(torch))


def packed(torch):
    sizes = torch.ones(1, dtype=torch.int64)
    return torch.nn.utils.rnn.PackedSequence(torch.zeros(1, 2), sizes, RefusedCell(), RefusedCell())


def jax_call(params):
    pytest.importorskip("jax", reason="jax is not installed: the extra `jax` brings it")
    from indygru_cpu.jax import indygru

    return indygru(np.zeros((2, 1, 3), "f4"), params)


def fitted_regressor(**options):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: the extra `sklearn` brings it")
    from indygru_cpu.sklearn import IndyGRURegressor

    return IndyGRURegressor(**options).fit(np.zeros((9, 2, 1), "f4"), np.zeros(9))


#: An entry point, what its text must name, and the call, whose argument is a folder.
CASES = {
    "functional, activation": ("activation", lambda _: forward(activation=LONG)),
    "functional, groups": ("groups", lambda _: forward(groups=HUGE)),
    "functional, num_threads": ("num_threads", lambda _: forward(num_threads=-HUGE)),
    "functional, num_threads of text": ("num_threads", lambda _: forward(num_threads=LONG)),
    "functional, dtype": ("x", lambda _: forward(x=RECORDS)),
    "functional, out": ("out", lambda _: forward(out=np.zeros((2, 3, 5), FIELDS))),
    "functional, lengths": ("lengths", lambda _: forward(lengths=np.zeros(3, FIELDS))),
    "functional, shape": ("x", lambda _: forward(x=np.zeros((1,) * 30, "f4"))),
    "functional, foreign error": ("x", lambda _: forward(x=LongRefusal())),
    "functional, tape": ("tape", lambda _: functional.backward(LONG, None)),
    "layer, sizes": ("input_size", lambda _: IndyGRU(HUGE, 2)),
    "layer, small sizes": ("hidden_size", lambda _: IndyGRU(2, -HUGE)),
    "layer, list for a size": ("input_size", lambda _: IndyGRU([1] * 10**5, 2)),
    "layer, dtype": ("dtype", lambda _: IndyGRU(2, 2, dtype=LONG)),
    "layer, dropout": ("dropout", lambda _: IndyGRU(2, 2, dropout=HUGE)),
    "layer, dropout of text": ("dropout", lambda _: IndyGRU(2, 2, dropout=LONG)),
    "layer, missing weights": ("state_dict", lambda _: DEEP.load_state_dict({})),
    "layer, unknown weights": (
        "state_dict",
        lambda _: DEEP.load_state_dict({f"{LONG}{i}": 0 for i in range(100)}),
    ),
    "layer, unknown parameters": ("unknown", lambda _: DEEP.parameters.update({LONG: 0})),
    "layer, unknown parameter": ("parameters", lambda _: DEEP.parameters[LONG]),
    "layer, lengths": ("lengths", lambda _: DEEP(np.zeros((2, 1, 1), "f4"), lengths=np.zeros(1, FIELDS))),
    "layer, option": ("dropout", lambda _: setattr(IndyGRU(2, 2), "dropout", LONG)),
    "layer, option of numbers": ("groups", lambda _: setattr(IndyGRU(2, 2), "groups", [HUGE] * 10**5)),
    "layer, arrays": (
        "parameters",
        lambda _: IndyGRU._with_parameters(checked(PLAIN), {f"{LONG}{i}": 0 for i in range(100)}),
    ),
    "stream, rows": ("rows", lambda _: Stream(IndyGRU(2, 2), 1).reset(LONG)),
    "stream, rows of a push": ("rows", lambda _: Stream(IndyGRU(2, 2), 1).push(np.zeros((1, 2)), LONG)),
    "stream, repeated rows": ("rows", lambda _: Stream(IndyGRU(2, 2), 1).push(np.zeros((1, 2)), [0] * 10**5)),
    "pool, client": ("client", lambda _: StreamPool(IndyGRU(2, 2), 1).remove(LONG)),
    "pool, frame": ("frame", lambda _: StreamPool(IndyGRU(2, 2), 1).push({LONG: HUGE})),
    "pool, frames": ("frames", lambda _: StreamPool(IndyGRU(2, 2), 1).push([LONG])),
    "file, path": ("path", lambda _: IndyGRU(2, 2).save(LONG)),
    "file, zero byte": ("path", lambda _: IndyGRU.load(f"\0{LONG}.npz")),
    "file, unprintable path": ("path", lambda _: IndyGRU.load("\U000e0001" * 10_000)),
    "file, format": ("format", lambda _: IndyGRU.load("a", format=LONG)),
    "file, other format": ("format", lambda _: IndyGRU.load(f"{LONG}.npz", format="safetensors")),
    "file, name of an object": ("path", lambda _: IndyGRU.load(NamedBytes(b"\0" * 99))),
    "file, named object": ("", lambda _: IndyGRU.load(NamedBytes(b"PK\3\4" + b"\0" * 99))),
    "file, long path": ("", lambda _: IndyGRU.load(f"{'d/' * 10_000}a.npz")),
    "file, configuration": ("configuration", lambda tmp: load(tmp, "a.npz", text_of({LONG[:3000]: 1}))),
    "file, value": ("groups", lambda tmp: load(tmp, "a.npz", text_of(PLAIN | {"groups": [1] * 900}))),
    "file, activation": ("activation", lambda tmp: load(tmp, "a.npz", text_of(PLAIN | {"activation": LONG[:3000]}))),
    "file, version": ("format_version", lambda tmp: load(tmp, "a.npz", text_of(PLAIN, format_version=LONG[:3000]))),
    "file, other version": ("newer", lambda tmp: load(tmp, "a.npz", text_of(PLAIN, format_version=10**3000))),
    "file, document": ("unknown", lambda tmp: load(tmp, "a.npz", text_of(PLAIN, **{LONG[:3000]: 1}))),
    "file, checksum": ("crc32", lambda tmp: load(tmp, "a.npz", text_of(PLAIN, crc32=[1] * 900))),
    "file, entries": ("configuration", lambda tmp: load(tmp, "a.npz", text_of(LONG[:3000]))),
    "file, twice": ("twice", lambda tmp: load(tmp, "a.npz", f'{{"{LONG[:1500]}": 1, "{LONG[:1500]}": 2}}')),
    "file, arrays": ("unknown", lambda tmp: load(tmp, "a.npz", text_of(PLAIN), {LONG[:200]: np.zeros(1)})),
    "file, members": ("member", lambda tmp: load_zip(tmp, {LONG: b""})),
    "file, header": ("header", lambda tmp: load_zip(tmp, {"a.npy": b"\x93NUMPY\1\0\0\4" + b"\xff" * 1024})),
    "safetensors, names": ("header", lambda tmp: load_header(tmp, 3)),
    "safetensors, dtype": (
        "",
        lambda tmp: load_header(tmp, {"dtype": LONG, "shape": [1] * 9999, "data_offsets": [0, 8]}),
    ),
    "cell, num_units": ("num_units", lambda _: built(IndyGRUCell(HUGE))),
    "cell, negative num_units": ("num_units", lambda _: built(IndyGRUCell(-HUGE))),
    "cell, num_units of text": ("num_units", lambda _: built(IndyGRUCell(LONG))),
    "cell, activation": ("activation", lambda _: IndyGRUCell(2, activation=LONG)(np.zeros((1, 2)), np.zeros((1, 2)))),
    "cell, name": ("name", lambda _: IndyGRUCell(2, name=[1] * 10**5)),
    "cell, scope name": ("scope", lambda _: built(IndyGRUCell(2, name=f" {LONG}"))),
    "cell, no scope name": ("scope", lambda _: IndyGRUCell(2, name=LONG).scope_name),
    "cell, rank": ("Input 0", lambda _: IndyGRUCell(2, name=LONG)(np.zeros((1, 2, 3, 4)), np.zeros((1, 2)))),
    "cell, reuse": ("reuse", lambda _: IndyGRUCell(2, reuse=LONG)),
    "cell, missing variables": ("does not exist", lambda _: built(IndyGRUCell(2, name=LONG, reuse=True))),
    "cell, shared variables": ("share variable", lambda _: shared_twice()),
    "cell, weights": ("set_weights", lambda _: built(IndyGRUCell(2, name=LONG[:4999])).set_weights([])),
    "cell, count_params": ("count_params", lambda _: IndyGRUCell(2, name=LONG).count_params()),
    "cell, zero_state": ("batch_size", lambda _: IndyGRUCell(2).zero_state(HUGE, "float32")),
    "cell, initial state": ("dtype", lambda _: IndyGRUCell(2).get_initial_state(None, [1] * 10**5)),
    "cell, dtype": ("dtype", lambda _: IndyGRUCell(2, dtype=LONG)),
    "cell, inputs": ("inputs", lambda _: IndyGRUCell(2)(RECORDS, np.zeros((2, 2)))),
    "cell, input shape": ("shape", lambda _: IndyGRUCell(2).build([1, None, *[1] * 10**5])),
    "dynamic_rnn, cell": ("cell", lambda _: dynamic_rnn(RefusedCell(), np.zeros((1, 2, 3)), dtype="f4")),
    "dynamic_rnn, lengths": (
        "sequence_length",
        lambda _: dynamic_rnn(IndyGRUCell(2), np.zeros((1, 2, 3)), np.zeros(1, FIELDS), dtype="f8"),
    ),
    "dynamic_rnn, other cell": ("cell", lambda _: dynamic_rnn(OtherCell(), np.zeros((1, 2, 3)), dtype="f4")),
    "dynamic_rnn, tape": ("tape", lambda _: dynamic_rnn(IndyGRUCell(2), np.zeros((1, 2, 3)), dtype="f4", tape=LONG)),
    "cell, batch sizes": ("batch_size", lambda _: IndyGRUCell(2).zero_state([*[HUGE] * 10**4, None], "float32")),
    "cell, other batch size": (
        "batch_size",
        lambda _: IndyGRUCell(2).get_initial_state(np.zeros((2, 3), "f4"), batch_size=np.zeros(10**5)),
    ),
    "cell, other dtype": ("dtype", lambda _: IndyGRUCell(2).get_initial_state(np.zeros((2, 3), "f4"), dtype=LONG)),
    "reverse_sequence, axis": (
        "seq_axis",
        lambda _: reverse_sequence(np.zeros((2, 3), "f4"), [1, 1], seq_axis=LONG, batch_axis=0),
    ),
    "reverse_sequence, lengths": (
        "seq_lengths",
        lambda _: reverse_sequence(np.zeros((2, 3), "f4"), np.zeros(2, FIELDS), seq_axis=1, batch_axis=0),
    ),
    "bidirectional_dynamic_rnn, cell": (
        "cell_bw",
        lambda _: bidirectional_dynamic_rnn(IndyGRUCell(2), RefusedCell(), np.zeros((1, 2, 3)), dtype="f8"),
    ),
    "scopes, default": ("reset_default_scope", lambda _: reset_inside(LONG)),
    "scopes, order": ("nesting", lambda _: left_too_early(LONG)),
    "scopes, dtype": ("dtype", lambda _: variable_scope("s", dtype=LONG)),
    "scopes, name": ("scope", lambda _: in_scope(f" {LONG}")),
    "scopes, other object": ("name_or_scope", lambda _: in_scope([1] * 10**5)),
    "initializers, name": ("initializer", lambda _: initializers.get(LONG)),
    "initializers, name of a configuration": (
        "initializer",
        lambda _: initializers.get({"class_name": [LONG] * 99, "config": {}}),
    ),
    "initializers, arguments": ("config", lambda _: initializers.get({"class_name": "Zeros", "config": LONG})),
    "initializers, keys": ("config", lambda _: initializers.get({LONG: LONG})),
    "initializers, value": ("value", lambda _: initializers.constant(LONG)((2,), np.float32)),
    "initializers, texts": ("value", lambda _: initializers.constant([LONG] * 99)((2,), np.float32)),
    "initializers, scale": ("scale", lambda _: initializers.variance_scaling(-HUGE)),
    "initializers, mode": ("mode", lambda _: initializers.variance_scaling(mode=LONG)),
    "initializers, distribution": ("distribution", lambda _: initializers.variance_scaling(distribution=LONG)),
    "initializers, object": ("initializer", lambda _: initializers.get([1] * 10**5)),
    "initializers, shape": ("shape", lambda _: initializers.orthogonal()((HUGE,), np.float32)),
    "interop, torch": ("state_dict", interop("from_torch", {f"weight_ih_l{i}": 0 for i in range(3000)})),
    "interop, xma": ("state_dict", interop("from_xma", {f"conv1d.{LONG}{i}": 0 for i in range(3000)})),
    "interop, heads": (
        "input_heads",
        interop(
            "from_xma",
            {"input_projection.weight": np.zeros((3, 2), "f4")}
            | {f"{name}_weight": np.zeros((1, 1, 1), "f4") for name in ("state", "forget", "reset")},
            input_heads=[HUGE] * 3000,
        ),
    ),
    "interop, foreign": ("weights", interop("from_mingru", {f"{LONG}.{name}": 0 for name in ("A", "B", "b")})),
    "interop, options": ("options", interop("from_pararnn", 0, 0, 0, **{LONG: 1})),
    "interop, tolerance": ("tolerance", interop("from_torch", {}, tolerance=-HUGE)),
    "interop, project": ("project", interop("from_torch", {}, project=LONG)),
    "interop, keras": (
        "activation",
        interop("from_keras", [[np.zeros((2, 9), "f4"), np.zeros((3, 9), "f4")]], activation=LONG),
    ),
    "interop, onnx form": ("form", interop("to_onnx", IndyGRU(2, 2), form=LONG, needs="onnx")),
    "interop, onnx activations": ("activations", onnx_model(set_activations)),
    "interop, onnx direction": ("direction", onnx_model(set_direction)),
    "interop, onnx node": ("W, R and B", onnx_model(set_name)),
    "torch, proj_size": ("proj_size", lambda _: torch_module(proj_size=LONG)),
    "torch, dtype": ("dtype", lambda _: torch_module(dtype=LONG)),
    "torch, new value": ("groups", lambda _: setattr(torch_module(), "groups", [LONG] * 99)),
    "torch, shape": ("input", lambda _: torch_run(lambda torch: torch.zeros((1,) * 3000))),
    "torch, indices": ("sorted_indices", lambda _: torch_run(packed)),
    "jax, params": ("params", lambda _: jax_call({f"{LONG}{i}": 0 for i in range(100)})),
    "sklearn, pooling": ("pooling", lambda _: fitted_regressor(pooling=LONG)),
    "sklearn, hidden_size": ("hidden_size", lambda _: fitted_regressor(hidden_size=HUGE)),
    "ray, column": ("column", lambda _: ray_table(LONG, "y")),
    "ray, output": ("output", lambda _: ray_table(f"{LONG}1", f"{LONG}2")),
}


@pytest.mark.parametrize(("named", "call"), CASES.values(), ids=CASES)
def test_error_text_is_bounded_and_names_the_argument(named, call, tmp_path):
    with pytest.raises((ValueError, TypeError, OSError, LookupError, AttributeError, RuntimeError)) as caught:
        call(tmp_path)
    error = caught.value
    is_system_error = isinstance(error, OSError) and error.errno is not None  # it quotes the whole path
    assert is_system_error or len(str(error)) <= MAX_TEXT
    assert named in str(error)


def test_shown_is_the_repr_of_short_values():
    for value in ("a'b", 3, -0.5, None, [1, "x"], {"k": (1,)}, b"\0", np.float32(0.5), 2**200):
        assert shown(value) == repr(value)


@pytest.mark.parametrize("value", [
    LONG, LONG.encode(), HUGE, -HUGE, [LONG] * 99, {LONG: HUGE}, (HUGE,), {LONG}, RefusedCell(), np.zeros(999), RECORDS,
    [[[[[[LONG] * 9] * 9] * 9] * 9] * 9] * 9,
], ids=range(12))  # fmt: skip
def test_shown_and_shortened_are_bounded(value):
    assert len(shown(value)) <= 200
    assert len(shortened(value)) <= 200
    assert len(listed([value] * 1000)) < 650


def test_paths_are_bounded_in_quotes_too():
    for path in (LONG, "\U000e0001" * 300, "\udc80" * 300):
        assert len(shown_path(path)) <= 300
        assert len(quoted_path(path)) <= 300
    assert quoted_path("a/b.npz") == "'a/b.npz'"


def test_weights_error_of_any_text_is_bounded():
    """Its text may come from another library."""
    assert str(WeightsError("short")) == "short"
    assert len(str(WeightsError(LONG))) == MAX_TEXT


def test_shortened_keeps_both_ends():
    assert shortened("start" + LONG + "end", 50).startswith("startnnn")
    assert shortened("start" + LONG + "end", 50).endswith("nnnend")
    assert len(shortened("start" + LONG + "end", 50)) == 50
    assert shortened("x" * 50, 50) == "x" * 50


def test_listed_shows_the_number_of_omitted_items():
    assert listed([]) == "[]"
    assert listed(["a", 1]) == "['a', 1]"
    assert listed(["a" * 90] * 20).endswith(f"'{'a' * 90}' and 15 more]")
    assert listed(["a"], 3) == "['a' and 2 more]"
