"""Compiles a whole model: one image, one program for each entry point; token numbers go in, token numbers come out."""

from dataclasses import dataclass, field

from tilewright.gen.errors import UserError
from tilewright.hw.commands import Dest, Element, Opcode, Operand, Reduce, ScalarOp

from .assembler import Dynamic, Program
from .builder import CONSTANTS, IO, LayerBuilder, Place, fp32
from .formats import MatrixFormat, format_of, tile_matrix, widest_format
from .image import Image, KvLayout, layer_constants, pad_rows
from .layer import kv_layout
from .plan import LOGITS, Ends, ceil_to, plan_layer
from .streams import Streams
from .transformer import begin_layer, emit_layer, plan_projections

__all__ = ["CompiledModel", "compile_model"]

LOGIT_PIECES = 4
"""Pieces of a small vocabulary's lm_head, so that argmax of one runs under the next."""

EMBEDDING_ROWS = 4096
"""Rows of the embedding brought to FP32 at a time."""


@dataclass(frozen=True, kw_only=True)
class CompiledModel:
    """A model ready to run: region 0 holds ``image``, region 1 the KV cache, region 2 input and output.

    Argument 0 is the position of the first token, argument 1 the number of tokens (decode takes it as 1). Where
    argument 2 of prefill is not zero there are no logits and no chosen token: more of the sequence is to follow.

    image : bytes             region 0, read only
    prefill, decode : int     offsets of the programs, the same one where ``prefill_tokens`` is 1 and attention causal;
                              decode is None where it is not
    prefill_tokens : int      most tokens of a prefill run; where attention is not causal, the sequence fits into one
    context, vocab : int      positions, at most; token numbers
    caches : tuple            (KvLayout, offset in region 1) of each layer
    kv_bytes, io_bytes : int  sizes of regions 1 and 2
    tokens : int              offset in region 2 of the token numbers, a word each
    next_token : int          where the chosen token's number is put; None without an lm_head
    logits : int              where the logits of the last token are put, FP32 [vocab]; None without an lm_head
    embedding : int           where the sequence's embedding is put, FP32 [hidden]; None with an lm_head
    labels : dict             Label of each command, by its offset in region 0
    """

    image: bytes
    prefill: int
    decode: int | None
    prefill_tokens: int
    context: int
    vocab: int
    caches: tuple[tuple[KvLayout, int], ...]
    kv_bytes: int
    io_bytes: int
    tokens: int
    next_token: int | None
    logits: int | None
    embedding: int | None
    labels: dict = field(default_factory=dict)

    @property
    def slots(self):
        """Positions that each layer's cache holds."""
        return [layout.slots for layout, _ in self.caches]

    @property
    def is_encoder(self):
        """Whether it ends in an embedding, not in tokens."""
        return self.logits is None


def compile_model(config, model, *, context, kv_format="int8", step=lambda text: None):
    """Compile a model for sequences of up to ``context`` positions.

    model : any object with ``shapes`` (LayerShape of each layer), ``layers`` (sequence of mappings of names to weights,
            each taken once), ``tensors`` (mapping: embedding rows [vocab, hidden], and where the model has them
            positions, embed_norm, final_norm, lm_head and lm_head_bias) and ``embed_scale`` (factor or None)
    kv_format : 'int8' or 'fp16'
    step : told what is being done

    Raises UserError where the model does not fit ``config``.
    """
    compiler = _Compiler(config, model, context, kv_format)
    image = Image()
    compiler.put_ends(image, step)
    places = compiler.put_layers(image, step)
    step("writing programs")
    prefill_tokens, io, causal = compiler.plans[False].tokens, compiler.io, True in compiler.plans
    # Where prefill takes one token at a time, decode's program serves for both.
    shared = causal and prefill_tokens == 1
    entries, labels = {}, {}
    for decode in [True] if shared else compiler.plans:
        program = _Entry(compiler, places, decode, optional_head=shared or not decode).build()
        entries[decode] = image.add(program.assemble())
        labels |= program.labels(entries[decode])
    last = places[-1]
    return CompiledModel(
        image=image.data, prefill=entries[shared], decode=entries.get(True), prefill_tokens=prefill_tokens,
        context=context, vocab=len(model.tensors["embedding"]),
        caches=tuple((place.kv, place.cache) for place in places), kv_bytes=last.cache + last.kv.size,
        labels=labels, **io)


class _Compiler:
    """What both entry points share: plans, layouts, offsets of what lies around the layers."""

    def __init__(self, config, model, context, kv_format):
        self.config, self.model, self.context = config, model, context
        tensors = model.tensors
        if "positions" in tensors and context > len(tensors["positions"]):
            raise UserError(f"context = {context}: the model's table has {len(tensors['positions'])} positions; "
                            "take a smaller context")
        self.ends = Ends(positions="positions" in tensors, embed_norm="embed_norm" in tensors,
                         final_norm="final_norm" in tensors, lm_head_bias="lm_head_bias" in tensors,
                         vocab=len(tensors["embedding"]) if "lm_head" in tensors else 0)
        # One plan serves all layers: that of the one with the largest cache.
        shape = min(model.shapes, key=lambda each: (each.window > 0, -each.window))
        self.first_layer = model.layers[0]
        matrices = {name: self.first_layer[name] for name in shape.matrix_shapes}
        weights_format = widest_format(matrices | {name: tensors[name] for name in ("lm_head",) if name in tensors})
        self.plans = {decode: plan_layer(config, shape, context, formats=(weights_format, kv_format), decode=decode,
                                         ends=self.ends)
                      for decode in ((False, True) if shape.causal else (False,))}
        self.hidden, self.row_bytes = shape.hidden, ceil_to(4 * shape.hidden, config.bus_bytes)
        self.io = self._io()
        self.constants, self.formats = {}, {}

    def _io(self):
        """Layout of region 2."""
        beat, vocab = self.config.bus_bytes, self.ends.vocab
        behind = ceil_to(4 * self.plans[False].tokens, beat)
        if not vocab:
            return {"tokens": 0, "next_token": None, "logits": None, "embedding": behind,
                    "io_bytes": behind + self.row_bytes}
        logits = behind + beat
        return {"tokens": 0, "next_token": behind, "logits": logits, "embedding": None,
                "io_bytes": logits + ceil_to(4 * vocab, beat)}

    def put_ends(self, image, step):
        """Embedding, positions, norms and lm_head."""
        tensors, config = self.model.tensors, self.config
        step("placing the embedding")
        embedding = tensors["embedding"]
        parts = (pad_rows(embedding[first:first + EMBEDDING_ROWS], config).tobytes()
                 for first in range(0, len(embedding), EMBEDDING_ROWS))
        self.constants["embedding"] = image.add(b"".join(parts))
        if self.ends.positions:
            self.constants["positions"] = image.add(pad_rows(tensors["positions"][:self.context], config).tobytes())
        for name in ("embed_norm", "embed_norm_bias", "final_norm", "final_norm_bias", "lm_head_bias"):
            if name in tensors:
                self.constants[name] = image.add(pad_rows(tensors[name][None], config).tobytes())
        if self.ends.vocab:
            step("placing lm_head")
            self.formats["lm_head"] = MatrixFormat(config, format_of(tensors["lm_head"]))
            self.constants["lm_head"] = image.add(tile_matrix(tensors["lm_head"], config).tobytes(),
                                                  align=config.burst_bytes)

    def put_layers(self, image, step):
        """Places of the layers."""
        places, cache, tables, kv_format = [], 0, {}, self.plans[False].kv
        for index, shape in enumerate(self.model.shapes):
            step(f"placing layer {index + 1} of {len(self.model.shapes)}")
            weights = self.first_layer if index == 0 else self.model.layers[index]
            kv = kv_layout(self.config, shape, self.context, kv_format)
            constants, formats = layer_constants(image, self.config, shape, weights, self.context, tables)
            places.append(Place(constants=constants | self.constants, formats=formats | self.formats, kv=kv,
                                cache=cache, context=self.context, name=f"{index} "))
            cache += ceil_to(kv.size, self.config.burst_bytes)
        return places


class _Entry:
    """Program of one entry point."""

    def __init__(self, compiler, places, decode, *, optional_head):
        self.compiler, self.config, self.decode = compiler, compiler.config, decode
        self.program = Program(self.config)
        self.streams = Streams(self.program)
        self.more = self.program.argument(2, "more") if optional_head and compiler.ends.vocab else None
        self.plan = compiler.plans[decode]
        self.builders = [LayerBuilder(self.config, shape, self.plan, place, decode=decode, program=self.program,
                                      streams=self.streams)
                         for shape, place in zip(compiler.model.shapes, places, strict=True)]
        self.hidden = self.builders[0].hidden

    def build(self):
        """The program."""
        plan_projections(self.builders[0])
        self.streams.pump()
        with self.program.label("embedding"):
            self._embed()
        begin_layer(self.builders[0])
        for b, upcoming in zip(self.builders, [*self.builders[1:], None], strict=True):
            emit_layer(b, upcoming=upcoming,
                       following=(lambda b=upcoming: plan_projections(b)) if upcoming else self._behind_layers)
        if self.compiler.ends.vocab:
            with self.program.label("lm_head"):
                if self.more is not None:
                    self.program.end_if(self.more)
                    self._plan_head()
                    self.streams.pump()
                self._choose_token()
        else:
            with self.program.label("pooling"):
                self._pool()
        self.program.end()
        return self.program

    # Before the first layer.

    def _embed(self):
        """x from the tokens' rows of the embedding."""
        b, at, ends = self.builders[0], self.plan.scratch, self.compiler.ends
        self._load_rows()
        scale, fields = self.compiler.model.embed_scale, {}
        if scale is not None:
            fields |= {"b_kind": Operand.IMMEDIATE, "b_immediate": fp32(scale)}
        if ends.positions:
            p, row = self.program, self.compiler.row_bytes
            offset = p.scalar(ScalarOp.MUL, p.register("offset"), b.position, row)
            b.load("positions", CONSTANTS, Dynamic(offset, base=b.place.constants["positions"]), rows=b.tokens,
                   row_stride=row, count=row, scratch_row_stride=row)
            p.release("offset")
            fields |= {"c_kind": Operand.STREAM, "c": at["positions"], "c_stride": self.hidden}
        if fields:
            b.in_place(b.shape.hidden, b.tokens, at["x"], self.hidden, **fields)
        if ends.embed_norm:
            self._load_norm("embed_norm")
            b.norm("embed_norm", "x", b.shape.hidden)

    def _load_rows(self):
        b, p, row = self.builders[0], self.program, self.compiler.row_bytes
        names = ["offset"] if self.decode else ["offset", "count", "token_at", "row_at"]
        offset, *others = (p.register(name) for name in names)
        x = self.plan.scratch["x"] * self.config.bus_bytes
        fields = {"region": CONSTANTS, "offset": Dynamic(offset, base=b.place.constants["embedding"]), "rows": 1,
                  "planes": 1, "count": row}
        if self.decode:
            p.read(offset, IO, 0)
            p.scalar(ScalarOp.MUL, offset, offset, row)
            p.emit(Opcode.LOAD, scratch=x, **fields)
        else:
            count, token_at, row_at = others
            p.scalar(ScalarOp.ADD, count, b.tokens.register)
            p.set(token_at, 0)
            p.set(row_at, 0)
            with p.loop(count):
                p.read(offset, IO, 0, rs=token_at)
                p.scalar(ScalarOp.MUL, offset, offset, row)
                p.emit(Opcode.LOAD, scratch=Dynamic(row_at, x + (self.plan.tokens - 1) * row, x, row), **fields)
                p.scalar(ScalarOp.ADD, token_at, token_at, 4)
                p.scalar(ScalarOp.ADD, row_at, row_at, row)
        p.release(*names)

    def _load_norm(self, name):
        b = self.builders[0]
        for each in (name, f"{name}_bias"):
            if each in b.place.constants:
                b.load(each, CONSTANTS, b.place.constants[each], count=self.compiler.row_bytes)

    # Behind the last layer.

    def _behind_layers(self):
        """Plan the STREAM of lm_head ahead, where lm_head is certain to come."""
        if self.more is None and self.compiler.ends.vocab:
            with self.program.label("lm_head"):
                self._plan_head()

    def _plan_head(self):
        b = self.builders[-1]
        b.plan_weights("lm_head", b.shape.hidden, b.weights.tiles(self.compiler.ends.vocab),
                       matmuls=len(self._pieces()))

    def _pieces(self):
        vocab = self.compiler.ends.vocab
        return self.builders[-1].pieces(vocab, min(LOGITS, vocab // LOGIT_PIECES))

    def _last_row(self):
        """Scratchpad group of the last token's row of x."""
        x, p = self.plan.scratch["x"], self.program
        if self.decode:
            return x
        last = p.scalar(ScalarOp.SUB, p.register("last_row"), self.builders[-1].tokens.register, 1)
        p.scalar(ScalarOp.MUL, last, last, self.hidden)
        return Dynamic(last, x + (self.plan.tokens - 1) * self.hidden, x, self.hidden)

    def _choose_token(self):
        """Logits of the last token and the number of the greatest, to memory."""
        b, at, hidden = self.builders[-1], self.plan.scratch, self.builders[-1].shape.hidden
        place, operand = self._last_row(), b.operand("h_head", hidden)
        if self.compiler.ends.final_norm:
            self._load_norm("final_norm")
            b.norm("final_norm", place, hidden, rows=1, **operand)
        else:
            b.vector(hidden, 1, a=place, **operand)
        waiting = None
        for i, (first, count) in enumerate(self._pieces()):
            half = i % 2 * b.groups(min(self.compiler.ends.vocab, LOGITS))
            self.streams.matmul(k=hidden, n=count, rows=1, dest=at["logits"] + half,
                                activation=self.plan.activation["h_head"])
            self.streams.pump()
            if waiting:
                self._take_logits(*waiting)
            waiting = first, count, half
        self._take_logits(*waiting)
        self.program.emit(Opcode.STORE, region=IO, offset=self.compiler.io["next_token"], rows=1, planes=1, count=1,
                          element=Element.WORD, scratch=at["choice"] * self.config.bus_bytes)

    def _take_logits(self, first, count, half):
        b, at, beat = self.builders[-1], self.plan.scratch, self.config.bus_bytes
        fields, place = {}, at["logits"] + half
        if self.compiler.ends.lm_head_bias:
            b.load("lm_head_bias", CONSTANTS, b.place.constants["lm_head_bias"] + 4 * first, behind=half,
                   count=b.groups(count) * beat)
            fields = {"c_kind": Operand.STREAM, "c": at["lm_head_bias"] + half}
        b.in_place(count, 1, place, 0, **fields, reduce=Reduce.ARGMAX, carry=int(first > 0), index=first,
                   result=at["choice"])
        self.program.emit(Opcode.STORE, region=IO, offset=self.compiler.io["logits"] + 4 * first, rows=1, planes=1,
                          count=4 * count, scratch=place * beat)

    def _pool(self):
        """Sum of the tokens' rows over its length: the sequence's embedding, to memory."""
        b, p, at, n = self.builders[-1], self.program, self.plan.scratch, self.builders[-1].shape.hidden
        x, pooled = at["x"], {"dest": Dest.FP32, "target": at["pooled"]}
        if self.compiler.ends.final_norm:
            self._load_norm("final_norm")
            b.norm("final_norm", "x", n)
        b.vector(n, 1, a=x, b_kind=Operand.IMMEDIATE, b_immediate=fp32(0), **pooled)
        count, row = p.register("count"), p.set(p.register("row"), 0)
        p.scalar(ScalarOp.ADD, count, b.tokens.register)
        with p.loop(count):
            place = Dynamic(row, x + (self.plan.tokens - 1) * self.hidden, x, self.hidden)
            b.vector(n, 1, a=at["pooled"], c_kind=Operand.STREAM, c=place, **pooled)
            p.scalar(ScalarOp.ADD, row, row, self.hidden)
        b.vector(n, 1, a=at["pooled"], square=1, reduce=Reduce.SUM, result=at["sum"])
        b.vector(1, 1, a=at["sum"], function=b.function("rsqrt"), dest=Dest.FP32, target=at["inverse"])
        b.in_place(n, 1, at["pooled"], 0, b_kind=Operand.ROW, b=at["inverse"])
        p.emit(Opcode.STORE, region=IO, offset=self.compiler.io["embedding"], rows=1, planes=1, count=4 * n,
               scratch=at["pooled"] * self.config.bus_bytes)
