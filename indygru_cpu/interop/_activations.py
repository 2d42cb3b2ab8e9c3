"""Names of IndyGRU's activations in other libraries."""

from __future__ import annotations

#: Activation -> ONNX operator in the attribute `activations` of GRU. Elu has alpha 1; identity is alpha * x + beta.
#: GRU has no operator for mingru.
ONNX_ACTIVATIONS = {
    "tanh": "Tanh",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "identity": "Affine",
    "elu": "Elu",
    "softsign": "Softsign",
}
#: Keras name -> activation, for the names that differ.
KERAS_ACTIVATIONS = {"linear": "identity"}
