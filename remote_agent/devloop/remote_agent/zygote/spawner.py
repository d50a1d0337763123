"""Entry of the spawner: the agent's own interpreter, without any preload, for any command."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_NAME = "_devloop_zygote"


def main() -> None:
    load_program()
    from _devloop_zygote import child, contain, serve, wire, words  # type: ignore[import-not-found]

    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    config = serve.configured(control)
    serve.default_signals()
    found = contain.probe(config["highest_level"])
    if found.user_namespace:
        contain.enter_user_namespace()
    loaded = {"event": words.LOADED, "level": found.level, "hint": found.hint}
    wire.send(control, dict(loaded, user_namespace=found.user_namespace))
    waiting = serve.serve(control, found.level, lambda: None)
    child.exec_request(waiting.request, child.take_request(waiting.request))


def load_program() -> None:
    """This folder as a package under a private name, without an entry in sys.path."""
    path = os.path.join(_HERE, "__init__.py")
    spec = importlib.util.spec_from_file_location(_NAME, path, submodule_search_locations=[_HERE])
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    main()
