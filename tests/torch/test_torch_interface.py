"""The interface of the torch module: constructor, state, copies, seeds, threads; to and from NumPy."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import re

import helpers
import numpy as np
import pytest

import indygru_cpu
from indygru_cpu._engine import _core
from indygru_cpu._engine import threads as thread_counts

torch = pytest.importorskip("torch", reason="torch is not installed: the extra `torch` brings it")

from torch_modules import BOTH, B, D, N, T, random_module, random_module_call  # noqa: E402

import indygru_cpu.torch  # noqa: E402
from indygru_cpu.torch import IndyGRU, _ops  # noqa: E402


def test_signatures_begin_with_those_of_torch():
    torch_parameters = list(inspect.signature(torch.nn.RNNBase.__init__).parameters.values())[2:]
    parameters = list(inspect.signature(IndyGRU.__init__).parameters.values())[1:]
    common, more = parameters[: len(torch_parameters)], parameters[len(torch_parameters) :]
    assert [(p.name, p.default) for p in common] == [(p.name, p.default) for p in torch_parameters]
    assert all(p.kind is p.KEYWORD_ONLY for p in more)
    names, torch_names = (list(inspect.signature(kind.forward).parameters) for kind in (IndyGRU, torch.nn.GRU))
    assert names[: len(torch_names)] == torch_names
    assert repr(IndyGRU(3, 5, 2, batch_first=True)) == "IndyGRU(3, 5, num_layers=2, batch_first=True)"


@pytest.mark.parametrize(
    "documented", [IndyGRU, IndyGRU.forward, IndyGRU.from_numpy], ids=lambda documented: documented.__qualname__
)
def test_docstring_documents_every_parameter(documented):
    section = re.search(r"^Parameters\n-+\n(.*?)\n\n\w+\n-+\n", inspect.getdoc(documented), re.M | re.S).group(1)
    names = {name.strip() for line in re.findall(r"^\S.*", section, re.M) for name in line.split(" : ")[0].split(",")}
    assert names == set(inspect.signature(documented).parameters) - {"self"}


def test_state_dict_loads_into_the_numpy_layer_and_back():
    module, other = random_module(**BOTH), random_module(1, **BOTH)
    state = module.state_dict()
    layer = indygru_cpu.IndyGRU(D, N, **BOTH, dtype=np.float64)
    layer.load_state_dict({name: value.numpy() for name, value in state.items()})
    other.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    assert list(state) == list(layer.parameters)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deepcopy", "pickle"]
)
def test_copy_has_options_and_weights_of_its_own(copied):
    module = random_module(**BOTH, groups=2, activation="relu", recompute=True)
    other = copied(module)
    x, *_ = random_module_call(module)
    assert torch.equal(other(x)[0], module(x)[0])
    assert other.recompute
    with torch.no_grad():
        other.kernel_l0 += 1
    assert not torch.equal(other(x)[0], module(x)[0])


def test_from_and_to_numpy_share_memory():
    layer = indygru_cpu.IndyGRU(D, N, 2, dropout=0.25, activation="relu", groups=2, reproducible=True, dtype=np.float64)
    state = torch.random.get_rng_state()
    module = IndyGRU.from_numpy(layer, recompute=True)
    again = module.to_numpy()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert repr(again) == repr(layer)
    assert module.recompute
    for name, value in module.named_parameters():
        assert np.shares_memory(layer.parameters[name], value.detach().numpy())
        assert np.shares_memory(layer.parameters[name], again.parameters[name])
    module(torch.randn(T, B, D, dtype=torch.float64))[0].sum().backward()
    before = layer.state_dict()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    for name, value in module.named_parameters():
        np.testing.assert_allclose(layer.parameters[name], before[name] - 0.1 * value.grad.numpy(), rtol=1e-12)


def test_initial_values_follow_the_seed_of_torch():
    torch.manual_seed(5)
    a, b = IndyGRU(D, N), IndyGRU(D, N)
    torch.manual_seed(5)
    with torch.device("meta"):
        again = IndyGRU(D, N)
    y, h_n = again(torch.empty(T, B, D, device="meta"))
    assert (y.shape, h_n.shape) == ((T, B, N), (1, B, N))
    again.to_empty(device="cpu").reset_parameters()
    assert torch.equal(a.kernel_l0, again.kernel_l0)
    assert not torch.equal(a.kernel_l0, b.kernel_l0)
    assert a.bias_l0.tolist() == [1] * 2 * N + [0] * N


@pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")
def test_calls_use_at_most_the_threads_of_torch(monkeypatch):
    seen, choose = [], _ops.choose_call_threads

    def watched(*arguments):
        seen.append(choose(*arguments))
        return thread_counts.Threads(1, False)

    monkeypatch.setattr(thread_counts, "default", lambda: thread_counts.ThreadLimit(3, "for this test"))
    monkeypatch.setattr(thread_counts, "count", lambda num_threads, _: 8)
    monkeypatch.setattr(_ops, "choose_call_threads", watched)
    before = torch.get_num_threads()
    module = random_module(size=(300, 400), **BOTH)  # enough work for several threads
    x = torch.randn(40, 30, 300, dtype=torch.float64)
    try:
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            seen.clear()
            y, _ = module(x)
            y.sum().backward()
            assert seen == [(min(n_threads, 3), True)] * 4  # two layers, forward and backward
    finally:
        torch.set_num_threads(before)


def test_import_without_torch_names_the_extra(run_script):
    printed = run_script("torch/missing_torch.py")
    assert "torch" in printed
    assert "indygru_cpu[torch]" in printed
    assert indygru_cpu.torch.torch is torch


def test_import_with_a_broken_torch_raises_its_error(run_python, tmp_path):
    (tmp_path / "torch.py").write_text("import no_such_module_at_all")
    path = os.pathsep.join([str(tmp_path), helpers.package_path()])
    error = run_python("import indygru_cpu.torch", status=1, PYTHONPATH=path).splitlines()[-1]
    assert error == "ModuleNotFoundError: No module named 'no_such_module_at_all'"
