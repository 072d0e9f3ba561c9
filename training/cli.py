"""`glassrt train`, `glassrt evaluate` and `glassrt mosaic`."""

import typer

from glassrt.training.commands.beta_kl import beta_kl_command
from glassrt.training.commands.da_refinenet import da_refinenet_command
from glassrt.training.commands.distil import distil_command
from glassrt.training.commands.distill_to_label import distill_to_label_command
from glassrt.training.commands.evaluate import evaluate_command
from glassrt.training.commands.mosaic import mosaic_command
from glassrt.training.commands.oeem import oeem_command
from glassrt.training.commands.segment import segment_command
from glassrt.training.commands.transfer import transfer_command

train_app = typer.Typer(help="Train networks.", no_args_is_help=True)
train_app.command("segment")(segment_command)
train_app.command("oeem")(oeem_command)
train_app.command("da-refinenet")(da_refinenet_command)
train_app.command("beta-kl")(beta_kl_command)
train_app.command("distil")(distil_command)
train_app.command("distill-to-label")(distill_to_label_command)
train_app.command("transfer")(transfer_command)


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.add_typer(train_app, name="train")
    app.command("evaluate")(evaluate_command)
    app.command("mosaic")(mosaic_command)


@train_app.callback()
def train_group() -> None:
    """Train networks."""
