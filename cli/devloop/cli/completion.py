"""`devloop completion SHELL`: completion scripts, written from the parsers.

The scripts are static text: pressing Tab starts no process. They complete verbs, flags, the fixed
words of a verb, directories after `-C`, and the user's own commands where a verb takes one.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from .parser import top_parser, verb_parser
from .verbs import SHELLS, VERBS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

__all__ = ["completion_script", "run"]


class _Flag(NamedTuple):
    names: tuple[str, ...]
    help: str
    takes_value: bool


def run(args: argparse.Namespace) -> int:
    sys.stdout.write(completion_script(args.shell))
    return 0


def completion_script(shell: str) -> str:
    return _WRITERS[shell]()


def _flags_of(parser: argparse.ArgumentParser) -> list[_Flag]:
    return [
        _Flag(tuple(action.option_strings), action.help or "", action.nargs is None)
        for action in parser._actions  # noqa: SLF001 - argparse offers no public list
        if action.option_strings
    ]


def _words(flags: list[_Flag], *, only_valued: bool = False) -> str:
    return " ".join(n for flag in flags if flag.takes_value or not only_valued for n in flag.names)


def _bash() -> str:
    cases = "\n".join(
        f'        {name}) flags="{_words(_flags_of(verb_parser(name)))}" ;;' for name in VERBS
    )
    return (
        _BASH.replace("@VERBS@", " ".join(VERBS))
        .replace("@TOP@", _words(_flags_of(top_parser())))
        .replace("@VALUED@", "|".join(_valued_flags()))
        .replace("@CASES@", cases)
        .replace("@COMMANDS@", "|".join(_command_verbs()))
        .replace("@SHELLS@", " ".join(SHELLS))
    )


def _valued_flags() -> list[str]:
    parsers = [top_parser(), *map(verb_parser, VERBS)]
    return sorted({n for p in parsers for f in _flags_of(p) if f.takes_value for n in f.names})


def _command_verbs() -> list[str]:
    return [name for name, verb in VERBS.items() if verb.takes_command]


# bash 3.2, which macOS has, knows no `mapfile`.
_BASH = """\
# bash completion of devloop: eval "$(devloop completion bash)"
_devloop_offer() {
    local line
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <(compgen "$@" -- "${COMP_WORDS[COMP_CWORD]}")
}
_devloop() {
    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD - 1]}"
    local verb="" word index flags
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        word="${COMP_WORDS[index]}"
        case "$word" in
        @VALUED@) index=$((index + 1)) ;;
        --) break ;;
        -*) ;;
        *)
            if [[ -n "$verb" ]]; then break; fi
            verb="$word"
            ;;
        esac
    done
    case "$previous" in
    -C | --directory)
        _devloop_offer -d
        return
        ;;
    --target)
        _devloop_offer -W "local"
        return
        ;;
    esac
    case "$verb" in
    @COMMANDS@)
        if ((index < COMP_CWORD)); then
            _devloop_offer -c -f
            return
        fi
        ;;
    esac
    if [[ "$current" != -* ]]; then
        case "$verb" in
        "") _devloop_offer -W "@VERBS@" ;;
        completion) _devloop_offer -W "@SHELLS@" ;;
        @COMMANDS@) _devloop_offer -c -f ;;
        esac
        return
    fi
    case "$verb" in
@CASES@
        *) flags="@TOP@" ;;
    esac
    _devloop_offer -W "$flags"
}
complete -o filenames -F _devloop devloop
"""


def _zsh() -> str:
    verbs = "\n".join(f"    {_quoted(f'{name}:{verb.summary}')}" for name, verb in VERBS.items())
    cases = "\n".join(_zsh_case(name) for name in VERBS)
    return (
        _ZSH.replace("@VERBS@", verbs)
        .replace("@TOP@", _zsh_flags(_flags_of(top_parser())))
        .replace("@CASES@", cases)
    )


def _zsh_case(name: str) -> str:
    words = ""
    if name == "completion":
        words = f" ':shell:({' '.join(SHELLS)})'"
    elif VERBS[name].takes_command:
        words = " '*:::command:_normal'"
    return f"    {name}) _arguments -s {_zsh_flags(_flags_of(verb_parser(name)))}{words} ;;"


def _zsh_flags(flags: list[_Flag]) -> str:
    return " ".join(_quoted(_zsh_flag(name, flag)) for flag in flags for name in flag.names)


def _zsh_flag(name: str, flag: _Flag) -> str:
    note = flag.help.replace("[", "(").replace("]", ")").replace(":", " ")
    value = (
        (":directory:_files -/" if "-C" in flag.names else ":value: ") if flag.takes_value else ""
    )
    return f"{name}[{note}]{value}"


def _quoted(text: str) -> str:
    """A word in single quotes, which zsh and bash read alike."""
    return "'" + text.replace("'", "'\\''") + "'"


_ZSH = """\
#compdef devloop
# zsh completion of devloop: eval "$(devloop completion zsh)", after compinit
_devloop() {
  local -a verbs
  local curcontext="$curcontext" state line
  typeset -A opt_args
  verbs=(
@VERBS@
  )
  _arguments -s -C @TOP@ '1:verb:->verb' '*::words:->words'
  case "$state" in
  verb) _describe verb verbs ;;
  words)
    case "$line[1]" in
@CASES@
    esac
    ;;
  esac
}
if [[ "$funcstack[1]" == _devloop ]]; then
  _devloop "$@"
else
  compdef _devloop devloop
fi
"""


def _fish() -> str:
    lines = [_FISH.replace("@VALUED@", " ".join(_valued_flags()))]
    lines += [
        f"complete -c devloop -n '__devloop_at none' -a {name} -d {_fish_quoted(verb.summary)}"
        for name, verb in VERBS.items()
    ]
    lines += [_fish_flag("none", flag) for flag in _flags_of(top_parser())]
    for name in VERBS:
        lines += _fish_verb(name)
    return "\n".join(lines) + "\n"


_FISH = """\
# fish completion of devloop: devloop completion fish | source
function __devloop_verb
    set -l words (commandline -opc)
    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case @VALUED@
                set -e words[1]
            case '-*'
            case '*'
                echo $words[1]
                return
        end
        set -e words[1]
    end
    echo none
end
function __devloop_at
    test (__devloop_verb) = $argv[1]
end
complete -c devloop -f"""


def _fish_verb(name: str) -> list[str]:
    at_verb = f"complete -c devloop -n '__devloop_at {name}'"
    lines = [_fish_flag(name, flag) for flag in _flags_of(verb_parser(name))]
    if name == "completion":
        lines.append(f"{at_verb} -a '{' '.join(SHELLS)}'")
    if VERBS[name].takes_command:
        lines.append(f"{at_verb} -F -a '(__fish_complete_subcommand)'")
    return lines


def _fish_flag(verb: str, flag: _Flag) -> str:
    names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in flag.names)
    value = ""
    if flag.takes_value:
        value = "-x -a '(__fish_complete_directories)'" if "-C" in flag.names else "-x"
    note = _fish_quoted(flag.help)
    return f"complete -c devloop -n '__devloop_at {verb}' {names} {value} -d {note}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_WRITERS: Mapping[str, Callable[[], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
