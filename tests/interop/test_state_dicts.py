"""Recognition of state dicts: every importer refuses those of other libraries and names the importer to use."""

from __future__ import annotations

import re

import numpy as np
import pytest
from foreign_cells import xma_state_dict
from interop_helpers import D, N, random_layer

from indygru_cpu import interop
from indygru_cpu.interop import _state_dicts as state_dicts


def arrays(**shapes):
    """Arrays of ones, by name; a dot of a name is written __."""
    return {name.replace("__", "."): np.ones(shape) for name, shape in shapes.items()}


def torch_weights(planes, end="_l0"):
    return arrays(**{f"weight_ih{end}": (planes * N, D), f"weight_hh{end}": (planes * N, N)})


#: Weights of a module, by the title under which they are recognised, and the importer that takes them.
WEIGHTS = {
    "a torch.nn.GRU": (torch_weights(3), "from_torch"),
    "a torch.nn.LSTM": (torch_weights(4), None),
    "a torch.nn.RNN": (torch_weights(1), None),
    "a torch.nn.GRUCell": (torch_weights(3, ""), None),
    "a torch.nn.LSTMCell": (torch_weights(4, ""), None),
    "a torch.nn.RNNCell": (torch_weights(1, ""), None),
    "an IndyGRU": (dict(random_layer().parameters), None),
    "an IndyGRUCell of TensorFlow": (
        {f"indy_gru_cell/{name}": np.ones(1) for name in
         ("gates/kernel_w", "gates/kernel_u", "gates/bias", "candidate/kernel", "candidate/kernel_u")},
        None,
    ),
    "a ParaGRU of ParaRNN": (interop.to_pararnn(random_layer()), "from_pararnn"),
    "a ParaGRU of pararnn-torch": (
        arrays(a_z=(N,), a_r=(N,), a_n=(N,), W_x__weight=(3 * N, D), W_x__bias=(3 * N,)),
        None,
    ),
    "a GRU of accelerated-model-architectures (XMA)": (xma_state_dict(), "from_xma"),
    "a minGRU of minGRU-pytorch": (
        arrays(to_hidden_and_gate__weight=(2 * N, D), to_hidden_and_gate__bias=(2 * N,)),
        "from_mingru",
    ),
    "a policy of PufferLib": (
        arrays(
            encoder__encoder__weight=(N, D), network__layers__0__weight=(3 * N, N), decoder__decoder__weight=(2, N),
            decoder__value_function__weight=(1, N),
        ),
        None,
    ),
    "a MinGRU of mingru-keras": ([np.ones((D, N)), np.ones(N), np.ones((D, N)), np.ones(N)], "from_mingru"),
    "a Keras GRU": ([np.ones((D, 3 * N)), np.ones((N, 3 * N)), np.zeros((2, 3 * N))], "from_keras"),
    "a Keras LSTM": ([np.ones((D, 4 * N)), np.ones((N, 4 * N)), np.ones(4 * N)], None),
}  # fmt: skip
IMPORTERS = [getattr(interop, name) for name in interop.__all__ if name.startswith("from_")]


def test_weights_of_every_source_are_tested():
    titles = {source.title for source in state_dicts.SOURCES}
    assert WEIGHTS.keys() - titles == {"a Keras GRU", "a Keras LSTM", "a MinGRU of mingru-keras"}
    assert titles - WEIGHTS.keys() == set()
    importers = {source.importer for source in state_dicts.SOURCES}
    assert importers - {None} <= set(interop.__all__)


@pytest.mark.parametrize("title", WEIGHTS)
def test_nearest_recognises_every_source(title):
    weights, importer = WEIGHTS[title]
    source, prefix = state_dicts.nearest(weights)
    assert (source.title, source.importer) == (title, importer)
    assert prefix == ("indy_gru_cell/" if "TensorFlow" in title else "")


@pytest.mark.parametrize("title", [title for title, (weights, _) in WEIGHTS.items() if isinstance(weights, dict)])
def test_nearest_finds_the_prefix_and_tolerates_a_lost_weight_and_other_names(title):
    weights, _ = WEIGHTS[title]
    markers = next(source.names for source in state_dicts.SOURCES if source.title == title)
    # One weight of a recurrent module of torch.nn does not determine the number of its gates: it counts as a GRU's.
    expected = re.sub("LSTM|RNN", "GRU", title) if title.startswith("a torch.nn.") else title
    prefix = f"model.block.{'indy_gru_cell/' if 'TensorFlow' in title else ''}"
    for lost in markers:
        names = [name for name in weights if name != lost and not name.endswith(f"/{lost}")]
        model = {f"model.block.{name}": weights[name] for name in names}
        match = state_dicts.nearest(model | {"head.weight": np.ones((2, 2))})
        if len(markers) == 1:  # no name is left
            assert match is None
        else:
            assert (match.source.title, match.prefix) == (expected, prefix)


@pytest.mark.parametrize(
    ("importer", "title"),
    [(importer, title) for importer in IMPORTERS for title in WEIGHTS if WEIGHTS[title][1] != importer.__name__],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_importer_of_foreign_weights_names_the_nearest_match(importer, title):
    weights, _ = WEIGHTS[title]
    if importer is interop.from_onnx:
        pytest.importorskip("onnx")
    with pytest.raises((TypeError, ValueError)) as raised:
        importer(weights)
    source = state_dicts.nearest(weights).source
    advice = f"use {source.importer}" if source.importer else source.advice
    prefix = " with the prefix 'indy_gru_cell/'" if "TensorFlow" in title else ""
    assert str(raised.value).endswith(f"; this looks like {title}{prefix}: {advice}")


DAMAGES = {
    "integers": lambda array: array.astype(int),
    "half precision": lambda array: array.astype(np.float16),
    "another dtype": lambda array: array.astype(np.float32),
    "complex numbers": lambda array: array.astype(complex),
    "a number": lambda array: 3.0,
    "None": lambda array: None,
    "a str": lambda array: "weights",
    "an axis more": lambda array: array[None],
    "an axis less": lambda array: array[0],
    "a row more": lambda array: np.concatenate([array, array[:1]]),
    "no rows": lambda array: array[:0],
    "no columns": lambda array: array[..., :0],
}


#: What error texts call the arrays of a list, in its order.
KERAS_NAMES = {
    "a Keras GRU": ["kernel_l0", "recurrent_kernel_l0", "bias_l0"],
    "a MinGRU of mingru-keras": ["gate/kernel", "gate/bias", "candidate/kernel", "candidate/bias"],
}
#: Damages that give weights of another GRU: one with more inputs, and one with reset_after=False.
VALID_CHANGES = {("a Keras GRU", 0, "a row more"), ("a Keras GRU", 2, "an axis less")}


@pytest.mark.parametrize(
    ("importer", "title", "key", "damage"),
    [
        (getattr(interop, importer), title, key, damage)
        for title, (weights, importer) in WEIGHTS.items()
        if importer
        for key in (weights if isinstance(weights, dict) else range(len(weights)))
        for damage in DAMAGES
        if (title, key, damage) not in VALID_CHANGES
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_importer_of_a_damaged_array_names_an_array_or_the_nearest_match(importer, title, key, damage):
    """Where two shapes disagree, the text may name the other array."""
    weights, _ = WEIGHTS[title]
    options = {"project": "diagonal"} if importer in (interop.from_torch, interop.from_keras) else {}
    importer(weights, **options)
    damaged = weights.copy()
    damaged[key] = DAMAGES[damage](weights[key])
    names = "|".join(map(re.escape, weights if isinstance(weights, dict) else [*KERAS_NAMES[title], "weights"]))
    with pytest.raises((TypeError, ValueError), match=rf"^({names})(:| has dtype |, )|; this looks like "):
        importer(damaged, **options)


@pytest.mark.parametrize(
    ("importer", "title", "name"),
    [
        (getattr(interop, importer), title, name)
        for title, (weights, importer) in WEIGHTS.items()
        if importer and isinstance(weights, dict)
        for name in weights
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_importer_of_a_renamed_array_names_it(importer, title, name):
    weights = dict(WEIGHTS[title][0])
    weights["renamed"] = weights.pop(name)
    with pytest.raises(ValueError, match=r"^\w+: missing \[.*\], unknown \['renamed'\]"):
        importer(weights)


@pytest.mark.parametrize("planes", [4, 1])
def test_from_torch_of_another_number_of_gates_names_the_shapes(planes):
    text = rf"^weight_ih_l0: expected shape \({3 * N}, {D}\), got \({planes * N}, {D}\); this looks like "
    with pytest.raises(ValueError, match=text):
        interop.from_torch(torch_weights(planes))


def test_from_keras_of_a_layer_of_mingru_keras_names_from_mingru():
    MinGRU = type(
        "MinGRU", (), {"get_weights": lambda self: WEIGHTS["a MinGRU of mingru-keras"][0], "get_config": dict}
    )
    with pytest.raises(TypeError, match=r"expected a GRU, got MinGRU; this looks like a MinGRU .*: use from_mingru$"):
        interop.from_keras(MinGRU())


@pytest.mark.parametrize("importer", [interop.from_torch, interop.from_pararnn, interop.from_xma, interop.from_keras])
def test_importer_of_an_onnx_model_names_from_onnx(importer):
    pytest.importorskip("onnx")
    with pytest.raises(TypeError, match=r"; this looks like an ONNX model: use from_onnx$"):
        importer(interop.to_onnx(random_layer()))


@pytest.mark.parametrize(
    "weights", [{}, {"weight": np.ones(3)}, [], [3], "kernel", None, 7, {3: 4}, [np.ones((2, 2))] * 2]
)
def test_nearest_of_unknown_weights_is_none(weights):
    assert state_dicts.nearest(weights) is None
    assert state_dicts.hint(weights, "from_torch") == ""


def test_hint_of_a_model_with_several_cells_names_that_of_the_importer():
    model = {
        f"{prefix}{name}": array
        for prefix, title in (("a.", "a torch.nn.GRU"), ("b.", "a minGRU of minGRU-pytorch"))
        for name, array in WEIGHTS[title][0].items()
    }
    assert state_dicts.hint(model, "from_torch") == "; prefix='a.' selects a torch.nn.GRU"
    assert state_dicts.hint(model, "from_mingru") == "; prefix='b.' selects a minGRU of minGRU-pytorch"
    with pytest.raises(ValueError, match=r"; prefix='whole\.b\.' selects a minGRU"):
        interop.from_mingru({f"whole.{name}": array for name, array in model.items()}, prefix="whole.")
    assert state_dicts.hint(model, "from_xma").startswith("; this looks like a torch.nn.GRU with the prefix 'a.': ")


def test_hint_is_short_for_names_of_any_length():
    prefix = "block." * 10_000
    text = state_dicts.hint({f"{prefix}{name}": 0 for name in ("A", "B", "b")}, "from_torch")
    assert len(text) < 500
    assert "a ParaGRU of ParaRNN" in text


def test_shapes_that_are_no_tuples_are_ignored():
    class Odd:
        shape = 5

    match = state_dicts.nearest({"weight_ih_l0": Odd(), "weight_hh_l0": Odd()})
    assert match.source.title == "a torch.nn.GRU"
    assert state_dicts.nearest([Odd(), Odd()]) is None


def test_importer_of_a_foreign_module_names_the_nearest_match():
    torch = pytest.importorskip("torch")
    for module, title in [
        (torch.nn.LSTM(3, 5), "LSTM"),
        (torch.nn.GRU(3, 5), "GRU"),
        (torch.nn.GRUCell(3, 5), "GRUCell"),
    ]:
        with pytest.raises(ValueError, match=rf"; this looks like a torch\.nn\.{title}: "):
            interop.from_xma(module)
    with pytest.raises(TypeError, match=re.escape("got LSTM; this looks like a torch.nn.LSTM: it is not a GRU")):
        interop.from_torch(torch.nn.LSTM(3, 5))
