"""What a layer can have wrong with it, though every digest is right.

Each message names the layer, and the entry where there is one.
"""

from __future__ import annotations

from devloop.cafs.errors import DevloopError

__all__ = ["ImageRefused", "LayerInvalid"]


class LayerInvalid(DevloopError):
    """A layer is what the image names, and no file system can be made of it."""

    hint = "the tool that built the image made a broken layer; build the image again"


class ImageRefused(DevloopError):
    """An image asks for more than an honest one needs."""

    hint = "the image is hostile or broken; nothing of it was kept"
