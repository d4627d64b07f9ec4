"""Completions of the command line for bash, zsh and fish, made from its parser."""

from collections.abc import Iterator
from typing import Final

from verbs import Option, Verb, below, every_verb

_MADE: Final = "Made from the code by scripts/generate_reference.py: change it there."
# What a value is called when it is the name of a file.
_FILES: Final = {"FILE", "PATH", "HASH-OR-PATH"}


BASH: Final = """\
# bash completion for harmonia-py
# {made}

_harmonia_py() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}
    local verb= word next verbs= options= files= after=
    COMPREPLY=()
    # The verb, of as many words as are known to follow one another.
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        next="${{verb:+$verb }}$word"
        case "$next" in
{known}
                verb=$next ;;
        esac
    done
    case "$verb" in
{cases}
    esac
    if [[ -n $after ]]; then
        [[ $after == files ]] && compopt -o filenames && mapfile -t COMPREPLY < <(compgen -f -- "$current")
        [[ $after == "="* ]] && mapfile -t COMPREPLY < <(compgen -W "${{after#=}}" -- "$current")
        return 0
    fi
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    elif [[ -n $files ]]; then
        compopt -o filenames && mapfile -t COMPREPLY < <(compgen -f -- "$current")
    else
        mapfile -t COMPREPLY < <(compgen -W "${{verbs:-$options}}" -- "$current")
    fi
}}

complete -F _harmonia_py harmonia-py
"""


def bash() -> str:
    """Return `share/bash-completion/completions/harmonia-py`."""
    every = list(every_verb())
    known = "|\\\n".join(f'            "{" ".join(verb.words)}"' for verb in every if verb.words) + ")"
    return BASH.format(made=_MADE, known=known, cases="\n".join(_bash_case(every, verb) for verb in every))


def _bash_case(every: list[Verb], verb: Verb) -> str:
    verbs = " ".join(one.words[-1] for one in below(every, verb))
    options = " ".join(name for option in verb.options for name in option.names)
    lines = [f'        "{" ".join(verb.words)}")', f'            verbs="{verbs}" options="{options}"']
    if _takes_files(verb):
        lines.append("            files=yes")
    valued = [option for option in verb.options if option.metavar is not None]
    if valued:
        lines.append('            case "$previous" in')
        for option in valued:
            after = f'"={" ".join(option.choices)}"' if option.choices else "files" if _is_file(option) else "nothing"
            lines.append(f"                {'|'.join(option.names)}) after={after} ;;")
        lines.append("            esac")
    return "\n".join([*lines, "            ;;"])


def _takes_files(verb: Verb) -> bool:
    return any(argument.metavar in _FILES for argument in verb.arguments)


def _is_file(option: Option) -> bool:
    return option.metavar in _FILES


ZSH: Final = """\
#compdef harmonia-py
# {made}

{functions}
_harmonia-py "$@"
"""


def zsh() -> str:
    """Return `share/zsh/site-functions/_harmonia-py`."""
    every = list(every_verb())
    return ZSH.format(made=_MADE, functions="\n".join(_zsh_function(every, verb) for verb in every))


def _zsh_function(every: list[Verb], verb: Verb) -> str:
    inner = below(every, verb)
    name = "-".join(("_harmonia-py", *verb.words))
    specifications = [spec for option in verb.options for spec in _zsh_option(option)]
    for index, argument in enumerate(verb.arguments, 1):
        position = "*" if argument.repeats else str(index)
        action = "_files" if argument.metavar in _FILES else ""
        specifications.append(f"'{position}:{_zsh(argument.metavar)}:{action}'")
    if not inner:
        body = " \\\n        ".join(["_arguments -s -S", *specifications])
        return f"{name}() {{\n    {body}\n}}\n"
    described = "\n".join(f"        '{one.words[-1]}:{_zsh(one.help)}'" for one in inner)
    cases = "\n".join(f"            {one.words[-1]}) {'-'.join((name, one.words[-1]))} ;;" for one in inner)
    body = " \\\n        ".join(["_arguments -s -S -C", *specifications, "'1:verb:->verb'", "'*::argument:->rest'"])
    return (
        f"{name}() {{\n    local curcontext=$curcontext state line\n    typeset -A opt_args\n"
        f"    local -a verbs=(\n{described}\n    )\n    {body} && return\n"
        f"    case $state in\n        verb) _describe verb verbs ;;\n"
        f"        rest) case $line[1] in\n{cases}\n        esac ;;\n    esac\n}}\n"
    )


def _zsh_option(option: Option) -> Iterator[str]:
    value = ""
    if option.metavar is not None:
        action = f"({' '.join(option.choices)})" if option.choices else "_files" if _is_file(option) else ""
        value = f":{_zsh(option.metavar)}:{action}"
    exclusive = "*" if option.repeats else f"({' '.join(option.names)})"
    for name in option.names:
        yield f"'{exclusive}{name}[{_zsh(option.help)}]{value}'"


def _zsh(text: str) -> str:
    """`text` in a specification, within single quotes."""
    for one in ("\\", "[", "]", ":"):
        text = text.replace(one, f"\\{one}")
    return text.replace("'", r"'\''")


FISH: Final = """\
# fish completion for harmonia-py
# {made}

# Whether the words so far begin with exactly this verb, apart from options.
function __harmonia_py_at
    set -l words (commandline -opc)
    set -l plain
    for word in $words[2..]
        string match -q -- '-*' $word; or set -a plain $word
    end
    string match -q -- "$argv *" "$plain "
end

# Whether no verb has been written yet.
function __harmonia_py_no_verb
    for word in (commandline -opc)[2..]
        string match -q -- '-*' $word; or return 1
    end
end

complete -c harmonia-py -f
{lines}
"""


def fish() -> str:
    """Return `share/fish/vendor_completions.d/harmonia-py.fish`."""
    every = list(every_verb())
    return FISH.format(made=_MADE, lines="\n".join(line for verb in every for line in _fish_lines(every, verb)))


def _fish_lines(every: list[Verb], verb: Verb) -> Iterator[str]:
    at = f"__harmonia_py_at {' '.join(verb.words)}" if verb.words else "__harmonia_py_no_verb"
    begin = f"complete -c harmonia-py -n '{at}'"
    for one in below(every, verb):
        yield f"{begin} -a {one.words[-1]} -d '{_fish(one.help)}'"
    for option in verb.options:
        names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
        yield f"{begin} {names}{_fish_value(option)} -d '{_fish(option.help)}'"
    if _takes_files(verb):
        yield f"{begin} -F"


def _fish_value(option: Option) -> str:
    if option.metavar is None:
        return ""
    if option.choices:
        return f" -x -a '{' '.join(option.choices)}'"
    return " -r -F" if _is_file(option) else " -x"


def _fish(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", r"\'")
