"""Random programs of scopes and cells: names, sharing and errors equal those of TensorFlow 1.14."""

from __future__ import annotations

import json
from types import SimpleNamespace

import helpers
import numpy as np
from scope_programs import ProgramRunner

import indygru_cpu

PROGRAMS_FILE = helpers.DATA / "scope_programs.jsonl"
PROGRAMS = [json.loads(line) for line in PROGRAMS_FILE.read_text(encoding="ascii").splitlines()]


def native_interface():
    """The functions under test and the arrays that a program uses."""
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


def run_program(program):
    indygru_cpu.reset_default_scope(seed=1)
    outcome = ProgramRunner(native_interface())(program)
    assert indygru_cpu.get_variable_scope().name == ""
    return outcome


def test_scope_programs_have_the_outcomes_of_tensorflow():
    wrong = [
        (program, expected, outcome) for program, expected in PROGRAMS if (outcome := run_program(program)) != expected
    ]
    assert not wrong, f"{len(wrong)} of {len(PROGRAMS)} programs differ, the first: {wrong[0]}"


def test_scope_programs_cover_sharing_and_errors():
    assert len(PROGRAMS) == 600
    ended_early = [events[-1] for _, events in PROGRAMS if events and events[-1].startswith("!")]
    assert len(ended_early) < len(PROGRAMS) / 2
    assert {"!ValueError exists", "!ValueError missing", "!ValueError name", "!ValueError reuse"} <= {*ended_early}
    shared = [event for _, events in PROGRAMS for event in events if "#" in event]
    assert len(shared) > 1000
