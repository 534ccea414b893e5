"""What is told of a model: size, structure in words, bytes in each format, and what a configuration lacks for it.

``python -m tilewright.gen.model_report FILE`` writes ``docs/models.md``.
"""

import math
import sys
from pathlib import Path

from tilewright.gen.compiler.fit import longest_context
from tilewright.gen.compiler.requirements import functions_of, lacks, least_activation_depth, power_of_two
from tilewright.gen.model import known_models, load_model
from tilewright.gen.verilog import write_if_changed
from tilewright.hw.config import BLOCK

__all__ = ["tensor_bytes", "structure", "summary", "tensor_list", "model_document"]

FORMATS = ("int8", "fp16")
TOPOLOGIES = {"sequential": "sequential", "parallel_shared": "parallel, one norm", "parallel": "parallel, two norms",
              "sandwich": "sandwich norms", "post_norm": "norm after each residual"}
NORMS = {"rms_norm": "RMSNorm", "layer_norm": "LayerNorm"}
ACTIVATIONS = {"silu": "SiLU", "gelu_erf": "GELU (erf)", "gelu_tanh": "GELU (tanh)", "quick_gelu": "quick-GELU"}
BIAS_TITLES = {"ffn": "FFN"}
BYTES_NOTE = ("A matrix in INT8 has an FP16 scale for each 32 weights along its inputs; vectors (gains, biases) are "
              "FP32. Embeddings are included, one row of which is read for a token; a tied output layer counts once.")


def tensor_bytes(shape, weights):
    """Bytes of a tensor: a matrix in the format ``weights``, 'int8' in blocks or 'fp16', a vector in FP32."""
    if len(shape) == 1:
        return 4 * shape[0]
    n, k = shape
    return 2 * n * k if weights == "fp16" else n * (k + 2 * -(-k // BLOCK))


def structure(a):
    """A model's structure in words: norm, topology, mlp, positions, biases and mask."""
    norm = NORMS[a.norm] + " with sub-norms" * a.sub_norm + ", q and k normed" * a.qk_norm
    if a.positions == "rope":
        positions = "RoPE" + f" on {a.rotary_dim} of {a.head_dim}" * (a.rotary_dim < a.head_dim)
        positions += f", theta {a.rope_theta:,.0f}"
        positions += "" if a.rope_theta_local is None else f" ({a.rope_theta_local:,.0f} with window)"
        positions += f", scaled by {a.rope_scaling.factor:g}" if a.rope_scaling else ""
    else:
        positions = f"{a.positions} positions"
    biases = [BIAS_TITLES.get(name, name) for name in a.biases] + ["lm_head"] * a.lm_head_bias
    if not a.causal:
        mask = "bidirectional"
    elif a.window:
        windowed = sum(a.layer(i).window > 0 for i in range(a.layers))
        mask = f"causal, window {a.window:,} on {windowed} of {a.layers} layers"
    else:
        mask = "causal"
    return {"norm": norm, "topology": TOPOLOGIES[a.topology],
            "mlp": f"{'GLU' if a.mlp == 'glu' else 'plain MLP'}, {ACTIVATIONS[a.activation]}", "positions": positions,
            "biases": ", ".join(biases) or "none", "mask": mask}


def summary(model, config=None):
    """Figures of a model as JSON has them; with a configuration also what that lacks."""
    a = model.architecture
    tensors = a.tensors().values()
    values = {"name": model.name, "title": model.title, "parameters": sum(math.prod(shape) for shape in tensors)}
    values |= {name: getattr(a, name) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab",
                                                   "max_context")}
    values["structure"] = structure(a)
    values["bytes"] = {name: sum(tensor_bytes(shape, name) for shape in tensors) for name in FORMATS}
    values["file"] = model.source and model.source.file
    if config is not None:
        found = lacks(config, a)
        values["lacks"] = [lack._asdict() for lack in found]
        values["contexts"] = {} if any(lack.blocking for lack in found) else {
            name: dict(zip(("longest", "limit"), longest_context(config, a, name), strict=True))
            for name in config.operand_formats}
    return values


def tensor_list(a):
    """Name, shape and bytes by format of each tensor of an architecture; layers of equal shapes stand together."""
    groups = {}  # a tensor has the same shape in all layers of a model
    for name, shape in a.tensors().items():
        parts = name.split(".")
        groups.setdefault(f"layers.*.{parts[2]}" if parts[0] == "layers" else name, []).append(shape)
    return [{"name": name, "count": len(shapes), "shape": list(shapes[0]),
             "bytes": {weights: tensor_bytes(shapes[0], weights) for weights in FORMATS}}
            for name, shapes in groups.items()]


def _table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows] + [""]


def model_document():
    """Text of ``docs/models.md``."""
    models = [load_model(name) for name in known_models()]
    entries = [(model.architecture, summary(model)) for model in models]
    entries.sort(key=lambda entry: entry[1]["parameters"])
    lines = [
        "# Models", "", "Generated from `gen/models/*.toml` by `make docs`; a test compares. Do not edit.", "",
        "`tilewright models` shows this with what a configuration lacks for each model, `tilewright models NAME` the "
        "tensors of one. A model's name is that of its file in `gen/models`, which also names the sources; the counts "
        "of parameters are computed from the tensors and equal the published ones (`tests/gen/test_model.py`). "
        "KOSMOS-2 is its text decoder; all-MiniLM-L6-v2 is without pooler and with the row of token type 0 folded into "
        "the position table.", "", "## Sizes", "", BYTES_NOTE, ""]
    lines += _table(
        ("model", "parameters", "layers", "hidden", "heads / KV", "head_dim", "FFN", "vocabulary", "context", "INT8 MB",
         "FP16 MB"),
        ((v["name"], f"{v['parameters']:,}", a.layers, a.hidden, f"{a.heads} / {a.kv_heads}", a.head_dim, a.ffn,
          f"{a.vocab:,}", f"{a.max_context:,}", *(f"{v['bytes'][name] / 1e6:,.1f}" for name in FORMATS))
         for a, v in entries))
    lines += ["## Structures", ""]
    lines += _table(("model", "norm", "residual", "MLP", "positions", "biases", "mask"),
                    ((v["name"], *v["structure"].values()) for _, v in entries))
    lines += ["## What a configuration needs", "",
              "For one layer; `max_context` is the model's own, and a smaller one runs a shorter context. "
              "`activation_depth` is the least; how much of it and of `scratchpad_bytes` a program takes depends on "
              "context and tokens at a time.", ""]
    lines += _table(
        ("model", "functions", "max_hidden", "max_head_dim", "activation_depth", "max_context"),
        ((v["name"], ", ".join(f"`{name}`" for name in functions_of(a.layer(0))), a.hidden, a.head_dim,
          power_of_two(least_activation_depth(a.layer(0))), a.max_context) for a, v in entries))
    return "\n".join(lines)


if __name__ == "__main__":
    write_if_changed(Path(sys.argv[1]), model_document())
