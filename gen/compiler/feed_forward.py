"""SwiGLU: gate and up in chunks, SiLU of a chunk under the next chunk's matmuls, down_proj into the residual."""

from tilewright.hw.commands import Dest, Opcode, Operand

from .builder import IO
from .plan import FFN_CHUNK

__all__ = ["plan_streams", "feed_forward"]

DOWN_PIECES = 4
"""Pieces of down_proj whose results are added and stored while the next one is computed."""


def _chunks(b):
    """(first output, outputs) of each chunk of gate_proj and up_proj."""
    return [(first, min(FFN_CHUNK, b.shape.ffn - first)) for first in range(0, b.shape.ffn, FFN_CHUNK)]


def _down_pieces(b):
    return b.pieces(b.shape.hidden, b.shape.hidden // DOWN_PIECES)


def plan_streams(b):
    """Plan the STREAMs of gate_proj, up_proj and down_proj."""
    lanes = b.config.lanes
    b.plan_weights("gate_up", b.shape.hidden, sum(2 * -(-count // lanes) for _, count in _chunks(b)),
                   matmuls=2 * len(_chunks(b)))
    b.plan_weights("down_proj", b.shape.ffn, -(-b.shape.hidden // lanes), matmuls=len(_down_pieces(b)))


def feed_forward(b):
    """x = x + down_proj(silu(gate) * up) from the normalised activations; x goes to memory."""
    chunks = _chunks(b)
    size = b.groups(min(FFN_CHUNK, b.shape.ffn)) * b.plan.tokens
    for i, (_, count) in enumerate(chunks):
        for part in range(2):
            b.streams.matmul(scaled=1, k=b.shape.hidden, n=count, rows=b.tokens, activation=b.plan.activation["h_ffn"],
                             dest=b.plan.scratch["gate_up"] + (2 * (i % 2) + part) * size, dest_stride=b.groups(count))
        b.streams.pump()
        if i:
            _gate(b, i - 1, *chunks[i - 1], size)
    _gate(b, len(chunks) - 1, *chunks[-1], size)
    b.project_to_residual(b.shape.ffn, "gated", _down_pieces(b), lambda *piece: _store(b, *piece))


def _gate(b, i, first, count, size):
    gate, stride = b.plan.scratch["gate_up"] + 2 * (i % 2) * size, b.groups(count)
    b.vector(count, b.tokens, a=gate, a_stride=stride, function=b.function("silu"), d_kind=Operand.STREAM,
             d=gate + size, d_stride=stride, dest=Dest.ACTIVATION, target=b.plan.activation["gated"] + first)


def _store(b, first, count):
    b.program.emit(Opcode.STORE, region=IO, offset=b.place.output + 4 * first, rows=b.tokens, planes=1, count=4 * count,
                   row_stride=b.place.row_bytes, scratch=b.plan.scratch["x"] * b.config.bus_bytes + 4 * first,
                   scratch_row_stride=b.place.row_bytes)
