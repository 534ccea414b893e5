"""What a configuration must have for a layer or a model to run on it: the one place that knows.

What the values of a whole program need in scratchpad and activation buffer depends on context and tokens at a time, and
is for the planner to find; only the least that any plan needs is known here.
"""

from typing import NamedTuple

from tilewright.gen.errors import UserError
from tilewright.hw.config import BLOCK

from .formats import unit_of

__all__ = ["Lack", "check_runs_programs", "functions_of", "layer_lacks", "lacks", "least_activation_depth",
           "power_of_two"]

_NO_PROGRAMS = "vector_lanes = 0: a build without vector unit and sequencer runs no programs"


class Lack(NamedTuple):
    """Something that a configuration does not have.

    field : str       the configuration's field that adds it
    needed : object   the function or format to add, or the value the field must have at least
    line : str        what is wrong and what to change, in one line
    blocking : bool   whether nothing runs without it; else the model runs with a restriction, which ``line`` names
    """

    field: str
    needed: object
    line: str
    blocking: bool = True


def functions_of(layer):
    """Table functions that a layer needs, each with the part that needs it."""
    return {"exp": "softmax", "recip": "softmax", "rsqrt": "norm", layer.activation: "activation"}


def power_of_two(value):
    """The smallest power of two that is ``value`` or more: what most fields of a configuration must be."""
    return 1 << (value - 1).bit_length()


def least_activation_depth(layer):
    """Reduction indices that any plan of the layer needs: the input of the MLP and the activated vector lie in the
    activation buffer together, and so do the concatenated heads and one head's query."""
    def span(k):
        return -(-k // BLOCK) * BLOCK

    return max(span(layer.hidden) + span(layer.ffn), span(layer.heads * layer.head_dim) + span(layer.head_dim))


def check_runs_programs(config):
    """Raise UserError for a build that only the host's single commands drive."""
    if not config.vector_lanes:
        raise UserError(f"{config.name}: {_NO_PROGRAMS}; take another preset")


def layer_lacks(config, layer, context, *, formats=("int8",)):
    """Yield a ``Lack`` for each thing that keeps a layer from running with ``context`` positions, buffers apart.

    config : AcceleratorConfig
    layer : LayerShape, or any object with its attributes
    formats : formats of weights and KV cache
    """
    if not config.vector_lanes:
        yield Lack("vector_lanes", 1, _NO_PROGRAMS)
    for name in dict.fromkeys(formats):
        unit = unit_of(name)
        if unit not in config.formats:
            yield Lack("formats", unit, f"formats = {list(config.formats)}: the layer needs {unit!r}; add it")
    for name, part in functions_of(layer).items():
        if name not in config.functions:
            yield Lack("functions", name, f"functions = {list(config.functions)}: for its {part} the layer needs "
                                          f"{name!r}; add it")
    for what, value, limit in (
        ("hidden", layer.hidden, "max_hidden"), ("head_dim", layer.head_dim, "max_head_dim"),
        ("context", context, "max_context"), ("head_dim", layer.head_dim, "prefetch_beats"),
    ):
        most = getattr(config, limit)
        if value > most:
            needed = value if limit in ("max_hidden", "max_context") else power_of_two(value)
            yield Lack(limit, needed, f"{what} = {value}: is {value - most} more than {limit} = {most}")
    if layer.head_dim % config.group_words:
        yield Lack("bus_width", None, f"head_dim = {layer.head_dim}: must be a multiple of the {config.group_words} "
                                      "words of a scratchpad group; take a narrower bus_width")


def lacks(config, architecture):
    """Each thing that ``config`` lacks for a model, once, blocking ones first.

    A layer's limits are looked at with a context that the configuration holds: a model's longest context and the format
    of its weights are a choice, so what is missing for them is no more than a restriction.
    """
    context = min(architecture.max_context, config.max_context)
    layers = dict.fromkeys(architecture.layer(index) for index in range(architecture.layers))
    found = list(dict.fromkeys(lack for layer in layers
                               for lack in layer_lacks(config, layer, context, formats=config.operand_formats[:1])))
    depth = max(least_activation_depth(layer) for layer in layers)
    if depth > config.activation_depth:
        found.append(Lack("activation_depth", power_of_two(depth),
                          f"activation_depth = {config.activation_depth}: the layer's vectors need {depth} at least"))
    for name, title in (("int8", "INT8"), ("fp16", "FP16")):
        if name not in config.formats:
            found.append(Lack("formats", name, f"formats = {list(config.formats)}: weights and KV cache in {title} "
                                               f"need {name!r}; add it", blocking=False))
    if architecture.max_context > config.max_context:
        found.append(Lack("max_context", architecture.max_context,
                          f"max_context = {config.max_context}: a context of up to {config.max_context} is possible, "
                          f"the model's own is {architecture.max_context}", blocking=False))
    return found
