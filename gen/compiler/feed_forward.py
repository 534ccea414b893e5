"""The feed-forward part: up (and gate) in chunks, a chunk's activation under the next chunk's matmuls, then down."""

from tilewright.hw.commands import Dest, Operand

from .plan import FFN_CHUNK

__all__ = ["plan_streams", "activate"]


def _chunks(b):
    """(first output, outputs) of each chunk of gate_proj and up_proj."""
    return [(first, min(FFN_CHUNK, b.shape.ffn - first)) for first in range(0, b.shape.ffn, FFN_CHUNK)]


def _parts(b):
    """Matrices computed chunk by chunk: gate and up, or up alone."""
    return 2 if b.shape.mlp == "glu" else 1


def plan_streams(b, down_pieces):
    """Plan the STREAMs of gate_proj, up_proj and down_proj, the last one taken in so many pieces."""
    chunks, parts = _chunks(b), _parts(b)
    with b.label("up_proj"):
        b.plan_weights("up", b.shape.hidden, sum(parts * b.weights.tiles(count) for _, count in chunks),
                       matmuls=parts * len(chunks))
    with b.label("down_proj"):
        b.plan_weights("down_proj", b.shape.ffn, b.weights.tiles(b.shape.hidden), matmuls=down_pieces)


def activate(b, source):
    """down_proj's activations from those at ``source`` ('h' or 'h_ffn')."""
    chunks, parts = _chunks(b), _parts(b)
    size = b.groups(min(FFN_CHUNK, b.shape.ffn)) * b.plan.tokens
    waiting = None
    for i, (first, count) in enumerate(chunks):
        places = [b.plan.scratch["up"] + (parts * (i % 2) + part) * size for part in range(parts)]
        for place in places:
            b.project(b.shape.hidden, count, activation=source, dest=place, dest_stride=b.groups(count))
        b.streams.pump()
        if waiting:
            _chunk(b, *waiting)
        waiting = first, count, places
    _chunk(b, *waiting)
    if b.shape.sub_norm:
        b.norm("ffn_sub_norm", "active", b.shape.ffn, **b.operand("gated", b.shape.ffn))


def _chunk(b, first, count, places):
    """The activation of a chunk's outputs, with its bias, times up_proj's where there is a gate."""
    stride, fields = b.groups(count), {}
    bias = {}
    if "up_bias" in b.shape.vector_sizes:
        bias = {"c_kind": Operand.STREAM, "c": b.plan.scratch["up_bias"] + first // b.config.group_words}
    if len(places) == 2:
        if bias:
            b.in_place(count, b.tokens, places[1], stride, **bias)
        fields = {"d_kind": Operand.STREAM, "d": places[1], "d_stride": stride}
    else:
        fields = bias
    if b.shape.sub_norm:
        target = {"dest": Dest.FP32, "target_stride": b.groups(b.shape.ffn),
                  "target": b.plan.scratch["active"] + first // b.config.group_words}
    else:
        target = b.operand("gated", b.shape.ffn)
        target["target"] += first
    b.vector(count, b.tokens, a=places[0], a_stride=stride, function=b.function(b.shape.activation), **fields, **target)
