"""How long a context of a model a configuration's buffers hold: plans are made until one fits."""

from tilewright.gen.errors import UserError

from .plan import plan_layer

__all__ = ["longest_context"]


def longest_context(config, architecture, weights):
    """The longest context with which every layer fits, of the longest allowed and the powers of two below it.

    weights : format of weights and KV cache, 'int8' or 'fp16'

    Returns the context, 0 if there is none, and the planner's line on what keeps it from the longest allowed, or None.
    """
    layers = dict.fromkeys(architecture.layer(index) for index in range(architecture.layers))
    context, reason = min(architecture.max_context, config.max_context), None
    while context:
        problem = next((line for layer in layers for decode in ((True, False) if layer.causal else (False,))
                        if (line := _problem(config, layer, context, weights, decode))), None)
        if problem is None:
            break
        reason = reason or problem
        context = (1 << (context - 1).bit_length()) // 2
    return context, reason


def _problem(config, layer, context, weights, decode):
    try:
        plan_layer(config, layer, context, formats=(weights, weights), decode=decode)
    except UserError as error:
        return str(error)
    return None
