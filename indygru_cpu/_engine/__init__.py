"""Everything that knows the compiled core: its calls, checked arguments, error texts, threads and memory."""

from indygru_cpu._engine.environment import short_openmp_spin

with short_openmp_spin():  # libgomp reads its environment once, when it is loaded together with _core
    import indygru_cpu._engine._core
import indygru_cpu._engine.blas  # noqa: F401  (opens BLAS for _core)
