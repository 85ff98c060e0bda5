"""`agentd completion SHELL`: a script by which a shell completes agentd's command lines.

The script asks `agentd completion words WORD...` at each Tab: so it never grows old, and what may
come stands once, in the commands' own tables. kubectl and docker (cobra) do the same.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from agentd.commands.output import plain, say, say_lines
from agentd.paths import discover
from agentd.states import Exit

SHELLS = ("bash", "zsh", "fish")
WORDS = "words"  # by which these ask
FILES = ":files"  # says that a path may come, which the shell itself knows best
NAMED = re.compile(r"[a-z][a-z0-9_]*")
AGENT = re.compile(r"\bNAME\b")  # stands for an agent's name in every command's help
FIRST_SENTENCE = re.compile(r"(?:[\w, -]+: )?([^.:;(]*)")  # without "list: "

EXAMPLES = """example:
  agentd completion bash > ~/.local/share/bash-completion/completions/agentd
  agentd completion zsh > ~/.zfunc/_agentd      # with fpath+=~/.zfunc before compinit
  agentd completion fish > ~/.config/fish/completions/agentd.fish

Completes commands, options, what these may be, and the agents' names. bash needs its package
bash-completion for that folder; without it: source <(agentd completion bash)"""

BASH = f"""\
# bash completion of agentd
_agentd() {{
  local word rest
  COMPREPLY=()
  compopt +o default 2>/dev/null
  while IFS=$'\\t' read -r word rest; do
    if [[ $word == {FILES} ]]; then
      compopt -o default 2>/dev/null
    else
      COMPREPLY+=("$word")
    fi
  done < <(command agentd completion words -- "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null)
}}
complete -o default -F _agentd agentd
"""

ZSH = f"""\
#compdef agentd
# zsh completion of agentd
_agentd() {{
  local line word
  local -a words_ found
  words_=("${{(@)words[2,CURRENT]}}")
  for line in "${{(@f)$(command agentd completion words -- "${{words_[@]}}" 2>/dev/null)}}"; do
    word=${{line%%$'\\t'*}}
    if [[ $word == {FILES} ]]; then
      _files
    elif [[ -n $word ]]; then
      found+=("${{word//:/\\\\:}}:${{line#*$'\\t'}}")
    fi
  done
  _describe -V agentd found
}}
if [[ $funcstack[1] == _agentd ]]; then
  _agentd "$@"
else
  compdef _agentd agentd
fi
"""

FISH = f"""\
# fish completion of agentd
function __agentd_words
    set -l before (commandline -opc)
    set -l now (commandline -ct)
    for line in (command agentd completion words -- $before[2..-1] "$now" 2>/dev/null)
        if test "$line" = {FILES}
            __fish_complete_path "$now"
        else
            echo $line
        end
    end
end
complete -c agentd -f -a '(__agentd_words)'
"""
SCRIPTS = dict(zip(SHELLS, (BASH, ZSH, FISH), strict=True))

Parsers = Callable[[str], argparse.ArgumentParser]


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("shell", choices=(*SHELLS, WORDS), metavar="|".join(SHELLS), help="yours")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Print a shell's script, or what may come after some words."""
    if args.shell in SCRIPTS:
        say_lines(SCRIPTS[args.shell].removesuffix("\n"))
        return Exit.OK
    words = args.words[args.words[:1] == ["--"] :]
    for word, about in candidates(words or [""], args.summaries, args.parser_of):
        say(f"{plain(word)}\t{plain(about)}" if about else plain(word))
    return Exit.OK


def candidates(
    words: Sequence[str], summaries: Mapping[str, str], parser_of: Parsers
) -> Iterator[tuple[str, str]]:
    """Yield what may stand in the place of the last word, each with a word about it.

    `summaries`: the commands. `parser_of` gives a command's parser.
    """
    *before, now = words
    before = [word for word in before if word != "="]  # bash takes --state=ended for three words
    now, joined = "" if now == "=" else now, ""
    if now.startswith("--") and "=" in now:
        name, equals, now = now.partition("=")
        before, joined = [*before, name], name + equals
    found: Iterator[tuple[str, str]] = iter(summaries.items())
    if before:
        if before[0] not in summaries:
            return
        found = _of_parser(parser_of(before[0]), before[1:], options=now.startswith("-"))
    for word, about in found:
        if word == FILES or word.startswith(now):
            yield word if word == FILES else f"{joined}{word}", about


def _of_parser(
    parser: argparse.ArgumentParser, words: Sequence[str], *, options: bool
) -> Iterator[tuple[str, str]]:
    """Yield what may come after a command's words: an option's value, an option, an argument."""
    known = {name: act for act in parser._actions for name in act.option_strings}
    taken, used, value_of = 0, set[str](), None
    for word in words:
        if value_of is not None:
            value_of = None
        elif (option := known.get(word.partition("=")[0])) is not None:
            used |= {*option.option_strings}
            value_of = option if option.nargs != 0 and "=" not in word else None
        else:
            taken += 1
    if value_of is not None:
        yield from _values(value_of)
    elif options:
        for name, action in known.items():
            if name not in used:
                yield name, _about(action)
    else:
        for action in (action for action in parser._actions if not action.option_strings):
            if taken == 0 or action.nargs in ("*", "+"):
                yield from _values(action)
                return
            taken -= 1


def _values(action: argparse.Action) -> Iterator[tuple[str, str]]:
    """Yield what an option or argument may be, as far as that is known."""
    if action.choices is not None:
        yield from ((str(choice), "") for choice in action.choices if choice != WORDS)
    elif action.type is Path or action.metavar in ("FILE", "DIR", "PATH"):
        yield FILES, ""
    elif action.metavar == "MODEL":
        from agentd.models.store import available  # which no other word needs

        yield from ((model.name, "model") for model in available(discover().models))
    elif AGENT.search(str(action.metavar)):
        names = (path.stem for path in discover().agents_d.glob("*.toml"))
        # The shell puts it into the line as it stands: no file's name may be more than a name.
        yield from ((name, "agent") for name in sorted(names) if NAMED.fullmatch(name))


def _about(action: argparse.Action) -> str:
    """Return the beginning of an option's help."""
    found = FIRST_SENTENCE.match(action.help or "")
    return found[1].strip() if found else ""
