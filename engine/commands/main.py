"""The `glassrt` command. The other rooms add theirs through the entry-point group `glassrt.commands`."""

import errno
import io
import sys
from importlib.metadata import entry_points, version
from typing import Annotated, Any

import typer

from glassrt.engine.commands.clients import clients_command
from glassrt.engine.commands.embed import embed_command
from glassrt.engine.commands.info import info_command
from glassrt.engine.commands.plan import plan_command
from glassrt.engine.commands.score import score_command
from glassrt.engine.commands.serve import serve_command
from glassrt.engine.commands.status import report_command, status_command
from glassrt.engine.commands.suspects import suspects_command
from glassrt.engine.commands.terminal import printable
from glassrt.engine.commands.watch import watch_command
from glassrt.engine.errors import GlassError

BAD_INPUT = 2
MISTYPED: Any = typer.BadParameter.__base__  # of all that cannot be parsed; typer gives it no name of its own

app = typer.Typer(
    help="Score whole-slide images with weakly supervised pathology models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; what a user can mend ends in one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of other letters must not end a finished run
    for entry in entry_points(group="glassrt.commands"):
        entry.load()(app)
    try:
        sys.exit(app(standalone_mode=False))
    except GlassError as error:
        print(f"glassrt: {printable(str(error))}", file=sys.stderr)
    except MISTYPED as error:
        if message := " ".join(error.format_message().split()).rstrip("."):  # none where the help has been printed
            command = error.ctx.command_path if error.ctx else "glassrt"
            print(f"glassrt: {printable(message)}; see {command} --help", file=sys.stderr)
    except OSError as error:
        if not (line := explain(error)):
            raise
        print(f"glassrt: {printable(line)}", file=sys.stderr)
    sys.exit(BAD_INPUT)


def explain(error: OSError) -> str:
    """What a user can mend of what no part of the work has a word for; nothing where that is not known."""
    if isinstance(error, PermissionError) and error.filename is not None:  # of looking into a folder, wherever that was
        return f"{error.filename}: no permission to reach it"
    if error.errno == errno.ENOSPC:  # files on a full disk have a word of their own
        return "no space left where the output of this command goes"
    return ""


def print_version(asked: bool) -> None:
    """Print the version and end, if `--version` was given."""
    if asked:
        print(f"glassrt {version('glassrt')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What holds for all commands."""


app.command("score")(score_command)
app.command("status")(status_command)
app.command("report")(report_command)
app.command("watch")(watch_command)
app.command("serve")(serve_command)
app.command("clients")(clients_command)
app.command("embed")(embed_command)
app.command("suspects")(suspects_command)
app.command("plan")(plan_command)
app.command("info")(info_command)
