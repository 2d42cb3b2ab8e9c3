"""A layer as a C header: its weights and a function that runs one step. Such a file is written, never read.

The code of the file is that of ``c_template.h``, which is a C file itself.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu._engine.checks import ACTIVATIONS, count_planes
from indygru_cpu._engine.messages import shown
from indygru_cpu._engine.quantization import checked_format, quantize_int8, round_to_bfloat16
from indygru_cpu._layers.parameters import KINDS, suffixes
from indygru_cpu._typing import Array

#: The longest name. C99 compilers distinguish identifiers by at least 63 characters.
MAX_NAME = 31
#: Keywords of C23 and C++23. Those with capitals begin with an underscore, which no name does.
KEYWORDS = """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class compl
    concept const const_cast consteval constexpr constinit continue co_await co_return co_yield decltype default delete
    do double dynamic_cast else enum explicit export extern false float for friend goto if inline int long mutable
    namespace new noexcept not not_eq nullptr operator or or_eq private protected public register reinterpret_cast
    requires restrict return short signed sizeof static static_assert static_cast struct switch template this
    thread_local throw true try typedef typeid typename typeof typeof_unqual union unsigned using virtual void volatile
    wchar_t while xor xor_eq
    """
#: Words of the template that depend on the dtype of the layer. The limits are those of the kernels' activations.
_DTYPE_WORDS = {
    "float32": {
        "REAL": "float", "BITS": "uint32_t", "SIGN_BIT": "0x80000000u", "EXP_LIMIT": "88.0f",
        "SIGMOID_LIMIT": "88.9f", "TANH_LIMIT": "10.0f",
    },
    "float64": {
        "REAL": "double", "BITS": "uint64_t", "SIGN_BIT": "0x8000000000000000u", "EXP_LIMIT": "709.0",
        "SIGMOID_LIMIT": "709.9", "TANH_LIMIT": "20.0",
    },
}  # fmt: skip


class _Type(NamedTuple):
    """A C type of numbers: its name, the text of a number, and numbers per line of an array."""

    name: str
    text: Callable[[float], str]
    per_line: int


def _decimal(digits: int, suffix: str) -> Callable[[float], str]:
    """Write numbers with so many digits that a compiler reads the same numbers. The locale has no effect."""

    def text(number: float) -> str:
        decimal = f"{number:.{digits}g}"
        return decimal + ("" if "." in decimal or "e" in decimal else ".0") + suffix

    return text


_TYPES = {
    "float32": _Type("float", _decimal(9, "f"), 7),
    "float64": _Type("double", _decimal(17, ""), 4),
    "uint16": _Type("uint16_t", "0x{:04x}".format, 13),
    "int8": _Type("int8_t", str, 22),
}


def encode(configuration: Mapping[str, Any], arrays: Mapping[str, Array], name: str, weights: str | None) -> bytes:
    """The file of a layer, in ASCII. Equal arguments give equal bytes.

    Raises
    ------
    TypeError, ValueError
        A name that is no C identifier, a format that the dtype does not have, a bidirectional layer, weights that the
        format cannot represent.
    """
    _check_name(name)
    weights = checked_format(weights, configuration["dtype"])
    if configuration["bidirectional"]:
        raise ValueError("to_c: the reverse direction needs whole sequences; expected bidirectional=False")
    stored: dict[str, Array] = {}
    for parameter, array in arrays.items():
        stored.update(_stored(parameter, array, weights))
    tables = "\n".join(_table(f"{name}_{part}", array) for part, array in stored.items())
    words = _words(configuration, stored, weights)
    code = _template(_flags(configuration, weights))
    words["CHECKSUM"] = f"0x{zlib.crc32((code + tables + repr(words)).encode()):08x}u"
    before, after = (_completed(part, words, name) for part in code.split("ARRAYS\n"))
    return (before + tables + after).encode("ascii")


def _completed(code: str, words: Mapping[str, str], name: str) -> str:
    """Code of the template with its words replaced and its identifiers renamed."""
    prefixes = {"model": name, "MODEL": name.upper()}
    code = re.sub(r"\b[A-Z][A-Z0-9_]+\b", lambda word: words.get(word[0], word[0]), code)
    return re.sub(r'\b(model|MODEL)(?=[_"])', lambda prefix: prefixes[prefix[0]], code)


def _check_name(name: object) -> None:
    """Refuse a prefix with which identifiers would be invalid, reserved or too long."""
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, got {type(name).__name__}")
    requirement = ""
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
        requirement = "of ASCII letters, digits and underscores, with a letter first"
    elif name in KEYWORDS.split():
        requirement = "other than the keywords of C and C++"
    elif "__" in name or name.endswith("_"):
        requirement = "without __ and without _ at the end, because C++ reserves names with __"
    elif len(name) > MAX_NAME:
        requirement = f"of at most {MAX_NAME} characters"
    if requirement:
        raise ValueError(f"name: expected a C identifier {requirement}, got {shown(name)}: such as 'model'")


def _stored(name: str, array: Array, weights: str) -> dict[str, Array]:
    """The arrays that represent a parameter in the file, by name. Only kernels have the smaller formats.

    Subnormal weights are zeros, as the kernels of the library take them, whatever the mode of the caller's processor.
    """
    is_finite = np.isfinite(array)
    if not is_finite.all():
        raise ValueError(f"{name}: expected finite weights, which C has constants for, got {array[~is_finite][0]}")
    if not name.startswith(KINDS[0]) or weights == array.dtype.name:
        is_subnormal = np.abs(array) < np.finfo(array.dtype).tiny
        return {_array_name(name): np.where(is_subnormal, array * 0, array)}
    if weights == "bfloat16":
        bits = round_to_bfloat16(array, name)
        return {_array_name(name): np.where(bits & 0x7F80, bits, bits & 0x8000)}  # an exponent of 0: subnormal
    integers, scales = quantize_int8(array, name)
    return {_array_name(name): integers, f"{_array_name(name)}_scales": scales}


def _array_name(parameter: str) -> str:
    """The name of a parameter's array after the prefix.

    No name of the file ends in an underscore and another one's name: with ``recurrent_kernel_l0`` and ``kernel_l0``,
    the models ``a`` and ``a_recurrent`` could not be in one program.
    """
    return parameter.replace("recurrent_kernel", "recurrent")


def _table(name: str, array: Array) -> str:
    """The definition of an array."""
    c_type, n = _TYPES[array.dtype.name], _TYPES[array.dtype.name].per_line
    numbers = list(map(c_type.text, array.ravel().tolist()))
    lines = "".join(f"    {', '.join(numbers[start : start + n])},\n" for start in range(0, len(numbers), n))
    return f"static const {c_type.name} {name}[{' * '.join(map(str, array.shape))}] = {{\n{lines}}};\n"


def _flags(configuration: Mapping[str, Any], weights: str) -> dict[str, bool]:
    """The words after ``#if`` in the template."""
    flags = {activation.upper(): activation == configuration["activation"] for activation in ACTIVATIONS}
    return flags | {
        "FLOAT64": weights == "float64", "BFLOAT16": weights == "bfloat16", "INT8": weights == "int8",
        "BIAS": configuration["bias"], "GROUPED": configuration["groups"] > 1,
        "RESET_GATE": configuration["reset_gate"],
    }  # fmt: skip


def _words(configuration: Mapping[str, Any], stored: Mapping[str, Array], weights: str) -> dict[str, str]:
    """The other words of the template, and what replaces them."""
    n_units, n_layers, n_groups = (configuration[name] for name in ("hidden_size", "num_layers", "groups"))
    states = ["h", *(f"h + {k * n_units}" for k in range(1, n_layers))]
    calls = []
    for x, h, (end,) in zip(["x", *states[:-1]], states, suffixes(n_layers, bidirectional=False), strict=True):
        names = [f"kernel{end}", f"kernel{end}_scales", f"recurrent{end}", f"bias{end}"]
        arguments = [f"model_{name}" for name in names if name in stored]
        calls.append(f"model_layer({x}, {h}, {len(stored[names[0]])}, {', '.join(arguments)});")
    real = _DTYPE_WORDS[configuration["dtype"]]["REAL"]
    vectors = ["kernel_scales"] * (weights == "int8") + ["recurrent_kernel"] + ["bias"] * configuration["bias"]
    options = ("input_size", "hidden_size", "num_layers", "bias", "groups", "activation", "reset_gate")
    values = {option: configuration[option] for option in options} | {"weights": weights}
    return _DTYPE_WORDS[configuration["dtype"]] | {
        "WEIGHT": _TYPES[stored["kernel" + suffixes(1, False)[0][0]].dtype.name].name,
        "VECTORS": "\n    " + ", ".join(f"const {real} *{name}" for name in vectors),
        "LAYERS": "\n    ".join(calls),
        "SIZE_OF_INPUT": str(configuration["input_size"]), "SIZE_OF_OUTPUT": str(n_units),
        "N_LAYERS": str(n_layers), "N_GROUPS": str(n_groups),
        "N_PLANES": str(count_planes(configuration["reset_gate"])),
        "OPTIONS": ", ".join(f"{option}={value}" for option, value in values.items()),
        "BYTES": f"{sum(array.nbytes for array in stored.values()):,}",
    }  # fmt: skip


def _template(flags: Mapping[str, bool]) -> str:
    """The code of the template with each ``#if`` of a flag resolved. Other conditions stay."""
    text = files("indygru_cpu").joinpath("_files/c_template.h").read_text(encoding="ascii")
    lines: list[str] = []
    conditions: list[bool | None] = []  # of the enclosing #if; None is a condition that stays
    for line in text.partition("/* begin */\n")[2].splitlines(keepends=True):
        directive, _, word = line.strip().partition(" ")
        if directive in ("#if", "#ifdef", "#ifndef"):
            conditions.append(flags.get(word) if directive == "#if" else None)
        is_resolved = bool(conditions) and conditions[-1] is not None and directive in ("#if", "#else", "#endif")
        if is_resolved and directive == "#else":
            conditions[-1] = not conditions[-1]
        elif not is_resolved and False not in conditions:
            lines.append(line)
        if directive == "#endif":
            conditions.pop()
    return "".join(lines)
