"""`glassrt train` and `glassrt evaluate`."""

import typer

from glassrt.training.commands.evaluate import evaluate_command
from glassrt.training.commands.oeem import oeem_command
from glassrt.training.commands.segment import segment_command

train_app = typer.Typer(help="Train networks.", no_args_is_help=True)
train_app.command("segment")(segment_command)
train_app.command("oeem")(oeem_command)


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.add_typer(train_app, name="train")
    app.command("evaluate")(evaluate_command)


@train_app.callback()
def train_group() -> None:
    """Train networks."""
