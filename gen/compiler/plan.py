"""Memory plans: where the values of a program lie in the scratchpad and the activation buffer."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from tilewright.gen.configuration import PRESETS, load_preset
from tilewright.gen.errors import UserError
from tilewright.hw.config import BLOCK

__all__ = ["Item", "pack", "ceil_to", "LayerPlan", "plan_layer", "check_layer", "FFN_CHUNK"]

FFN_CHUNK = 64
"""Outputs of gate_proj and up_proj computed before SiLU runs over them: whole A8 blocks, whole tiles of any build."""


def ceil_to(value, step):
    """``value`` rounded up to a multiple of ``step``."""
    return -(-value // step) * step


class Item(NamedTuple):
    """A value: its size and the first and last phase of the program in which it is needed."""

    name: str
    size: int
    first: int
    last: int


def pack(items, limit):
    """Place items so that those needed in the same phase do not overlap: (start of each by name, size in all).

    First fit in several orders: the first result within ``limit``, else the smallest.
    """
    best = None
    for key in (lambda i: (i.first - i.last, -i.size), lambda i: -i.size, lambda i: (i.first, -i.size)):
        ordered = sorted(items, key=key)
        for chosen in range(len(items)):
            starts, size = _first_fit([ordered[chosen], *ordered[:chosen], *ordered[chosen + 1:]])
            if best is None or size < best[1]:
                best = starts, size
            if size <= limit:
                return best
    return best


def _first_fit(items):
    placed, starts = [], {}
    for item in items:
        others = sorted((start, start + other.size) for other, start in placed
                        if other.first <= item.last and item.first <= other.last)
        at = 0
        for start, end in others:
            if at + item.size <= start:
                break
            at = max(at, end)
        placed.append((item, at))
        starts[item.name] = at
    return starts, max(start + item.size for item, start in placed)


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """Plan of one entry point of a layer.

    tokens : int         most tokens of a run
    scratch : dict       first scratchpad group of each value
    activation : dict    first reduction index of each value
    score_slots : int    KV groups (decode) or heads (prefill) whose scores are held at a time
    probability_slots : int    the same for probabilities
    scale_slots : int    KV heads whose V scales are held at a time
    """

    tokens: int
    scratch: dict
    activation: dict
    score_slots: int
    probability_slots: int
    scale_slots: int

    @property
    def ahead(self):
        """Units whose scores are computed ahead of the weighted sum."""
        return _ahead(self.score_slots, self.probability_slots)


def _ahead(score_slots, probability_slots):
    """Softmax of a unit runs under the scores of the next ones; with one place for scores, under a weighted sum."""
    if score_slots == 1:
        return min(1, probability_slots - 1)
    return max(1, probability_slots - 1)


INPUT, ATTENTION, OUTPUT, FFN = range(4)
"""Phases of a layer: norm and projections; attention; o_proj, residual and norm; feed-forward."""


def _scratch_items(config, shape, context, tokens, rows, slots):
    """Scratchpad groups of a layer with ``tokens`` tokens; attention takes ``rows`` rows at a time."""
    def groups(words):
        return -(-words // config.group_words)

    scores, probabilities, scales = slots
    hidden, head = groups(shape.hidden), groups(shape.head_dim)
    kv_rows = tokens * shape.kv_heads
    packed = -(-shape.head_dim // config.bus_bytes)
    return [
        Item("x", tokens * hidden, INPUT, FFN),
        Item("attn_norm", hidden, INPUT, INPUT),
        Item("ffn_norm", hidden, OUTPUT, OUTPUT),
        Item("rope", tokens * 2 * head, INPUT, ATTENTION),
        Item("sum", tokens, INPUT, FFN),
        Item("inverse", tokens, INPUT, FFN),
        Item("k", kv_rows * head, INPUT, INPUT),
        Item("v", kv_rows * head, INPUT, INPUT),
        Item("q", tokens * shape.heads * head, INPUT, OUTPUT),
        Item("crossed", max(tokens, rows, shape.kv_heads if tokens == 1 else 1) * head, INPUT, ATTENTION),
        Item("k_bytes", kv_rows * packed, INPUT, INPUT),
        Item("k_scales", kv_rows * groups(-(-shape.head_dim // BLOCK)), INPUT, INPUT),
        Item("v_bytes", kv_rows * packed, INPUT, INPUT),
        Item("v_scale", kv_rows, INPUT, INPUT),
        Item("scores", scores * rows * groups(context), ATTENTION, ATTENTION),
        Item("scales", scales * groups(context), ATTENTION, ATTENTION),
        Item("maximum", rows, ATTENTION, ATTENTION),
        Item("total", rows, ATTENTION, ATTENTION),
        Item("weight", (_ahead(scores, probabilities) + 1) * rows, ATTENTION, ATTENTION),
        Item("y", tokens * hidden, OUTPUT, FFN),
        Item("gate_up", 4 * tokens * groups(min(FFN_CHUNK, shape.ffn)), FFN, FFN),
    ]


def _activation_items(config, shape, context, rows, slots):
    pieces = -(-rows // config.rows)
    return [
        Item("h", ceil_to(shape.hidden, BLOCK), INPUT, INPUT),
        Item("q", 2 * pieces * ceil_to(shape.head_dim, BLOCK), INPUT, ATTENTION),
        Item("probabilities", slots[1] * pieces * ceil_to(context, BLOCK), ATTENTION, ATTENTION),
        Item("o", ceil_to(shape.heads * shape.head_dim, BLOCK), ATTENTION, OUTPUT),
        Item("h_ffn", ceil_to(shape.hidden, BLOCK), OUTPUT, FFN),
        Item("gated", ceil_to(shape.ffn, BLOCK), FFN, FFN),
    ]


def _attempt(config, shape, context, tokens, decode):
    """The roomiest LayerPlan that fits, or what the tightest one lacks: (limit, needed, has)."""
    units, rows = (shape.kv_heads, shape.heads // shape.kv_heads) if decode else (shape.heads, tokens)
    scores, scales = min(2, units), min(2, shape.kv_heads)
    probabilities = sorted({units, min(3, units), min(2, units), 1}, reverse=True)
    options = [(s, p, v) for s, v in dict.fromkeys([(scores, scales), (1, scales), (1, 1)]) for p in probabilities]
    excess = None
    for slots in options:  # the last one is the tightest
        scratch, needed = pack(_scratch_items(config, shape, context, tokens, rows, slots), config.scratchpad_groups)
        activation, depth = pack(_activation_items(config, shape, context, rows, slots), config.activation_depth)
        if needed > config.scratchpad_groups:
            excess = ("scratchpad_bytes", needed * config.bus_bytes, config.scratchpad_bytes)
        elif depth > config.activation_depth:
            excess = ("activation_depth", depth, config.activation_depth)
        else:
            return LayerPlan(tokens=tokens, scratch=scratch, activation=activation, score_slots=slots[0],
                             probability_slots=slots[1], scale_slots=slots[2])
    return excess


def check_layer(config, shape, context):
    """Yield what keeps a layer from running on ``config``, apart from its buffers."""
    for name in ("exp", "silu", "rsqrt", "recip"):
        if name not in config.functions:
            yield f"functions = {list(config.functions)}: the layer needs {name!r}; add it"
    for what, value, limit in (("hidden", shape.hidden, "max_hidden"), ("head_dim", shape.head_dim, "max_head_dim"),
                               ("context", context, "max_context"), ("head_dim", shape.head_dim, "prefetch_beats")):
        if value > getattr(config, limit):
            yield f"{what} = {value}: is {value - getattr(config, limit)} more than {limit} = {getattr(config, limit)}"
    if shape.head_dim % config.group_words:
        yield (f"head_dim = {shape.head_dim}: must be a multiple of the {config.group_words} words of a scratchpad "
               f"group; take a narrower bus_width")


def plan_layer(config, shape, context, *, decode):
    """LayerPlan of an entry point: ``decode`` takes one token, prefill as many as fit, config.rows at most.

    Raises UserError that names the limit, by how much it is exceeded, and the smallest preset that holds the layer.
    """
    problem = next(check_layer(config, shape, context), None)
    if problem is None:
        for tokens in [1] if decode else range(config.rows, 0, -1):
            result = _attempt(config, shape, context, tokens, decode)
            if isinstance(result, LayerPlan):
                return result
        limit, needed, has = result
        problem = (f"{'decode' if decode else 'prefill'} with a context of {context} needs {limit} = {needed}, "
                   f"{needed - has} more than {has}; reduce the context or change {limit}")
    raise UserError(f"{config.name}: {problem}; {_advice(partial(_holds, shape=shape, context=context))}")


def _holds(config, *, shape, context):
    return (next(check_layer(config, shape, context), None) is None
            and all(isinstance(_attempt(config, shape, context, 1, decode), LayerPlan) for decode in (True, False)))


def _advice(holds):
    name = next((name for name in PRESETS if holds(load_preset(name))), None)
    return f"preset {name} holds it" if name else "no preset holds it"
