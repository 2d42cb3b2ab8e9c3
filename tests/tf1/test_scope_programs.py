"""Random programs of scopes and cells: the names, the sharing and the errors of TensorFlow 1.14."""

from __future__ import annotations

import json
from types import SimpleNamespace

import helpers
import numpy as np
from scope_programs import Run

import indygru_cpu

DATA = helpers.DATA / "scope_programs.jsonl"
CASES = [json.loads(line) for line in DATA.read_text(encoding="ascii").splitlines()]


def face():
    """Our functions, and what a run needs besides."""
    names = [
        "IndyGRUCell",
        "AUTO_REUSE",
        "variable_scope",
        "get_variable_scope",
        "dynamic_rnn",
        "bidirectional_dynamic_rnn",
    ]
    return SimpleNamespace(
        **{name: getattr(indygru_cpu, name) for name in names},
        key=lambda cell: id(cell.variables[0].value),
        x=np.ones((2, 3), "f4"),
        sequence=np.ones((2, 1, 3), "f4"),
        zeros=lambda n: np.zeros((2, n), "f4"),
        dtype="float32",
    )


def outcome(program):
    indygru_cpu.reset_default_scope(seed=1)
    found = Run(face())(program)
    assert indygru_cpu.get_variable_scope().name == ""
    return found


def test_scope_programs_have_the_outcomes_of_tensorflow():
    wrong = [(program, expected, found) for program, expected in CASES if (found := outcome(program)) != expected]
    assert not wrong, f"{len(wrong)} of {len(CASES)} programs differ, the first: {wrong[0]}"


def test_scope_programs_cover_sharing_and_errors():
    assert len(CASES) == 600
    ended_early = [events[-1] for _, events in CASES if events and events[-1].startswith("!")]
    assert len(ended_early) < len(CASES) / 2
    assert {"!ValueError exists", "!ValueError missing", "!ValueError name", "!ValueError reuse"} <= {*ended_early}
    shared = [event for _, events in CASES for event in events if "#" in event]
    assert len(shared) > 1000
