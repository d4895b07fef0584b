"""`everycore completion`: the script by which a shell completes the command line of `everycore`.

The script runs the command itself with the line up to the cursor (`_EVERYCORE_COMPLETE`, click's protocol).
It offers what that prints: one candidate a line, with its kind, its word and an explanation. Invariant:
whatever the line says, the answer is candidates or nothing, and nothing is started.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import click
from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

from everycore.cli.candidates import FILE
from everycore.cli.options import CONTEXT
from everycore.errors import ConfigurationError

VARIABLE: Final = "_EVERYCORE_COMPLETE"
_PROGRAM: Final = "everycore"

_BASH: Final = r"""
# everycore completion bash
_everycore_completion() {
    local kind word rest
    COMPREPLY=()
    while IFS=$'\t' read -r kind word rest; do
        case $kind in
            file) compopt -o default; return ;;
            dir) compopt -o dirnames; return ;;
            open) compopt -o nospace; COMPREPLY+=("$word") ;;
            plain) COMPREPLY+=("$word") ;;
        esac
    done < <(_EVERYCORE_COMPLETE=bash_complete COMP_LINE="${COMP_LINE:0:COMP_POINT}" \
        COMP_BREAKS="$COMP_WORDBREAKS" "$1" 2>/dev/null)
}
complete -o nosort -F _everycore_completion everycore 2>/dev/null ||
    complete -F _everycore_completion everycore
"""

_ZSH: Final = r"""
#compdef everycore
# everycore completion zsh
_everycore() {
    local kind word rest
    local -a words_found open_found
    while IFS=$'\t' read -r kind word rest; do
        case $kind in
            file) compset -P '--*='; _files; return ;;
            dir) compset -P '--*='; _files -/; return ;;
            open) open_found+=("$word") ;;
            plain) words_found+=("${word//:/\\:}${rest:+:$rest}") ;;
        esac
    done < <(_EVERYCORE_COMPLETE=zsh_complete COMP_LINE="${(j: :)words[1,CURRENT]}" $words[1] 2>/dev/null)
    compset -P '--*='
    (( $#words_found )) && _describe -V everycore words_found
    (( $#open_found )) && compadd -S '' -- $open_found
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _everycore "$@"
else
    compdef _everycore everycore
fi
"""

_FISH: Final = r"""
# everycore completion fish
function __everycore_complete
    set -l token (commandline -ct)
    set token (string unescape -- $token; or echo "$token")
    set -l before (string match -r '^--[^=]+=' -- $token; or echo '')
    set -l begun (string replace -r '^--[^=]+=' '' -- "$token")
    set -l line (commandline -cp | string collect)
    for found in (env _EVERYCORE_COMPLETE=fish_complete COMP_LINE="$line" everycore 2>/dev/null)
        set -l parts (string split -m 2 \t -- $found)
        switch $parts[1]
            case file
                printf "$before%s\n" (__fish_complete_path "$begun")
            case dir
                printf "$before%s\n" (__fish_complete_directories "$begun")
            case '*'
                printf '%s%s\t%s\n' "$before" $parts[2] "$parts[3]"
        end
    end
end
complete -c everycore -f -a '(__everycore_complete)'
"""

SCRIPTS: Final[Mapping[str, str]] = {
    "bash": _BASH.lstrip(),
    "zsh": _ZSH.lstrip(),
    "fish": _FISH.lstrip(),
}

EPILOG = """
\b
Load it in every new shell:
  bash  echo 'eval "$(everycore completion bash)"' >> ~/.bashrc
  zsh   echo 'eval "$(everycore completion zsh)"' >> ~/.zshrc        (after compinit)
  fish  everycore completion fish > ~/.config/fish/completions/everycore.fish

\b
Load it on first use, so that new shells start without delay:
  bash  everycore completion bash > ~/.local/share/bash-completion/completions/everycore
  zsh   everycore completion zsh > FOLDER/_everycore                 (FOLDER: one of $fpath)
"""


@click.command(
    short_help="Print the completion script of bash, zsh or fish.", epilog=EPILOG, context_settings=CONTEXT
)
@click.argument("shell", type=click.Choice(list(SCRIPTS)), required=False)
def completion(*, shell: str | None) -> int:
    """Print the script by which a shell completes options, their values, files and MODULE:ATTRIBUTE."""
    if shell is None:
        raise ConfigurationError("completion", f"needs the shell: {', '.join(SCRIPTS)}")
    click.echo(SCRIPTS[shell], nl=False)
    return 0


class Completion(ShellComplete):
    """The line up to the cursor, and what may follow."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The complete words before the cursor, and the word that is being typed."""
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)[1:]
        begun = words.pop() if words and not line[-1:].isspace() else ""
        if words[:1] == ["config"]:  # the words of `serve` or `run` follow it
            places = [place for place, word in enumerate(words) if word in ("serve", "run")]
            words = words[places[0] :] if places else words
        return words, begun

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """The candidates for the word that is being typed."""
        if args[:1] == ["run"]:
            from everycore.cli.run import RunCommand, run

            assert isinstance(run, RunCommand)
            if run.completes_files(args[1:]):
                return [CompletionItem("", type=FILE)]
        return super().get_completions(args, incomplete)

    def format_completion(self, item: CompletionItem[str]) -> str:
        """Format a candidate as the scripts read it."""
        help_ = " ".join((item.help or "").split())
        return f"{item.type}\t{item.value}\t{help_}"

    def completed(self, breaks: str | None) -> list[str]:
        """The lines that the command prints. breaks: the characters at which bash ends a word."""
        args, begun = self.get_completion_args()
        items = self.get_completions(args, begun)
        if breaks is not None:
            items = [_as_bash_has_it(item, begun, breaks) for item in items]
        return [self.format_completion(item) for item in items]


def _as_bash_has_it(item: CompletionItem[str], begun: str, breaks: str) -> CompletionItem[str]:
    """Cut a candidate for bash, which replaces only what follows the last break.

    Click has cut off an option's name and "=" already.
    """
    option, equals, value = begun.partition("=")
    has_option = bool(equals) and option.startswith("--")
    whole = f"{option}=" if has_option and "=" not in breaks else ""
    typed = value if has_option else begun
    cut = max((typed.rfind(mark) + 1 for mark in ":=" if mark in breaks), default=0)
    return CompletionItem(f"{whole}{item.value[cut:]}", type=item.type, help=item.help)


def answer(asked: str, command: click.Command) -> int:
    """Answer a shell: `bash_complete` asks for candidates, `bash_source` for the script. Returns the status.

    Raises ConfigurationError for any other request.
    """
    shell, _, wanted = asked.partition("_")
    if shell not in SCRIPTS or wanted not in ("source", "complete"):
        known = ", ".join(f"{shell}_complete" for shell in SCRIPTS)
        raise ConfigurationError(VARIABLE, f"must be one of {known}, not {asked!r}; a shell's script sets it")
    if wanted == "source":
        click.echo(SCRIPTS[shell], nl=False)
        return 0
    breaks = os.environ.get("COMP_BREAKS", ":=") if shell == "bash" else None
    try:
        lines = Completion(command, {}, _PROGRAM, VARIABLE).completed(breaks)
    except (click.ClickException, ValueError, OSError):  # the line is wrong already: no candidates
        return 0
    for line in lines:
        click.echo(line)
    return 0
