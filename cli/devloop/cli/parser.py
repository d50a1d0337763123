"""The words of the command line: verbs, their flags and their help. Acts on none of them.

A command line is `devloop FLAGS VERB FLAGS WORDS`. Where the words are a command of the user's, the
first of them that is no flag ends devloop's own: what follows belongs to the command, also `-h`.
Only argparse is imported here, and only the chosen verb's parser is built: `--help` stays instant.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from .errors import UsageError, nearest
from .verbs import VERBS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["VERBS", "Parser", "config_flags", "parse_args", "top_parser", "verb_parser"]


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and leave."""

    def __init__(self, prog: str, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("-h", "--help", action="help", help="show this help")

    def takes_value(self, flag: str) -> bool:
        action = self._option_string_actions.get(flag)
        return action is not None and action.nargs is None

    def flags(self) -> Iterable[str]:
        return self._option_string_actions

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", hint=f"see `{self.prog} --help`")


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """What the user asked for; `verb` and `directory` are always there.

    Raises UsageError, or SystemExit after `--help`.
    """
    top = top_parser()
    flags, words = _split_at_words(top, argv)
    args, unknown = top.parse_known_args(flags)
    if unknown:
        raise _unknown_word(top, unknown[0])
    if args.version:
        words = ["version"]
    if not words:
        raise UsageError("no verb", hint=f"`devloop --help` lists them: {', '.join(VERBS)}")
    name = words[0]
    if name not in VERBS:
        guess = nearest(name, VERBS)
        raise UsageError(
            f"unknown verb {name}",
            hint=f"did you mean `devloop {guess}`?" if guess else "`devloop --help` lists them",
        )
    args.verb = name
    return _parse_verb(name, words[1:], args)


def _parse_verb(name: str, argv: Sequence[str], args: argparse.Namespace) -> argparse.Namespace:
    parser = verb_parser(name)
    if VERBS[name].takes_command:
        argv, args.command = _split_at_words(parser, argv)
    _, unknown = parser.parse_known_args(argv, args)
    if unknown:
        raise _unknown_word(parser, unknown[0])
    return args


def _unknown_word(parser: Parser, word: str) -> UsageError:
    if not word.startswith("-"):
        return UsageError(f"{parser.prog}: {word} is one word too many", hint=_see_help(parser))
    guess = nearest(word.partition("=")[0], parser.flags())
    hint = f"did you mean {guess}?" if guess else _see_help(parser)
    return UsageError(f"{parser.prog}: unknown flag {word}", hint=hint)


def _see_help(parser: Parser) -> str:
    return f"see `{parser.prog} --help`"


def _split_at_words(parser: Parser, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """devloop's own flags, and everything from the first word that is none; a `--` is dropped."""
    index = 0
    while index < len(argv):
        word = argv[index]
        if word == "--":
            return list(argv[:index]), list(argv[index + 1 :])
        if word == "-" or not word.startswith("-"):
            break
        index += 2 if _takes_next_word(parser, word) else 1
    return list(argv[:index]), list(argv[index:])


def _takes_next_word(parser: Parser, word: str) -> bool:
    if word.startswith("--"):
        return parser.takes_value(word)
    for position, letter in enumerate(word[1:], 2):
        if parser.takes_value(f"-{letter}"):
            return position == len(word)
    return False


def top_parser() -> Parser:
    parser = Parser(
        "devloop",
        "devloop [FLAGS] VERB …",
        "Save on the laptop, run on the GPU box.\n\nverbs:\n" + _verb_list(),
        "example:\n  devloop up -- python train.py\n\n`devloop VERB --help` says more.",
    )
    parser.add_argument("--version", action="store_true", help="the same as `devloop version`")
    _add_common(parser)
    parser.set_defaults(directory=None, target=None, color=None)
    return parser


def _verb_list() -> str:
    width = max(map(len, VERBS)) + 2
    return "\n".join(f"  {name:<{width}}{verb.summary}" for name, verb in VERBS.items())


def verb_parser(name: str) -> Parser:
    verb = VERBS[name]
    flags = "[FLAGS]" + (" " + verb.words if verb.words else "")
    parser = Parser(
        f"devloop {name}",
        f"devloop {name} {flags}",
        verb.summary[0].upper() + verb.summary[1:] + ".",
        f"example:\n  {verb.example}",
    )
    verb.add_flags(parser)
    _add_common(parser)
    return parser


def _add_common(parser: Parser) -> None:
    """The flags that may stand before and after the verb; the later one counts."""
    absent = argparse.SUPPRESS
    parser.add_argument(
        *("-C", "--directory"), metavar="DIR", default=absent, help="run as if started in DIR"
    )
    parser.add_argument(
        "--target", metavar="HOST", default=absent, help="where to run: local, or as ssh takes it"
    )
    parser.add_argument(
        *("--no-color",),
        action="store_false",
        dest="color",
        default=absent,
        help="no colours on standard error",
    )


def config_flags(args: argparse.Namespace) -> dict[str, object]:
    """What the flags say about config keys, as `load_config` takes it."""
    flags: dict[str, object] = {}
    if args.target is not None:
        flags["target"] = args.target
    if getattr(args, "command", None):
        flags["run.command"] = args.command
    if getattr(args, "env", None):
        flags["run.env"] = dict(args.env)
    if getattr(args, "gpus", None) is not None:
        flags["run.gpus"] = args.gpus
    if getattr(args, "image", None) is not None:
        flags["image"] = args.image
    return flags
