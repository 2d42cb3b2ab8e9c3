"""torch.onnx.export of models that contain the module: onnxruntime computes the same results for other sizes."""

from __future__ import annotations

import io
import sys

import helpers
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the extra `torch` brings it")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: torch.onnx.export needs it")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from torch_modules import BOTH, B, D, N, T, random_module  # noqa: E402

from indygru_cpu.torch import onnx_translation_table  # noqa: E402

OPTIONS = [
    {},
    {**BOTH, "batch_first": True, "activation": "relu", "dropout": 0.5},
    {"groups": 2, "bias": False, "activation": "identity"},
    {"bidirectional": True, "activation": "elu"},
    {"reset_gate": False, "groups": 2},
    {"reset_gate": False, "bias": False, "bidirectional": True},
]


class Net(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.rnn = random_module(dtype=torch.float32, **options)
        self.head = torch.nn.Linear(N * (1 + self.rnn.bidirectional), 2)

    def forward(self, x, hx, lengths):
        y, h_n = self.rnn(x, hx, lengths=lengths)
        return self.head(y), h_n


def random_arguments(net, n_steps, n_batch):
    shape = (n_batch, n_steps) if net.rnn.batch_first else (n_steps, n_batch)
    n_states = net.rnn.num_layers * (1 + net.rnn.bidirectional)
    lengths = torch.arange(n_batch) % (n_steps + 1)
    return torch.randn(*shape, D), torch.randn(n_states, n_batch, N), lengths


# torch's exporter uses deprecated parts of torch.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:# The axis name:UserWarning")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_exported_model_has_the_results_of_the_module(options):
    torch.manual_seed(0)
    net = Net(**options).eval()
    steps, rows = torch.export.Dim("steps"), torch.export.Dim("rows")
    axes = {0: rows, 1: steps} if net.rnn.batch_first else {0: steps, 1: rows}
    with torch.no_grad():
        program = torch.onnx.export(
            net, random_arguments(net, T, B), dynamo=True, custom_translation_table=onnx_translation_table(),
            dynamic_shapes=(axes, {1: rows}, {0: rows}), verbose=False,
        )  # fmt: skip
    assert [node.op_type for node in program.model.graph].count("GRU") == net.rnn.num_layers
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    for sizes in [(T, B), (4, 9)]:
        arguments = random_arguments(net, *sizes)
        inputs = {value.name: array.numpy() for value, array in zip(session.get_inputs(), arguments, strict=True)}
        for actual, expected in zip(session.run(None, inputs), net(*arguments), strict=True):
            assert helpers.scaled_error(actual, expected.detach().numpy()) < 1e-6


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:# The axis name:UserWarning")
def test_export_of_an_activation_that_onnx_lacks_names_the_other_way():
    net = Net(activation="mingru").eval()
    with torch.no_grad(), pytest.raises(Exception, match=r"activation: expected one of tanh, .*got 'mingru': convert"):
        torch.onnx.export(
            net, random_arguments(net, T, B), dynamo=True, custom_translation_table=onnx_translation_table(),
            verbose=False,
        )  # fmt: skip


def test_translation_table_without_onnxscript_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="onnxscript is missing: pip install onnxscript"):
        onnx_translation_table()
