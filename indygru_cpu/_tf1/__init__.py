"""The TensorFlow 1.14 interface: IndyGRUCell, dynamic_rnn and variable scopes on NumPy arrays."""
