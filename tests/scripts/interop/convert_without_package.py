"""Call a converter without the package it needs: arguments are the package and the converter."""

from __future__ import annotations

import sys

from indygru_cpu import IndyGRU, interop

package, converter = sys.argv[1:]
sys.modules[package] = None
getattr(interop, converter)(IndyGRU(3, 5))
