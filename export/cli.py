"""`glassrt export`."""

from pathlib import Path
from typing import Annotated

import typer

from glassrt.engine.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.command("export")(export_command)


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Bundle folder to write, NAME.glass.", show_default=False)],
) -> None:
    """Export a finished training run to a bundle."""
    if out.suffix != ".glass":
        raise UsageError(f"--out {out}: a bundle's folder is named NAME.glass")
    try:
        from glassrt.export.bundle import export_run
    except ModuleNotFoundError as error:
        raise UsageError(f"export needs {error.name}, which is not installed: pip install 'glassrt[export]'") from error
    bundle = export_run(run, out, out.stem)
    print(f"{bundle.path}: {bundle.manifest.name}, sha256 {bundle.sha256}")
