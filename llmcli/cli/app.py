"""The command line: a table of commands, each imported only when it runs or when its own help is asked for."""

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmcli.cli.coerce import lighten
from llmcli.errors import EXIT_OK, LlmcliError, UsageError

# name: (where its function or Typer app is, its line in `llmcli --help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("llmcli.cli.generate:generate", "Continue a text, token by token."),
    "replay": ("llmcli.cli.replay:replay", "Run a recorded generation again, and compare."),
    "tokenize": ("llmcli.cli.tokenize:tokenize", "Text to token ids, shown or counted."),
    "decode": ("llmcli.cli.decode:decode", "Token ids back to text, exactly."),
    "explain": ("llmcli.cli.explain:explain", "From a text to its next token, step by step."),
    "inspect-logits": (
        "llmcli.cli.inspect_logits:inspect_logits",
        "What may come next, and how well a text was predicted.",
    ),
    "inspect-model": ("llmcli.cli.inspect_model:inspect_model", "The modules of a model, and what they cost."),
    "inspect-positions": ("llmcli.cli.inspect_positions:inspect_positions", "How a model knows where a token stands."),
    "inspect-cache": ("llmcli.cli.inspect_cache:inspect_cache", "What the KV cache costs and saves."),
    "perplexity": ("llmcli.cli.perplexity:perplexity", "How well a model predicts a text."),
    "inspect-attention": ("llmcli.cli.inspect_attention:inspect_attention", "Where every head looks."),
    "bench": ("llmcli.cli.bench:bench", "How fast a model runs here."),
    "quantize": ("llmcli.cli.quantize:quantize", "Store a model in a smaller form."),
    "train": ("llmcli.cli.train:train", "Train a model on text."),
    "models": ("llmcli.cli.models:app", "The models at hand, and how to get others."),
    "config": ("llmcli.cli.config:app", "Where each setting comes from."),
    "completions": ("llmcli.cli.completions:completions", "The completion script of a shell."),
}

EPILOG = 'Example: llmcli generate "Once upon a time"'


class LazyGroup(TyperGroup):
    """A group whose commands are the table above."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        return load_command(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = nearest(args[0], COMMANDS)
            remedy = f"did you mean {near}? " if near else ""
            raise UsageError(f"there is no command {args[0]!r}", f"{remedy}`llmcli --help` lists the commands")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@cache
def load_command(name: str) -> Any:
    """Import a command of the table and build its parser, with the options that every command has."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    target = getattr(import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        target = _typer_of(name, target)
    command = typer.main.get_command(target)
    command.name = name
    for each in (command, *getattr(command, "commands", {}).values()):
        _complete(each, _common)
    return command


def _complete(command: Any, holder: Callable[..., Any]) -> None:
    """Give a command the options that `holder` holds, in the place of Typer's own help option."""
    command.add_help_option = False
    command.params.extend(typer.main.get_command(_typer_of("holder", holder)).params)
    for parameter in command.params:
        lighten(parameter)


def _typer_of(name: str, function: Callable[..., Any]) -> typer.Typer:
    app = typer.Typer(**PLAIN)
    app.command(name, add_help_option=False)(function)
    return app


def _show_debug(value: bool) -> None:
    # In the environment, so that the outermost boundary and child processes see it too.
    if value:
        os.environ["LLMCLI_DEBUG"] = "1"


def _show_version(value: bool) -> None:
    if value:
        from llmcli.cli.version import version_text

        typer.echo(version_text())
        raise typer.Exit


def _show_help(context: typer.Context, value: bool) -> None:
    if value:
        typer.echo(context.get_help())
        raise typer.Exit


DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_show_debug, expose_value=False)
]
HelpOption = Annotated[
    bool,
    typer.Option(
        "-h", "--help", help="Show this message and exit.", callback=_show_help, is_eager=True, expose_value=False
    ),
]
VersionOption = Annotated[
    bool,
    typer.Option("--version", help="Show the versions in use.", callback=_show_version, expose_value=False),
]


def _common(debug: DebugOption = False, show_help: HelpOption = False) -> None:
    """Holds the options that every command has."""


def _program(version: VersionOption = False, debug: DebugOption = False, show_help: HelpOption = False) -> None:
    """Holds the options of the program itself."""


PLAIN: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,  # rich's help costs more time than everything else in `--help`
}

app = typer.Typer(cls=LazyGroup, epilog=EPILOG, **PLAIN)


@app.callback()
def root(context: typer.Context) -> None:
    """Run any causal language model in the shell, and open every part of it with exact numbers."""
    name = context.invoked_subcommand
    if name is not None and (values := settings_of(load_command(name))):
        context.default_map = {name: values}


def settings_of(command: Any) -> dict[str, Any]:
    """What the configuration file says for a command: the settings whose variable one of its options reads."""
    from llmcli.settings import SETTINGS, read_config

    written = {SETTINGS[name].variable: value for name, value in read_config().items()}
    return {each.name: written[each.envvar] for each in command.params if getattr(each, "envvar", None) in written}


def root_command() -> Any:
    """The parser of the program itself, whose commands load when they are asked for."""
    command = typer.main.get_command(app)
    _complete(command, _program)
    return command


def invoke(arguments: list[str]) -> int:
    """Parse a command line and run its command. What goes wrong is raised, never printed."""
    command = root_command()
    try:
        with command.make_context("llmcli", list(arguments) or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    return EXIT_OK


def usage_error(error: BaseException) -> LlmcliError | None:
    """What Typer raises for a command line that does not parse, in the words of this program; None for the rest."""
    if isinstance(error, typer.Abort):
        return LlmcliError("aborted")
    if not isinstance(error, typer.TyperException):
        return None
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "llmcli COMMAND"
    message = _plain(" ".join(error.format_message().split()).rstrip("."))
    remedy = f"`{path} --help` lists the options and shows examples"
    option = getattr(error, "option_name", None)
    if option is not None and context is not None and hasattr(error, "possibilities"):
        message = f"there is no option {option}"
        known = [name for each in context.command.get_params(context) for name in (*each.opts, *each.secondary_opts)]
        if near := nearest(option, known):
            remedy = f"did you mean {near}? {remedy}"
        elif not option.startswith("--"):
            remedy = f"put -- before text and numbers that begin with a dash; {remedy}"
    return UsageError(message[:1].lower() + message[1:], remedy)


def _plain(message: str) -> str:
    """Typer's words for a bad value without those of the library that it asks."""
    message = message.replace(": Input should be ", ": it must be ").replace(": Value error, ", ": ")
    return message.partition(", unable to parse")[0]


def nearest(word: str, known: Any) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(known), n=1, cutoff=0.6)), None)
