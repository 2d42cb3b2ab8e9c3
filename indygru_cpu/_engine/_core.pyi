from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from indygru_cpu._typing import ProgressCallback

Array = np.ndarray[Any, Any]

class Fused(Protocol):
    """A function for each dtype, under the names "float" and "double"."""

    def __getitem__(self, dtype: str) -> Any: ...

class Testing(Protocol):
    """Functions that only tests call. Those that set a value return the former one."""

    activate: Fused

    def choose_threads(
        self,
        operation: int,
        work: float,
        n_steps: int,
        max_threads: int,
        is_back_to_back: bool,
        nanoseconds: dict[int, float],
    ) -> int: ...
    def current_cpu(self) -> int: ...
    def memory_of_view(self, view: TensorView) -> tuple[int, int]: ...
    def min_parallel_work(self) -> int: ...
    def reset_thread_costs(self) -> None: ...
    def set_chunk_bytes(self, size: int) -> int: ...
    def set_segments(self, n_bytes: int, min_steps: int) -> tuple[int, int]: ...
    def set_slice_seconds(self, seconds: float) -> float: ...
    def set_unchecked(self, value: bool) -> bool: ...
    def set_vnni(self, value: bool) -> bool: ...
    def use_tier(self, name: str) -> None: ...

MAX_THREADS: int
POOL_MAX_BYTES: int
POOL_MIN_BLOCK: int
testing: Testing
__pyx_capi__: dict[str, Any]

class PooledBuffer:
    def __init__(self, size: int, is_pooled: bool = True) -> None: ...
    def __buffer__(self, flags: int) -> memoryview: ...

class TensorView: ...

class TensorExchange:
    def __init__(
        self,
        plain_types: tuple[type, type],
        is_neg: Any,
        untyped_storage: Any,
        data_ptr: Any,
        nbytes: Any,
        to_dlpack: Any,
        from_numpy: Any,
        activations: Sequence[str],
        exchange_api: object,
        layer_class: type[BoundLayer] | None = None,
    ) -> None: ...
    def bind(
        self,
        weights: Sequence[Any],
        n_layers: object,
        n_directions: object,
        has_bias: object,
        groups: object,
        activation: object,
        has_reset_gate: object,
        reproducible: object,
        count_threads: Any,
        n_inputs: object = None,
        n_units: object = None,
    ) -> BoundLayer | None: ...
    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any: ...
    def views(self, tensors: Any) -> list[Any] | None: ...

class BoundLayer:
    weights: tuple[tuple[tuple[Array, Array, Array], ...], ...]
    groups: int
    activation: int
    reproducible: bool
    has_reset_gate: bool
    def __init__(
        self,
        weights: Any,
        groups: int,
        activation: int,
        reproducible: bool,
        count_threads: Any,
        tape_class: type[Tape] | None = None,
        is_reverse: bool = False,
        has_layer_axis: bool = True,
        exchange: TensorExchange | None = None,
        has_reset_gate: bool = True,
    ) -> None: ...
    @staticmethod
    def of_function(
        kernel: object,
        recurrent_kernel: object,
        bias: object,
        groups: object,
        activation: int,
        has_reset_gate: bool,
        reproducible: bool,
        is_reverse: bool,
        count_threads: Any,
        tape_class: type[Tape],
    ) -> BoundLayer | None: ...
    def infer(
        self,
        x: object,
        h0: object,
        lengths: object,
        offsets: object,
        out: object,
        h_out: object,
        batch_first: bool,
        needs_y: bool,
        num_threads: object,
        progress: ProgressCallback | None = None,
        is_checked: bool = False,
    ) -> Any: ...
    def train(
        self,
        x: object,
        h0: object,
        lengths: object,
        offsets: object,
        out: object,
        h_out: object,
        batch_first: bool,
        recompute: bool,
        num_threads: object,
        progress: ProgressCallback | None = None,
        new_mask: Any = None,
        gates: object = None,
        is_checked: bool = False,
        saved: TensorView | None = None,
    ) -> Any: ...
    def restore_tape(
        self,
        x: object,
        h0: object,
        lengths: object,
        offsets: object,
        y: object,
        gates: object,
        batch_first: bool,
        num_threads: int | None,
        is_checked: bool = True,
    ) -> Any: ...
    def infer_tensors(self, x: object, h0: object, batch_first: bool) -> Any: ...
    def train_tensors(self, x: object, h0: object, batch_first: bool, keeps_gates: bool, allows_tape: bool) -> Any: ...
    def saved_tensor(self, tape: Tape) -> Any: ...
    def backward_of_tensors(
        self,
        tensors: tuple[Any, ...],
        tape: Tape | None,
        dy: object,
        dh_n: object,
        batch_first: bool,
        has_state: bool,
        keeps_gates: bool,
        needs: Sequence[bool],
    ) -> list[Any] | None: ...
    def backward(
        self,
        tape: Tape,
        dy: object,
        dh_n: object,
        needs_x: bool,
        needs_parameters: bool,
        num_threads: object,
        is_checked: bool = False,
    ) -> Any: ...
    def step(self, x_t: object, h: object, out: object, is_checked: bool = False) -> Any: ...

class Tape:
    layer: BoundLayer
    x: Array
    y: Array
    masks: list[Array]
    @property
    def gates(self) -> Array | None: ...
    @property
    def y_shape(self) -> tuple[int, ...]: ...
    @property
    def h_shape(self) -> tuple[int, ...]: ...
    @property
    def num_threads(self) -> int | None: ...

class PoolBase:
    _table: Any
    def __init__(self, table: Any) -> None: ...
    def _call(self, function: Any, *arguments: Any) -> Any: ...
    def _defer_removal(self, client: Any) -> bool: ...
    def _discard(self, client: Any) -> None: ...
    def _take_step(self, table: Any, stream: StreamBase, x: Array, rows: list[int], y: Array) -> None: ...

class StreamBase:
    _bound: BoundLayer
    @property
    def _states(self) -> Array: ...
    @property
    def _source(self) -> Any: ...
    def __init__(
        self, bound: BoundLayer, n_batch: int, num_threads: int | None, compact_kernels: Any = None, source: Any = None
    ) -> None: ...
    def _serial_threads(self) -> int: ...
    def _set_weights(self, bound: BoundLayer, compact_kernels: Any = None) -> None: ...
    def _run_steps(self, chunk: object) -> Array | None: ...
    def _call_exclusively(self, function: Any, *arguments: Any) -> Any: ...
    def push(self, x_t: object, rows: Any = None) -> Array: ...
    def _clear_rows(self, rows: Array) -> None: ...
    def _states_of(self, rows: list[int]) -> Array: ...
    def _stack(self, frames: list[Any]) -> Array | None: ...

def active_threads() -> int: ...
def is_forked() -> bool: ...
def chunked_steps() -> tuple[int, int]: ...
def is_parallel_work(work: float) -> bool: ...
def l2_bytes() -> int: ...
def last_threads() -> int: ...
def may_overlap(array: Array, arrays: dict[str, Array | None]) -> list[str]: ...
def message(status: int) -> str: ...
def new_array(shape: tuple[int, ...], dtype: np.dtype[Any], is_zeroed: bool = False) -> Array: ...
def openmp_threads() -> int: ...
def release_memory() -> int: ...
def thread_costs() -> dict[tuple[str, int, int, str], dict[int, float]]: ...
def tier_in_use() -> str: ...
def tiers() -> tuple[str, ...]: ...
def use_blas(sgemm_address: int, dgemm_address: int, get_threads_address: int, set_threads_address: int) -> None: ...
def xla_handlers() -> dict[str, object]: ...
