"""Memory plans: where the values of a program lie in the scratchpad and the activation buffer."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from tilewright.gen.configuration import PRESETS, load_preset
from tilewright.gen.errors import UserError
from tilewright.hw.config import BLOCK

from .formats import MatrixFormat
from .requirements import layer_lacks

__all__ = ["Item", "pack", "ceil_to", "Ends", "LayerPlan", "plan_layer", "slots_of", "vector_phases", "FFN_CHUNK",
           "LOGITS", "EMBED", "INPUT", "ATTENTION", "OUTPUT", "FFN", "HEAD"]

FFN_CHUNK = 64
"""Outputs of gate_proj and up_proj computed before the activation runs over them: whole A8 blocks, whole tiles of any
build."""

BATCH_SCORES = 2048
"""Scores of a token that softmax takes at a time in decode, at most, if they are of several KV heads."""

LOGITS = 512
"""Outputs of lm_head computed before argmax runs over them."""

EMBED, INPUT, ATTENTION, OUTPUT, FFN, HEAD = range(6)
"""Phases of a model: embedding; of a layer norm and projections, attention, o_proj with residual and norm,
feed-forward; what comes behind the last layer."""


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
class Ends:
    """What a whole model has before its first layer and behind its last one; ``vocab`` is 0 without an lm_head."""

    positions: bool
    embed_norm: bool
    final_norm: bool
    vocab: int
    lm_head_bias: bool

    def scratch(self, shape, tokens, groups):
        """Items in scratchpad groups; ``groups`` makes them of words."""
        hidden, logits = groups(shape.hidden), groups(min(self.vocab, LOGITS))
        items = [Item("positions", tokens * hidden, EMBED, EMBED)] if self.positions else []
        for name, phase, there in (("embed_norm", EMBED, self.embed_norm), ("final_norm", HEAD, self.final_norm)):
            suffixes = ("", "_bias") if shape.norm == "layer_norm" else ("",)
            items += [Item(name + suffix, hidden, phase, phase) for suffix in suffixes if there]
        if not self.vocab:
            return [*items, Item("pooled", hidden, HEAD, HEAD)]
        bias = [Item("lm_head_bias", 2 * logits, HEAD, HEAD)] if self.lm_head_bias else []
        return [*items, *bias, Item("logits", 2 * logits, HEAD, HEAD), Item("choice", 1, HEAD, HEAD)]

    def activation(self, shape):
        """Items in reduction indices."""
        return [Item("h_head", ceil_to(shape.hidden, BLOCK), HEAD, HEAD)] if self.vocab else []


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """Plan of one entry point of a layer.

    tokens : int               most tokens of a run
    weights, kv : MatrixFormat
    scratch : dict             first scratchpad group of each value
    activation : dict          first reduction index of each value
    batch : int                KV heads whose attention is done together: 1 in prefill
    score_slots : int          batches (decode) or heads (prefill) whose scores are held at a time
    probability_slots : int    the same for probabilities
    scale_slots : int          batches of KV heads whose V scales are held at a time
    """

    tokens: int
    weights: MatrixFormat
    kv: MatrixFormat
    scratch: dict
    activation: dict
    batch: int
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


def slots_of(config, shape, context, kv):
    """Positions that the KV cache holds: all, or with a window those that a prefill run's tokens see."""
    if not shape.window:
        return context
    return min(context, ceil_to(shape.window + config.rows - 1, kv.outputs))


def vector_phases(shape):
    """First and last phase in which each vector of the layer is needed."""
    ffn_norm = {"parallel": INPUT, "post_norm": FFN}.get(shape.topology, OUTPUT)
    phases = {
        "attn_norm": (OUTPUT, OUTPUT) if shape.topology == "post_norm" else (INPUT, INPUT),
        "ffn_norm": (ffn_norm, ffn_norm), "post_attn_norm": (OUTPUT, OUTPUT), "post_ffn_norm": (FFN, FFN),
        "attn_sub_norm": (ATTENTION, ATTENTION), "ffn_sub_norm": (FFN, FFN),
        "q_norm": (INPUT, ATTENTION), "k_norm": (INPUT, INPUT),
        "q_bias": (INPUT, ATTENTION), "k_bias": (INPUT, INPUT), "v_bias": (INPUT, INPUT), "o_bias": (OUTPUT, OUTPUT),
        "up_bias": (FFN, FFN), "down_bias": (FFN, FFN),
    }
    for name in ("attn_norm", "ffn_norm", "post_attn_norm", "post_ffn_norm", "attn_sub_norm", "ffn_sub_norm"):
        phases[f"{name}_bias"] = phases[name]
    return {name: phases[name] for name in shape.vector_sizes}


class _Sizes:
    """What an entry point keeps in the scratchpad and the activation buffer.

    ``tokens`` tokens; attention takes ``batch`` times ``rows`` rows at a time and keeps scores, probabilities and V
    scales of so many batches (``kept``). ``ends`` are those of a whole model, or None.
    """

    def __init__(self, config, shape, slots, weights, kv, *, tokens, rows, batch, decode, kept, ends):
        self.config, self.shape, self.slots, self.weights, self.kv = config, shape, slots, weights, kv
        self.tokens, self.rows, self.batch, self.decode, self.kept = tokens, rows, batch, decode, kept
        self.ends = ends

    def _groups(self, words):
        return -(-words // self.config.group_words)

    def scratch(self):
        """Items in scratchpad groups."""
        groups, shape, tokens, rows = self._groups, self.shape, self.tokens, self.batch * self.rows
        scores, probabilities, scales = self.kept
        hidden, head = groups(shape.hidden), groups(shape.head_dim)
        kv_rows = tokens * shape.kv_heads
        norm_rows = max(tokens, shape.heads) if self.decode and shape.qk_norm else tokens
        items = [
            Item("x", tokens * hidden, EMBED, HEAD),
            *(Item(name, groups(shape.vector_sizes[name]), *self._kept(*phases))
              for name, phases in vector_phases(shape).items()),
            Item("sum", norm_rows, EMBED, HEAD),
            Item("inverse", norm_rows, EMBED, HEAD),
            Item("k", kv_rows * head, INPUT, INPUT),
            Item("v", kv_rows * head, INPUT, INPUT),
            Item("q", tokens * shape.heads * head, INPUT, OUTPUT),
            Item("scores", scores * rows * groups(self.slots), ATTENTION, ATTENTION),
            Item("maximum", rows, ATTENTION, ATTENTION),
            Item("total", rows, ATTENTION, ATTENTION),
            Item("weight", (_ahead(scores, probabilities) + 1) * rows, ATTENTION, ATTENTION),
            Item("y", tokens * hidden, OUTPUT, FFN),
            Item("up", (4 if shape.mlp == "glu" else 2) * tokens * groups(min(FFN_CHUNK, shape.ffn)), FFN, FFN),
        ]
        if shape.norm == "layer_norm":
            items.append(Item("mean", norm_rows, EMBED, HEAD))
            if shape.topology != "post_norm":
                items.append(Item("centred", tokens * hidden, INPUT, OUTPUT))
        if shape.sub_norm:
            items.append(Item("active", tokens * groups(shape.ffn), FFN, FFN))
        if shape.rotary_dim:
            turned = max(tokens, rows, shape.kv_heads if self.decode else 1)
            items += [Item("rope", tokens * 2 * groups(shape.rotary_dim), *self._kept(INPUT, ATTENTION)),
                      Item("crossed", turned * groups(shape.rotary_dim), INPUT, ATTENTION)]
        if self.kv.scaled:
            packed = -(-shape.head_dim // self.config.bus_bytes)
            items += [Item("k_bytes", kv_rows * packed, INPUT, INPUT),
                      Item("k_scales", kv_rows * groups(-(-shape.head_dim // BLOCK)), INPUT, INPUT),
                      Item("v_bytes", kv_rows * packed, INPUT, INPUT),
                      Item("v_scale", kv_rows, INPUT, INPUT),
                      Item("scales", scales * self.batch * groups(self.slots), ATTENTION, ATTENTION)]
        return items + (self.ends.scratch(shape, tokens, groups) if self.ends else [])

    def _kept(self, first, last):
        """Phases in which a value has its place. In decode a layer's inputs come under the down_proj of the one before.
        """
        return (EMBED, HEAD) if self.decode and first == INPUT else (first, last)

    def activation(self):
        """Items in reduction indices."""
        shape, weights, kv = self.shape, self.weights.groups(self.tokens), self.batch * self.kv.groups(self.rows)

        def span(k):
            return ceil_to(k, BLOCK)

        h_last = FFN if shape.topology == "parallel_shared" else INPUT if self.decode else ATTENTION
        items = [
            Item("h", weights * span(shape.hidden), INPUT, h_last),
            Item("q", 2 * kv * span(shape.head_dim), INPUT, ATTENTION),
            Item("probabilities", self.kept[1] * kv * span(self.slots), ATTENTION, ATTENTION),
            Item("o", weights * span(shape.heads * shape.head_dim), ATTENTION, OUTPUT),
            Item("gated", weights * span(shape.ffn), FFN, FFN),
        ]
        if shape.topology != "parallel_shared":
            h_first = INPUT if shape.topology == "parallel" else OUTPUT
            items.append(Item("h_ffn", weights * span(shape.hidden), h_first, FFN))
        return items + (self.ends.activation(shape) if self.ends else [])


def _batch(shape, slots, kv):
    """KV heads whose attention is done together in decode: fewer commands where there is little to do in each, but not
    so much at a time that the array would wait for the softmax."""
    group = shape.heads // shape.kv_heads
    return 1 if group > kv.rows else max(1, min(shape.kv_heads, BATCH_SCORES // (group * slots)))


def _options(shape, batch, decode):
    """Yield (batch, batches kept of scores, probabilities and V scales), the best first: batches of several heads only
    where one's softmax has room beside the next one's scores."""
    while True:
        heads = -(-shape.kv_heads // batch)
        units = heads if decode else shape.heads
        scores, scales = min(2, units), min(2, heads)
        for s, v in dict.fromkeys([(scores, scales), (1, scales), (1, 1)] if batch == 1 else [(scores, scales)]):
            for p in sorted({units, min(3, units), min(2, units), 1 if batch == 1 else min(2, units)}, reverse=True):
                yield batch, (s, p, v)
        if batch == 1:
            return
        batch //= 2


def _attempt(config, shape, slots, weights, kv, tokens, decode, ends):
    """The roomiest LayerPlan that fits, or what the tightest one lacks: (limit, needed, has)."""
    rows = shape.heads // shape.kv_heads if decode else tokens
    excess = None
    for batch, kept in _options(shape, _batch(shape, slots, kv) if decode else 1, decode):
        sizes = _Sizes(config, shape, slots, weights, kv, tokens=tokens, rows=rows, batch=batch, decode=decode,
                       kept=kept, ends=ends)
        scratch, needed = pack(sizes.scratch(), config.scratchpad_groups)
        activation, depth = pack(sizes.activation(), config.activation_depth)
        if needed > config.scratchpad_groups:
            excess = ("scratchpad_bytes", needed * config.bus_bytes, config.scratchpad_bytes)
        elif depth > config.activation_depth:
            excess = ("activation_depth", depth, config.activation_depth)
        else:
            return LayerPlan(tokens=tokens, weights=weights, kv=kv, scratch=scratch, activation=activation,
                             batch=batch, score_slots=kept[0], probability_slots=kept[1], scale_slots=kept[2])
    return excess


def _token_counts(config, shape, slots, weights, kv, decode):
    """Tokens that a run of the entry point may have at most, best first.

    More tokens than the array has rows replay weight tiles, which the prefetch buffer must hold whole.
    """
    if decode:
        return [1]
    most = config.rows if shape.causal else slots
    longest = max(shape.hidden, shape.heads * shape.head_dim, shape.ffn)
    if weights.tile_beats(longest) > config.prefetch_beats:
        most = min(most, weights.rows)
    if kv.tile_beats(max(slots, shape.head_dim)) > config.prefetch_beats:
        most = min(most, kv.rows)
    if shape.causal:
        return range(most, 0, -1)
    return [slots] if most == slots else []


def _find(config, shape, context, formats, decode, ends):
    """A LayerPlan, or the line that says why there is none."""
    problem = next(layer_lacks(config, shape, context, formats=formats), None)
    if problem is not None:
        return problem.line
    weights, kv = (MatrixFormat(config, name) for name in formats)
    slots, result = slots_of(config, shape, context, kv), None
    for tokens in _token_counts(config, shape, slots, weights, kv, decode):
        result = _attempt(config, shape, slots, weights, kv, tokens, decode, ends)
        if isinstance(result, LayerPlan):
            return result
    if result is None:
        longest = max(shape.hidden, shape.heads * shape.head_dim, shape.ffn, slots)
        result = ("prefetch_beats", longest, config.prefetch_beats)
    limit, needed, has = result
    return (f"{'decode' if decode else 'prefill'} with a context of {context} needs {limit} = {needed}, "
            f"{needed - has} more than {has}; reduce the context or change {limit}")


def plan_layer(config, shape, context, *, formats, decode, ends=None):
    """LayerPlan of an entry point: ``decode`` takes one token, prefill as many as fit, config.rows at most; attention
    that is not causal takes the whole sequence. ``formats`` are those of weights and KV cache. With the ``ends`` of a
    whole model the plan has room for them too.

    Raises UserError that names the limit, by how much it is exceeded, and the smallest preset that holds the layer.
    """
    result = _find(config, shape, context, formats, decode, ends)
    if isinstance(result, LayerPlan):
        return result
    holds = partial(_holds, shape=shape, context=context, formats=formats, ends=ends)
    raise UserError(f"{config.name}: {result}; {_advice(holds)}")


def _holds(config, *, shape, context, formats, ends):
    return all(isinstance(_find(config, shape, context, formats, decode, ends), LayerPlan)
               for decode in ((True, False) if shape.causal else (False,)))


def _advice(holds):
    name = next((name for name in PRESETS if holds(load_preset(name))), None)
    return f"preset {name} holds it" if name else "no preset holds it"
