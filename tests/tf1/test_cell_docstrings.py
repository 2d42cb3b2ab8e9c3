"""Every public name of the TensorFlow 1 interface has a docstring, and its examples run."""

from __future__ import annotations

import doctest
import inspect

import pytest

from indygru_cpu import initializers, reset_default_scope, tensorflow
from indygru_cpu._tf1 import cell, dynamic_rnn, layer, run, scopes, variables

MODULES = [
    run,
    dynamic_rnn,
    scopes,
    layer,
    variables,
    cell,
    initializers,
    tensorflow,
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_module_examples_run(module):
    reset_default_scope(seed=5)
    results = doctest.testmod(module, verbose=False)
    assert not results.failed
    assert results.attempted > 0


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_module_public_names_have_docstrings(module):
    members = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    for value in members:
        if callable(value) and not value.__name__.startswith("_"):
            assert inspect.getdoc(value), value
        if inspect.isclass(value):
            for name, member in vars(value).items():
                if not name.startswith("_") and (callable(member) or isinstance(member, property)):
                    assert inspect.getdoc(member), (value, name)
