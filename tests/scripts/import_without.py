"""Imports a module while another one is missing. Arguments: the module, and the missing one."""

from __future__ import annotations

import importlib
import sys

module, missing = sys.argv[1:]
sys.modules[missing] = None
importlib.import_module(module)
