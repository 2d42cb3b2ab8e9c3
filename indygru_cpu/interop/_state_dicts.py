"""State dicts of other libraries: selection by prefix, checks of names, and recognition of foreign ones.

Importers call this module to select names and to describe weights that they refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from indygru_cpu._engine.messages import listed, shown


class Source(NamedTuple):
    """A kind of weights that can be recognised.

    `names` are names that all such state dicts have. `planes` is the number of matrices in each weight of torch.nn,
    whose recurrent modules have the same names. Weights of Keras have no names and are recognised by
    their shapes.
    """

    title: str
    importer: str | None
    names: tuple[str, ...] = ()
    planes: int | None = None
    advice: str = "it is not a GRU"


_LAYER, _CELL = ("weight_ih_l0", "weight_hh_l0"), ("weight_ih", "weight_hh")
SOURCES = (
    Source("a torch.nn.GRU", "from_torch", _LAYER, 3),
    Source("a torch.nn.LSTM", None, _LAYER, 4),
    Source("a torch.nn.RNN", None, _LAYER, 1),
    Source("a torch.nn.GRUCell", None, _CELL, 3, advice="add _l0 to its names and use from_torch"),
    Source("a torch.nn.LSTMCell", None, _CELL, 4),
    Source("a torch.nn.RNNCell", None, _CELL, 1),
    Source(
        "an IndyGRU", None, ("kernel_l0", "recurrent_kernel_l0"), advice="use the method load_state_dict of the layer"
    ),
    Source(
        "an IndyGRUCell of TensorFlow",
        None,
        ("gates/kernel_w", "gates/kernel_u", "candidate/kernel", "candidate/kernel_u"),
        advice="use indygru_cpu.tensorflow",
    ),
    Source("a ParaGRU of ParaRNN", "from_pararnn", ("A", "B", "b")),
    Source(
        "a ParaGRU of pararnn-torch",
        None,
        ("a_z", "a_r", "a_n", "W_x.weight", "W_x.bias"),
        advice="use from_pararnn(torch.stack(cell.clipped_a()), cell.W_x.weight.view(3, N, D).permute(2, 0, 1)[None], "
        "cell.W_x.bias.view(3, N))",
    ),
    Source(
        "a GRU of accelerated-model-architectures (XMA)",
        "from_xma",
        ("input_projection.weight", "state_weight", "forget_weight", "reset_weight"),
    ),
    Source("a minGRU of minGRU-pytorch", "from_mingru", ("to_hidden_and_gate.weight",)),
    Source(
        "a policy of PufferLib",
        None,
        ("network.layers.0.weight", "encoder.encoder.weight", "decoder.value_function.weight"),
        advice="give the first two thirds of network.layers.i.weight to from_mingru as to_hidden_and_gate.weight",
    ),
)
_KERAS_MINGRU = Source("a MinGRU of mingru-keras", "from_mingru")
_KERAS_GRU = Source("a Keras GRU", "from_keras")
_KERAS_LSTM = Source("a Keras LSTM", None)
_ONNX_MODEL = Source("an ONNX model", "from_onnx")


class Match(NamedTuple):
    """A recognised source, and the prefix of its names."""

    source: Source
    prefix: str = ""


def nearest(weights: object, importer: str | None = None) -> Match | None:
    """The source that shares the largest part of its names with `weights`, or None if no source shares half.

    Of several in one model, that of the importer is preferred.
    """
    weights = _of_module(weights)
    if isinstance(weights, Mapping):
        return _nearest_by_name({str(name): value for name, value in weights.items()}, importer)
    if type(weights).__name__ == "ModelProto":
        return Match(_ONNX_MODEL)
    if isinstance(weights, Sequence) and not isinstance(weights, str):
        source = _keras_source([_shape(value) for value in weights])
        return Match(source) if source else None
    return None


def hint(weights: object, importer: str, selected: str = "") -> str:
    """The end of an error text of an importer: what the weights look like, or "" if they look like nothing known.

    `selected` is the prefix that the names had.
    """
    match = nearest(weights, importer)
    if match is None:
        return ""
    source, prefix = match.source, match.prefix and selected + match.prefix
    if source.importer == importer:
        return f"; prefix={shown(prefix)} selects {source.title}" if prefix else ""
    advice = f"use {source.importer}" if source.importer else source.advice
    return f"; this looks like {source.title}{f' with the prefix {shown(prefix)}' if prefix else ''}: {advice}"


def select_weights(
    argument: str, value: object, prefix: object, module: str, importer: str, is_module: bool = True
) -> dict[str, Any]:
    """The weights whose names begin with a prefix, by name without it, of a mapping or of a module.

    `argument` and `module` are what the error text calls the value and a module. `is_module` is False for an object
    that is known not to be one.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a str that names of weights begin with, got {type(prefix).__name__}")
    weights = _of_module(value) if is_module else value
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"{argument}: expected a mapping of names or {module}, got {type(value).__name__}" + hint(value, importer)
        )
    names = {str(name): array for name, array in weights.items()}
    return {name.removeprefix(prefix): array for name, array in names.items() if name.startswith(prefix)}


def has_weights_by_name(value: Any) -> bool:
    """Whether the value is a mapping or a module."""
    return isinstance(_of_module(value), Mapping)


def check_no_prefix(prefix: object, weights: str) -> None:
    """Refuse a prefix for `weights`, which have no names."""
    if prefix != "":
        raise ValueError(f"prefix: expected '' for {weights}, got {shown(prefix)}")


def check_names(
    argument: str,
    weights: Mapping[str, Any],
    prefix: str,
    importer: str,
    required: Set[str],
    optional: Set[str] = frozenset(),
) -> None:
    """Refuse weights that lack a required name, have an unknown one, or are those of another module."""
    missing, unknown = sorted(required - weights.keys()), sorted(weights.keys() - required - optional)
    ending = hint(weights, importer, prefix)
    if missing or unknown:
        ending = ending or "; prefix= selects one module of a larger model"
        raise ValueError(f"{argument}: missing {listed(missing)}, unknown {listed(unknown)}{ending}")
    if ending:  # the names are those of several modules of torch.nn, which differ in their shapes
        (source,) = (source for source in SOURCES if source.importer == importer)
        input_shape, (_, n) = (_shape(weights[name]) for name in source.names)
        expected = ((source.planes or 1) * n, *input_shape[1:])
        raise ValueError(f"{source.names[0]}: expected shape {expected}, got {input_shape}{ending}")


def _of_module(source: Any) -> Any:
    """The state dict of a module. Anything else is returned unchanged."""
    return source.state_dict() if callable(getattr(source, "state_dict", None)) else source


def _nearest_by_name(weights: Mapping[str, Any], importer: str | None) -> Match | None:
    best, best_share = None, 0.0
    for source in sorted(SOURCES, key=lambda source: source.importer != importer):
        prefixes = {
            name.removesuffix(end)
            for end in source.names
            for name in weights
            if name == end or name.endswith((f".{end}", f"/{end}"))
        }
        for prefix in sorted(prefixes):
            names = [prefix + end for end in source.names]
            share = sum(name in weights for name in names) / len(names)
            n_planes = source.planes and _n_planes(*(_shape(weights.get(name)) for name in names))
            if share > best_share and n_planes == source.planes:
                best, best_share = Match(source, prefix), share
    return best if best_share >= 0.5 else None


def _n_planes(input_shape: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """The number of matrices in the weights of a recurrent module of torch.nn. Damaged weights count as a GRU's."""
    for planes in (1, 4):
        if len(shape) == 2 and input_shape[:1] == shape[:1] == (planes * shape[1],):
            return planes
    return 3


def _keras_source(shapes: Sequence[tuple[int, ...]]) -> Source | None:
    """The Keras layer that has weights of these shapes.

    A GRU or LSTM begins with a kernel (D, gates N) and a recurrent kernel (N, gates N). A MinGRU has two kernels
    (D, N), each with its bias (N,).
    """
    if len(shapes) == 4 and [len(shape) for shape in shapes] == [2, 1, 2, 1] and shapes[:2] == shapes[2:]:
        return _KERAS_MINGRU if shapes[0][1:] == shapes[1] else None
    if len(shapes) < 2 or len(shapes[1]) != 2:
        return None
    n, columns = shapes[1]
    return {3 * n: _KERAS_GRU, 4 * n: _KERAS_LSTM}.get(columns) if shapes[0][1:] == (columns,) else None


def _shape(value: object) -> tuple[int, ...]:
    shape = getattr(value, "shape", ())
    return shape if isinstance(shape, tuple) else ()
