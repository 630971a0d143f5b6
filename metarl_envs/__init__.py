"""The package `envs` under a name that no other project uses.

A project may have a package `envs` of its own, which Python then imports in place of this one. The
families that come with metarl are therefore registered with the modules of `metarl_envs`, whose
files are those of `envs`: `metarl_envs.half_cheetah` is `envs/half_cheetah.py`.
"""

import importlib
from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / "envs")]
# Registers the families: this is envs/__init__.py, imported as a module of this package.
importlib.import_module("metarl_envs.__init__")
