"""Makes this process the Python program of a request, as `python …` would have started it.

The interpreter was started with `-m`, and stands in its own `import site`. After `install` has
returned, CPython finishes its start and asks for `runpy._run_module_as_main`, to call it. What it
gets is made of built-in callables at whose end the program's code runs. So no frame of this
program lies below the user's: tracebacks, the debugger, SystemExit, KeyboardInterrupt and
finalisation are CPython's own.

What cannot be run so is exec'd: a file that does not compile, or whose folder holds a module
that the zygote has imported from elsewhere.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib.machinery
import operator
import os
import runpy
import socket
import sys
from typing import Any, Callable, FrozenSet, List, NamedTuple

from . import child, preload, renew, report, stdio, wire, words

# Calls its argument, without a Python frame.
_call = getattr(operator, "call", operator.methodcaller("__call__"))


class Baseline(NamedTuple):
    """Worked out in the zygote, so that no run spends its first milliseconds on it.

    `kept` is let go of by nobody: freeing it would copy its pages in each child.
    """

    loaded: FrozenSet[str]
    shadowable: FrozenSet[str]  # top-level names that a fresh interpreter would look for
    own: List[str]
    main_references: int
    kept: object


def take_baseline(at_start: FrozenSet[str], main_references: int, kept: object) -> Baseline:
    """`at_start`: the modules that every interpreter has before it looks at a project."""
    loaded = frozenset(sys.modules)
    own = [name for name in loaded if name.startswith("_devloop_zygote")]
    tops = frozenset(name.partition(".")[0] for name in loaded - at_start)
    return Baseline(loaded, tops, own, main_references, kept)


def main_references() -> int:
    return sys.getrefcount(sys.modules["__main__"])


class Unfit(Exception):
    """The program must start in a fresh interpreter, because of this."""


def install(
    sock: socket.socket, request: child.Request, page: report.Page, baseline: Baseline
) -> None:
    run_module = runpy.__dict__.pop("_run_module_as_main")

    def begin(name: str) -> Callable[..., Any]:
        """Called by CPython's look-up, since the name is not there."""
        runpy.__dict__.pop("__getattr__")
        runpy.__dict__["_run_module_as_main"] = run_module
        try:
            program = _prepared(request, run_module, baseline)
        except Exception as error:
            child.exec_request(sock, request, str(error))
        wire.send(sock, {"event": words.RUNNING})
        sock.close()
        _report_at_exit(page, baseline)
        _leave_no_trace(baseline)
        _return_recursion_depth(request["mode"])
        return _frameless(program)

    runpy.__dict__["__getattr__"] = begin


def _frameless(program: Callable[[], Any]) -> Callable[..., Any]:
    """Calls `program`, then leaves by sys.exit. max() never comes to the arguments that CPython
    appends, nor to comparing anything."""
    return functools.partial(max, program, sys.exit, key=_call)


def _return_recursion_depth(mode: str) -> None:
    """CPython 3.11 counts the built-in callables below the program against its recursion limit;
    later versions do not."""
    if sys.version_info[:2] == (3, 11):
        for _ in range(3 if mode == "module" else 4):
            ctypes.pythonapi.Py_LeaveRecursiveCall()


def _prepared(
    request: child.Request, run_module: Callable[..., Any], baseline: Baseline
) -> Callable[[], Any]:
    cwd = os.getcwd()
    stdio.renew()
    renew.remap_paths(request["path_map"])
    renew.forget_cached_folders(request["workspace"])
    renew.renew_libraries(cwd)
    _set_argv(request)
    _make_main(baseline)
    mode = request["mode"]
    target = os.fsdecode(wire.bytes_of(request["target"]))
    program = _PREPARE[mode](target, run_module)
    _refuse_shadows(request["workspace"], baseline)
    return program


def _make_main(baseline: Baseline) -> None:
    """A `__main__` that the garbage collector sees, unless a library holds on to the old one."""
    old = sys.modules["__main__"]
    if sys.getrefcount(old) > baseline.main_references + 1:
        return
    main = type(sys)("__main__")
    main.__dict__.update(old.__dict__)
    sys.modules["__main__"] = main


def _prepare_script(target: str, run_module: Callable[..., Any]) -> Callable[[], Any]:
    filename = _absolute(target)
    with open(filename, "rb") as file:  # noqa: PTH123
        source = file.read()
    code = _compiled(source, filename)
    _set_path0(os.path.dirname(os.path.realpath(target)))
    main = sys.modules["__main__"].__dict__
    main["__file__"] = filename
    main["__cached__"] = None
    main["__loader__"] = importlib.machinery.SourceFileLoader("__main__", filename)
    return functools.partial(exec, code, main)


def _prepare_code(target: str, run_module: Callable[..., Any]) -> Callable[[], Any]:
    code = _compiled((target + "\n").encode("utf-8", "surrogateescape"), "<string>")
    _set_path0("")
    return functools.partial(exec, code, sys.modules["__main__"].__dict__)


def _prepare_module(target: str, run_module: Callable[..., Any]) -> Callable[[], Any]:
    return functools.partial(run_module, target, True)


_PREPARE = {"script": _prepare_script, "code": _prepare_code, "module": _prepare_module}


def _absolute(path: str) -> str:
    """As CPython makes `__file__` absolute: joined, not normalised."""
    if os.path.isabs(path) or sys.version_info < (3, 9):
        return path
    return os.path.join(os.getcwd(), path)


def _compiled(source: bytes, filename: str) -> Any:
    """CPython words some errors of a file otherwise than those of a string."""
    try:
        return compile(source, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as error:
        raise Unfit("the program does not compile") from error


def _set_argv(request: child.Request) -> None:
    argv = [os.fsdecode(wire.bytes_of(argument)) for argument in request["argv"]]
    args = [os.fsdecode(wire.bytes_of(argument)) for argument in request["args"]]
    first = {"module": "-m", "code": "-c"}.get(request["mode"])
    sys.argv[:] = [first or os.fsdecode(wire.bytes_of(request["target"])), *args]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = argv


def _set_path0(folder: str) -> None:
    """CPython has put the working folder there, unless it was told not to."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = folder


def _refuse_shadows(workspace: str, baseline: Baseline) -> None:
    """A fresh interpreter would find the project's `random.py` before the library's."""
    folders = [sys.path[0], *(p for p in sys.path[1:] if preload.lies_in_project(p, workspace))]
    for folder in dict.fromkeys(os.path.abspath(folder) for folder in folders):
        for name in _modules_in(folder, baseline.shadowable):
            if not _was_loaded_from(name, folder):
                raise Unfit("%s holds a module %r that the zygote has too" % (folder, name))


def _modules_in(folder: str, wanted: FrozenSet[str]) -> FrozenSet[str]:
    """Looks at what has a wanted name only: with 500 folders in one, a stat of each cost 5 ms."""
    try:
        names = [name for name in os.listdir(folder) if name.partition(".")[0] in wanted]
    except OSError:
        return frozenset()
    return frozenset(filter(None, (_module_named(folder, name) for name in names)))


def _module_named(folder: str, name: str) -> str:
    stem, _, suffix = name.partition(".")
    if suffix:
        return stem if "." + suffix in importlib.machinery.all_suffixes() else ""
    return stem if os.path.exists(os.path.join(folder, name, "__init__.py")) else ""


def _was_loaded_from(name: str, folder: str) -> bool:
    origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None)
    return str(origin).startswith(folder + os.sep)


def _report_at_exit(page: report.Page, baseline: Baseline) -> None:
    """Registered before the program's own, so that it is called after them."""
    process = os.getpid()

    def write() -> None:
        if os.getpid() == process:
            page.write(report.installed_modules(baseline.loaded))

    atexit.register(write)
    atexit.register(sys.settrace, None)  # a debugger must not step into `write`


def _leave_no_trace(baseline: Baseline) -> None:
    for name in baseline.own:
        del sys.modules[name]
