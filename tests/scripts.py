"""Scripts of docs/ and examples/, which are folders of scripts and no packages, as modules of a test."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def script(name: str, known_as: str | None = None) -> Any:
    """A script, once: what it imports from its own folder is found while it is loaded.

    Args:
        name: path from the project's root.
        known_as: name of the module, where two folders have a script of the same name.
    """
    file = ROOT / name
    known_as = known_as or file.stem
    known = sys.modules.get(known_as)
    if known is not None and known.__file__ == str(file):
        return known
    assert known is None, f"{known_as} is {known}: give {name} another name"
    specification = importlib.util.spec_from_file_location(known_as, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[known_as] = module
    path = list(sys.path)
    sys.path.insert(0, str(file.parent))
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[known_as]
        raise
    finally:
        sys.path[:] = path
    return module
