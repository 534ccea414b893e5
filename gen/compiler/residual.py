"""The end of a layer's half: projection back to the residual, the norm before it, and the sums for the one behind."""

from tilewright.hw.commands import Operand

__all__ = ["project_to_residual"]


def project_to_residual(b, k, activation, pieces, *, bias, post_norm, then=lambda first, count: None, sums=False):
    """x = x + bias + projection, piece by piece, the vector unit one piece behind the array; with ``post_norm`` (the
    norm's name) x = x + norm(projection + bias) instead.

    ``then`` is called behind each piece's addition. With ``sums`` (and no ``post_norm``) the rows' root mean squares
    come out too: all but those of the last piece are added up while the array still works.
    """
    x, y, width = b.plan.scratch["x"], b.plan.scratch["y"], b.config.group_words
    if not post_norm:
        b.add_bias(bias, "x", b.shape.hidden, b.hidden)

    def add(first, count):
        place = first // width
        b.in_place(count, b.tokens, x + place, b.hidden, c_kind=Operand.STREAM, c=y + place, c_stride=b.hidden)
        then(first, count)
        if sums:
            b.add_squares("x", "y", first, count, b.shape.hidden)

    for i, (first, count) in enumerate(pieces):
        b.project(k, count, activation=activation, dest=y + first // width, dest_stride=b.hidden)
        b.streams.pump()
        if i and not post_norm:
            add(*pieces[i - 1])
    if not post_norm:
        add(*pieces[-1])
        if sums:
            b.root_mean_square("y", b.shape.hidden)
        return
    b.add_bias(bias, "y", b.shape.hidden, b.hidden)
    b.norm(post_norm, "y", b.shape.hidden)
    add(0, b.shape.hidden)

