"""Entry of the zygote: found by `import site` of the project's interpreter, through PYTHONPATH.

In the zygote it never returns. In a forked child it does, and CPython's start goes on from here
with the program of the request (`program.install`). An environment's own sitecustomize has its
turn first.
"""

from __future__ import annotations

import os
import sys

_AT_START = frozenset(sys.modules)
_HOOK = os.path.dirname(os.path.abspath(__file__))
_NAME = "_devloop_zygote"
_VARIABLE = "DEVLOOP_ZYGOTE"


def _zygote() -> None:
    control_fd, had_path, path = os.environ.pop(_VARIABLE).split(":", 2)
    _restore_path(had_path == "1", path)
    found = _import_the_environments_own()
    _load_program()
    from _devloop_zygote import zygote  # type: ignore[import-not-found]

    zygote.main(int(control_fd), _AT_START)
    if not found:
        raise ImportError("no sitecustomize", name="sitecustomize")


def _restore_path(had_path: bool, path: str) -> None:
    if had_path:
        os.environ["PYTHONPATH"] = path
    else:
        os.environ.pop("PYTHONPATH", None)
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _HOOK]
    sys.path_importer_cache.pop(_HOOK, None)


def _import_the_environments_own() -> bool:
    """False when there is none. `import site` expects an entry in sys.modules, or ImportError."""
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        globals()["_keep"] = ours
        return False
    globals()["_keep"] = ours
    return True


def _load_program() -> None:
    import importlib.util

    folder = os.path.dirname(_HOOK)
    path = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(_NAME, path, submodule_search_locations=[folder])
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = package
    spec.loader.exec_module(package)


_zygote()
