"""`devloop image`: the images on the box. Decides nothing about what is in one."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

from devloop.sync.progress import Progress

from .common import config_of, image_source, open_connection, say, say_notes, workspace_ref
from .config import HOST_IMAGE
from .errors import UsageError
from .progress import shown_progress
from .runs import table
from .words import printable, size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from devloop.sync.image_calls import ImageCalls
    from devloop.sync.images import Image, ImageDetails, ImageProfile
    from devloop.sync.upkeep import Verified

    from .config import Config

__all__ = ["run"]

HEADER = ["REFERENCE", "MANIFEST", "INDEX", "PULLED", "ON THE BOX"]
SHORT_DIGITS = 12


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    config = config_of(args, will_sync=False)
    references = _references(args, config)
    async with open_connection(config, start=True) as connection:
        calls = connection.client.images()
        workspace_id = workspace_ref(config).id
        match args.action:
            case "pull":
                return await _pull(calls, config, references, workspace_id)
            case "push":
                return await _push(calls, config, references, args.to, workspace_id)
            case "ls":
                return await _list(calls, as_json=args.json)
            case "inspect":
                return await _inspect(calls, references, workspace_id, as_json=args.json)
            case "rm":
                return await _remove(calls, references, workspace_id)
            case "gc":
                return await _collect(calls)
            case _:
                return _say_verified(await calls.verify())


def _references(args: argparse.Namespace, config: Config) -> list[str]:
    """Those that were named, else the project's own, as the box takes them. Raises UsageError."""
    if args.action in ("ls", "gc", "verify"):
        if args.words:
            raise UsageError(
                f"devloop image {args.action}: takes no reference", hint=f"not {args.words[0]!r}"
            )
        return []
    if not args.words and config.image == HOST_IMAGE:
        raise UsageError(
            f"devloop image {args.action}: which image?",
            hint=f"`devloop image {args.action} python:3.12-slim`, or set `image` in devloop.toml",
        )
    if "" in args.words:
        raise UsageError(
            f"devloop image {args.action}: one of the references is empty",
            hint="is a variable that holds it unset?",
        )
    return [image_source(config, word).reference for word in args.words or [config.image]]


async def _pull(
    calls: ImageCalls, config: Config, references: Sequence[str], workspace_id: str
) -> int:
    for reference in references:
        progress, began_s = Progress(), time.monotonic()
        async with shown_progress(progress):
            with progress.during("image"):
                source = image_source(config, reference)
                image = await calls.ensure(
                    source, progress, workspace_id=workspace_id, refresh=True
                )
        say_notes(progress)
        took_s = time.monotonic() - began_s
        say(f"{image.reference} is {_short(image)}, after {took_s:.1f} s")
    return 0


async def _push(
    calls: ImageCalls,
    config: Config,
    references: Sequence[str],
    to: str | None,
    workspace_id: str,
) -> int:
    place = to or (config.store[0] if config.store else "")
    if not place:
        raise UsageError(
            "devloop image push: where to?", hint="`--to file:///dir`, or `store` in devloop.toml"
        )
    for reference in references:
        sent = total_bytes = 0
        async for pushed in calls.push(reference, place, workspace_id=workspace_id):
            sent, total_bytes = pushed.sent_blobs, pushed.total_bytes
        say(f"{reference} is at {place}: {sent:,} new blobs of {size(total_bytes)} in all")
    return 0


async def _list(calls: ImageCalls, *, as_json: bool) -> int:
    images, store_bytes = await calls.list()
    if as_json:
        objects = [_image_as_object(image) for image in images]
        _print(json.dumps({"images": objects, "store_bytes": store_bytes}))
        return 0
    if images:
        sys.stdout.write(printable(table([HEADER, *map(_row, images)])))
    say(f"all images together: {size(store_bytes)}" if images else "no images on the box")
    return 0


def _row(image: Image) -> list[str]:
    pulled = time.strftime("%Y-%m-%d %H:%M", time.localtime(image.pulled_ns / 1e9))
    whole = "whole" if image.is_complete else "as far as it was touched"
    manifest = image.manifest.removeprefix("sha256:")[:SHORT_DIGITS]
    return [image.reference, manifest, image.index_digest.hex()[:SHORT_DIGITS], pulled, whole]


def _short(image: Image) -> str:
    return image.index_digest.hex()[:SHORT_DIGITS]


async def _inspect(
    calls: ImageCalls, references: Sequence[str], workspace_id: str, *, as_json: bool
) -> int:
    for reference in references:
        details = await calls.inspect(reference, workspace_id=workspace_id)
        if as_json:
            _print(json.dumps(_as_object(details)))
        else:
            _print("\n".join(_description(details)))
    return 0


def _as_object(details: ImageDetails) -> dict[str, object]:
    return details._asdict() | {
        "image": _image_as_object(details.image),
        "config": json.loads(details.config),
        "profiles": [profile._asdict() for profile in details.profiles],
    }


def _image_as_object(image: Image) -> dict[str, object]:
    return image._asdict() | {"index_digest": image.index_digest.hex()}


def _description(details: ImageDetails) -> list[str]:
    image, config = details.image, json.loads(details.config)
    settings = config.get("config") or {}
    lines = [
        image.reference,
        f"  manifest   {image.manifest}",
        f"  index      {image.index_digest.hex()}",
        f"  platform   {config.get('os', '?')}/{config.get('architecture', '?')}",
        f"  layers     {len(details.layers)}",
        f"  entries    {details.entries:,}, of them {details.files:,} files",
        f"  size       {size(details.size_bytes)}, {size(details.local_bytes)} on the box, "
        f"{size(details.shared_bytes)} shared with other images",
    ]
    lines += [
        f"  {label:<10} {settings[key]}"
        for label, key in (
            ("entrypoint", "Entrypoint"),
            ("command", "Cmd"),
            ("folder", "WorkingDir"),
            ("user", "User"),
        )
        if settings.get(key)
    ]
    lines += [
        f"  touched    {profile.files:,} files, {size(profile.size_bytes)}, by {_command(profile)}"
        for profile in details.profiles
    ]
    return lines


def _command(profile: ImageProfile) -> str:
    arguments = "1 argument" if profile.arguments == 1 else f"{profile.arguments} arguments"
    return f"{profile.program} with {arguments}" if profile.arguments else profile.program


async def _remove(calls: ImageCalls, references: Sequence[str], workspace_id: str) -> int:
    for reference in references:
        freed = await calls.remove(reference, workspace_id=workspace_id)
        given_back = f"{size(freed.freed_bytes)} given back"
        if freed.is_held:
            given_back += ", the rest by `devloop image gc` once no run needs its files"
        say(f"removed {reference}: {given_back}")
    return 0


async def _collect(calls: ImageCalls) -> int:
    freed = await calls.collect()
    say(f"{freed.removed_blobs:,} blobs removed, {size(freed.freed_bytes)} given back")
    return 0


def _say_verified(verified: Verified) -> int:
    for problem in verified.problems:
        _print(problem)
    if not verified.damaged:
        say(f"all {verified.blobs:,} blobs of images are sound")
        return 0
    say(
        f"{verified.damaged:,} damaged, and dropped: the next run in their images brings them "
        "again, and so does `devloop image pull`"
    )
    return 1


def _print(text: str) -> None:
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()
