"""The zygote's life: configured, loaded, proven by a canary; then it forks runs until the end."""

from __future__ import annotations

import os
import socket
from typing import Any, Dict, FrozenSet, NoReturn

from . import child, contain, hunt, kernel, preload, program, rehearse, serve, wire, words


def main(control_fd: int, at_start: FrozenSet[str]) -> None:
    """Returns in a child whose program CPython is to start next; never in the zygote."""
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    config = serve.configured(control)
    serve.default_signals()
    if config["user_namespace"]:
        contain.enter_user_namespace()
    main_references = program.main_references()
    _load(control, config)
    times = preload.file_times()
    baseline = program.take_baseline(at_start, main_references, (config, times))

    def tell_when_stale() -> None:
        changed = preload.first_changed(times)
        if changed:
            wire.send(control, {"event": words.STALE, "path": changed})

    waiting = serve.serve(control, config["level"], tell_when_stale)
    rehearse.rehearse()
    request = child.take_request(waiting.request)
    if request["mode"] == "exec":
        child.exec_request(waiting.request, request)
    program.install(waiting.request, request, waiting.page, baseline)


def _load(control: socket.socket, config: Dict[str, Any]) -> None:
    kernel.become_subreaper()
    watched = preload.environment_stats()
    try:
        said = preload.import_all(config["preload"], config["workspace"])
    except preload.Spoiled as spoiled:
        _end(
            control, {"event": words.REFUSED, "package": spoiled.package, "reason": spoiled.reason}
        )
    refusal = preload.canary_refusal() if config["preload"] else ""
    if refusal:
        _end(control, {"event": words.UNSAFE, "reason": refusal})
    preload.settle()
    wire.send(
        control,
        {"event": words.LOADED, "watched": watched, "said": said, "rss_bytes": _rss_bytes()},
    )


def _end(control: socket.socket, message: Dict[str, Any]) -> NoReturn:
    """Nothing that an import has started may stay behind."""
    wire.send(control, message)
    hunt.end_descendants(hunt.reap_all)
    os._exit(0)


def _rss_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
