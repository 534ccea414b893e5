"""``tilewright evaluate``: what the accelerator's arithmetic does to a model's predictions."""

from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .compile import KvOption, ModelArgument, SourceOption, WeightsOption, kv_format
from .output import check_writable, write_json

__all__ = ["register"]

TEXT = Path(__file__).parents[1] / "texts" / "pride-and-prejudice.txt"
"""Opening of Jane Austen, Pride and Prejudice (1813), chapter 1; in the public domain."""


def evaluate(
    model: ModelArgument,
    weights: WeightsOption = "file",
    kv: KvOption = None,
    tokens: Annotated[int, typer.Option(min=1, help="So many tokens of the text, from its start.")] = 512,
    text: Annotated[Path | None, typer.Option("--text", help="A file of UTF-8; default: the opening of Pride and "
                                                             "Prejudice.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    source: SourceOption = None,
):
    """Compare a model's predictions over a text in the accelerator's arithmetic (the golden model) with a float64 run
    of the file's own weights: next-token agreement, KL divergence, perplexity, cosine of the logits."""
    from rich.console import Console

    from tilewright.gen.checkpoint import open_checkpoint
    from tilewright.gen.compiler.requirements import functions_of
    from tilewright.gen.functions import function_tables
    from tilewright.gen.package import whole_model
    from tilewright.sim.evaluation import evaluate as evaluated
    from tilewright.sim.layer_run import golden_tables

    kv = kv_format(weights, kv)
    check_writable(json_file)
    content = _read(text or TEXT)
    with Console(stderr=True).status("opening the model") as status:
        checkpoint = open_checkpoint(model, source)
        numbers = _tokens(checkpoint, model, content, text or TEXT, tokens)
        whole = whole_model(checkpoint, weights, status.update)
        exact = whole_model(checkpoint, "float32", status.update)
        names = {name for shape in whole.shapes for name in functions_of(shape)}
        status.update(f"0 of {tokens} tokens")
        result = evaluated(whole, exact, numbers, golden_tables(function_tables(sorted(names))), kv_format=kv,
                           progress=lambda done: status.update(f"{done} of {tokens} tokens"))
    report = {"model": Path(model).stem, "weights": weights, "kv": kv, "text": (text or TEXT).name,
              "reference": "float64 on the file's own weights"} | result.as_json()
    if json_file is not None:
        write_json(json_file, report)
    _show(Console(), report)


def _read(path):
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8; give a plain text") from None


def _tokens(checkpoint, model, content, path, count):
    """The text's first ``count`` tokens; UserError where there are not so many, or the model does not predict any."""
    architecture = checkpoint.architecture
    if not (architecture.lm_head and architecture.causal):
        raise UserError(f"{model}: is an encoder, which predicts no tokens; see tilewright embed")
    if count > architecture.max_context:
        raise UserError(f"--tokens {count}: is more than the model's limit of {architecture.max_context}")
    numbers = checkpoint.tokenizer().prompt(content)
    if len(numbers) < count:
        raise UserError(f"--tokens {count}: {path} has only {len(numbers)}; give a longer --text or fewer --tokens")
    return numbers[:count]


def _show(console, report):
    from rich.table import Table

    table = Table(title=f"{report['model']}, weights {report['weights']}, KV cache {report['kv']}", show_header=False,
                  caption=f"against {report['reference']}")
    rows = [("next token the same", f"{report['agreement']:.1%}: {report['agreeing']} of {report['tokens']}"),
            ("KL divergence", f"{report['kl']:.2g} mean, {report['kl_largest']:.2g} at most"),
            ("cosine of logits", f"{report['cosine']:.5f} mean, {report['cosine_least']:.5f} at least")]
    if report["perplexity"] is not None:
        rows.append(("perplexity", f"{report['perplexity']:.3f}, reference {report['reference_perplexity']:.3f}"))
    for row in rows:
        table.add_row(*row)
    console.print(table)


def register(app):
    """Add the command to ``app``."""
    app.command()(evaluate)
