"""Compare forward and backward of the package with the reference on a processor without AVX.

``tools/check.sh nehalem-python`` runs this program under qemu, with the tests' modules on the path.
"""

from __future__ import annotations

import helpers

from indygru_cpu._engine import _core


def main() -> None:
    """Run three shapes, of which one goes through OpenBLAS, in both dtypes, ragged and on two threads."""
    assert _core.tiers() == ("baseline",), _core.tiers()
    for shape in [(9, 7, 8, 17), (150, 9, 33, 130), helpers.THROUGH_BLAS[0]]:
        for dtype in helpers.DTYPES:
            case = helpers.random_case(shape, dtype, ragged=True)
            helpers.assert_close(case.run(num_threads=2), case.expected(), dtype)
    print("forward and backward agree with the reference on", *_core.tiers())


if __name__ == "__main__":
    main()
