"""Takes out of imported libraries what a fresh start would have made anew for each process."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, List, Sequence


def renew_libraries(cwd: str) -> None:
    logging = _loaded("logging")
    if logging is not None:
        now = time.time_ns() if isinstance(logging._startTime, int) else time.time()
        logging._startTime = now
    numpy_random = _loaded("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    torch = _loaded("torch")
    if torch is not None and hasattr(torch, "default_generator"):
        torch.default_generator.seed()
    _renew_multiprocessing(cwd)


def remap_paths(path_map: Sequence[Sequence[str]]) -> None:
    """Editable installs of the project on the laptop's side point to the workspace instead."""
    for source, target in path_map:
        sys.path[:] = [moved(path, source, target) for path in sys.path]
        for name, module in list(sys.modules.items()):
            if name.startswith("__editable__"):
                _remap_finder(module, source, target)


def moved(path: str, source: str, target: str) -> str:
    inside = path == source or path.startswith(source + os.sep)
    in_environment = path.startswith(sys.prefix + os.sep)
    return target + path[len(source) :] if inside and not in_environment else path


def forget_cached_folders(folder: str) -> None:
    for path in list(sys.path_importer_cache):
        if path == folder or path.startswith(folder + os.sep):
            del sys.path_importer_cache[path]


def _remap_finder(module: Any, source: str, target: str) -> None:
    """Of setuptools: {package: folder} and {namespace: [folders]}."""
    mapping = getattr(module, "MAPPING", {})
    for name, path in mapping.items():
        mapping[name] = moved(path, source, target)
    namespaces = getattr(module, "NAMESPACES", {})
    for name, paths in namespaces.items():
        moved_paths: List[str] = [moved(path, source, target) for path in paths]
        namespaces[name] = moved_paths


def _renew_multiprocessing(cwd: str) -> None:
    process = _loaded("multiprocessing.process")
    if process is None:
        return
    process.ORIGINAL_DIR = cwd
    key = process.AuthenticationString(os.urandom(32))
    process.current_process()._config["authkey"] = key


def _loaded(name: str) -> Any:
    return sys.modules.get(name)
