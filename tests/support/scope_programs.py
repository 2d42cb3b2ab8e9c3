"""Random programs of scopes and cells, and their outcomes in TensorFlow 1.14: names, sharing, errors.

A program is a list of statements:

    ["with", target, options, [statement, ...]]
        Enter a scope. The target is a name, ["default", name], ["scope", i] for the scope of the i-th "with" statement
        in the order of entering, ["again", i] for its context manager, or ["current"].
    ["cell", name, reuse, num_units]    make a cell
    ["call", i, scope]                  call the i-th cell; the scope is null, a name or ["scope", i]
    ["rnn", i, scope]                   dynamic_rnn
    ["both", i, j, scope]               bidirectional_dynamic_rnn
    ["build", i]
    ["reuse"]                           get_variable_scope().reuse_variables()

Its outcome is a list of strings: the name of each scope entered; for each cell at its first use the name of its scope
and "#" with the number of the first cell with the same variables; and the error that ends the program.

This module also runs on Python 3.7. With TensorFlow 1.14 it generates the data of the tests, one program per line:

    python tests/support/scope_programs.py 600 > tests/data/scope_programs.jsonl
"""

from __future__ import annotations

import itertools
import json
import random
import sys

SCOPE_NAMES = ["a", "b", "c", "a_1", "a/b", "", "b_2"] * 3 + ["_d"]
CELL_NAMES = (
    [None] * 30 + ["a", "c", "c_1", "indy_gru_cell", "indy_gru_cell_1", "c/d", "", "b/indy_gru_cell"] * 2 + ["_d"]
)
REUSE_VALUES = [None] * 26 + ["auto"] * 10 + [True, False]
#: A part of an error text, and the name of the error in an outcome.
ERROR_KINDS = [
    ("already exists", "exists"),
    ("does not exist", "missing"),
    ("Trying to share", "shape"),
    ("is not a valid", "name"),
    ("cannot be used without", "reuse"),
]


class ProgramGenerator:
    """Generates one random program."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.n_cells = 0
        self.managers = []  # for the i-th scope, the first scope with the same context manager
        self.active = []

    def program(self):
        return self.block(self.rng.randint(3, 6), 0)

    def block(self, length, depth):
        return [statement for _ in range(length) for statement in self.statements(depth)]

    def weighted_choice(self, *weighted):
        return self.rng.choices([kind for kind, _ in weighted], [weight for _, weight in weighted])[0]

    def statements(self, depth):
        can_nest = depth < 3
        kind = self.weighted_choice(
            ("with", 30 * can_nest), ("new", 34), ("old", 22 * bool(self.n_cells)), ("reuse", 1)
        )
        if kind == "with":
            return [self.scope(depth)]
        if kind == "reuse":
            return [["reuse"]]
        if kind == "old":
            return [self.use(self.rng.randrange(self.n_cells))]
        new_cell = [
            ["cell", self.rng.choice(CELL_NAMES), self.rng.choice(REUSE_VALUES), self.rng.choice([4] * 30 + [2])]
        ]
        self.n_cells += 1
        use = self.use(self.n_cells - 1)
        return [*new_cell, use] if self.rng.random() < 0.9 else new_cell

    def scope(self, depth):
        inactive = [i for i in self.managers if i not in self.active]
        n_scopes = len(self.managers)
        kind = self.weighted_choice(
            ("name", 12), ("default", 6), ("current", 5), ("scope", 6 * bool(n_scopes)), ("again", 5 * bool(inactive))
        )
        options = {}
        if kind == "name":
            target = self.rng.choice(SCOPE_NAMES)
        elif kind == "default":
            target = ["default", self.rng.choice(SCOPE_NAMES)]
        elif kind == "current":
            target = ["current"]
        elif kind == "scope":
            target = ["scope", self.rng.randrange(n_scopes)]
        else:
            target = ["again", self.rng.choice(inactive)]
        if kind != "again":
            reuse = self.rng.choice(REUSE_VALUES)
            if reuse is not None and (kind != "default" or self.rng.random() < 0.1):
                options["reuse"] = reuse
        self.managers.append(target[1] if kind == "again" else n_scopes)
        self.active.append(self.managers[-1])
        body = self.block(self.rng.randint(1, 3), depth + 1)
        self.active.pop()
        return ["with", target, options, body]

    def use(self, i):
        kind = self.weighted_choice(("call", 12), ("rnn", 5), ("both", 1), ("build", 2))
        if kind == "build":
            return ["build", i]
        scope = None
        if self.rng.random() < 0.25:
            scope = self.rng.choice([s for s in SCOPE_NAMES if s or kind == "call"])
            if self.managers and self.rng.random() < 0.4:
                scope = ["scope", self.rng.randrange(len(self.managers))]
        return ["both", i, self.rng.randrange(self.n_cells), scope] if kind == "both" else [kind, i, scope]


def usable_seeds(n):
    """The first n seeds of programs without empty default names: TensorFlow's op names make those fail."""
    usable = (
        seed for seed in itertools.count() if '["default", ""]' not in json.dumps(ProgramGenerator(seed).program())
    )
    return itertools.islice(usable, n)


class ProgramRunner:
    """Runs one program with an interface: the functions of TensorFlow, or those under test."""

    def __init__(self, interface):
        self.interface = interface
        self.scopes, self.managers, self.cells, self.units = [], [], [], []
        self.outcome = []
        self.first_cells = {}  # by variables
        self.built = set()

    def __call__(self, program):
        try:
            self.block(program)
        except (ValueError, TypeError, RuntimeError) as error:
            kind = [kind for words, kind in ERROR_KINDS if words in str(error)]
            self.outcome.append(" ".join(["!" + type(error).__name__, *kind]))
        return self.outcome

    def block(self, statements):
        for kind, *arguments in statements:
            getattr(self, "do_" + kind)(*arguments)

    def target(self, value):
        if not isinstance(value, list):
            return value
        return self.interface.get_variable_scope() if value[0] == "current" else self.scopes[value[1]]

    def do_with(self, target, options, body):
        if isinstance(target, list) and target[0] == "again":
            manager = self.managers[target[1]]
        else:
            options = {name: self.reuse(value) for name, value in options.items()}
            default = isinstance(target, list) and target[0] == "default"
            names = (None, target[1]) if default else (self.target(target),)
            manager = self.interface.variable_scope(*names, **options)
        with manager as scope:
            self.managers.append(manager)
            self.scopes.append(scope)
            self.outcome.append(scope.name + "*" * bool(scope.reuse))
            self.block(body)

    def reuse(self, value):
        return self.interface.AUTO_REUSE if value == "auto" else value

    def do_cell(self, name, reuse, num_units):
        self.cells.append(self.interface.IndyGRUCell(num_units, name=name, reuse=self.reuse(reuse)))
        self.units.append(num_units)

    def do_reuse(self):
        self.interface.get_variable_scope().reuse_variables()

    def record_first_use(self, *numbers):
        for i in numbers:
            if i not in self.built:
                self.built.add(i)
                first = self.first_cells.setdefault(self.interface.key(self.cells[i]), i)
                self.outcome.append(f"{self.cells[i].scope_name}#{first}")

    def do_call(self, i, scope):
        self.cells[i](self.interface.x, self.interface.zeros(self.units[i]), scope=self.target(scope))
        self.record_first_use(i)

    def do_rnn(self, i, scope):
        self.interface.dynamic_rnn(
            self.cells[i], self.interface.sequence, dtype=self.interface.dtype, scope=self.target(scope)
        )
        self.record_first_use(i)

    def do_both(self, i, j, scope):
        self.interface.bidirectional_dynamic_rnn(
            self.cells[i], self.cells[j], self.interface.sequence, dtype=self.interface.dtype, scope=self.target(scope)
        )
        self.record_first_use(i, j)

    def do_build(self, i):
        self.cells[i].build((None, 3))
        self.record_first_use(i)


def tensorflow_interface():
    """The functions of TensorFlow 1.14 and the arrays that a program uses."""
    import types
    import warnings

    warnings.simplefilter("ignore")
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.keras.engine import base_layer_utils

    tf.compat.v1.logging.set_verbosity("ERROR")
    v1 = tf.compat.v1
    # AutoGraph's conversion of `call` takes most of the time and creates no names.
    base_layer_utils.is_subclassed = lambda layer: False
    return types.SimpleNamespace(
        IndyGRUCell=tf.contrib.rnn.IndyGRUCell, AUTO_REUSE=v1.AUTO_REUSE, variable_scope=v1.variable_scope,
        get_variable_scope=v1.get_variable_scope, dynamic_rnn=v1.nn.dynamic_rnn,
        bidirectional_dynamic_rnn=v1.nn.bidirectional_dynamic_rnn, key=lambda cell: cell.variables[0].name,
        x=np.ones((2, 3), "f4"), sequence=np.ones((2, 1, 3), "f4"), zeros=lambda n: np.zeros((2, n), "f4"),
        dtype=tf.float32, reset=v1.reset_default_graph,
    )  # fmt: skip


if __name__ == "__main__":
    tensorflow = tensorflow_interface()
    for seed in usable_seeds(int(sys.argv[1])):
        tensorflow.reset()
        program = ProgramGenerator(seed).program()
        print(json.dumps([program, ProgramRunner(tensorflow)(program)], separators=(",", ":")), flush=True)
