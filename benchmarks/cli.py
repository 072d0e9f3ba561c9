"""`glassrt bench`."""

import typer

from glassrt.benchmarks.commands.batch import batch_command
from glassrt.benchmarks.commands.beta_kl import beta_kl_command
from glassrt.benchmarks.commands.compare import compare_command
from glassrt.benchmarks.commands.da_refinenet import da_refinenet_command
from glassrt.benchmarks.commands.distill import distill_command
from glassrt.benchmarks.commands.embedding import embed_command
from glassrt.benchmarks.commands.kernels import kernels_command
from glassrt.benchmarks.commands.latency import latency_command
from glassrt.benchmarks.commands.memory import memory_command
from glassrt.benchmarks.commands.oeem import oeem_command
from glassrt.benchmarks.commands.peers import peers_command
from glassrt.benchmarks.commands.quality import quality_command
from glassrt.benchmarks.commands.reading import reading_command
from glassrt.benchmarks.commands.scan import scan_command
from glassrt.benchmarks.commands.serve import serve_command
from glassrt.benchmarks.commands.slide import slide_command
from glassrt.benchmarks.commands.suspicion import suspicion_command
from glassrt.benchmarks.commands.tissue import tissue_command
from glassrt.benchmarks.commands.transfer import transfer_command

bench_app = typer.Typer(help="Measure GlassRT on this machine.", no_args_is_help=True)
bench_app.command("slide")(slide_command)
bench_app.command("latency")(latency_command)
bench_app.command("peers")(peers_command)
bench_app.command("quality")(quality_command)
bench_app.command("reading")(reading_command)
bench_app.command("compare")(compare_command)
bench_app.command("memory")(memory_command)
bench_app.command("tissue")(tissue_command)
bench_app.command("oeem")(oeem_command)
bench_app.command("da-refinenet")(da_refinenet_command)
bench_app.command("beta-kl")(beta_kl_command)
bench_app.command("distill")(distill_command)
bench_app.command("transfer")(transfer_command)
bench_app.command("batch")(batch_command)
bench_app.command("scan")(scan_command)
bench_app.command("serve")(serve_command)
bench_app.command("embed")(embed_command)
bench_app.command("suspicion")(suspicion_command)
bench_app.command("kernels")(kernels_command)


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.add_typer(bench_app, name="bench")
