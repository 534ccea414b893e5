"""What every kind of model file offers, whatever its own names and types are."""

import abc
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilewright.gen.errors import UserError
from tilewright.gen.model import check_agreement
from tilewright.gen.weights import check_finite, to_fp16, to_int4, to_int8
from tilewright.sim.golden.model import sinusoidal_positions
from tilewright.sim.golden.weights import Int4Matrix, QuantisedMatrix, dequantise

__all__ = ["Checkpoint", "TensorError", "MACHINE_FORMATS", "WEIGHTS_FORMATS"]

_ROUNDED = {"int8": to_int8, "fp16": to_fp16, "int4": to_int4}
MACHINE_FORMATS = ("file", *_ROUNDED)
"""Formats of matrices in the machine: as the file has them, or one for all."""
WEIGHTS_FORMATS = (*MACHINE_FORMATS, "float32")
"""Formats of matrices; float32 is for references."""


@dataclass(frozen=True, kw_only=True)
class TensorError:
    """How far a matrix in a format of the machine is from what the file has.

    name : str         as ``Architecture.tensors`` calls it
    kind : str         the file's type, such as 'Q6_K'
    format : str       'int8', 'fp16' or 'int4'
    largest : float    largest difference of an element
    relative : float   root mean square of the differences over that of the file's values (0 where both are 0)
    """

    name: str
    kind: str
    format: str
    largest: float
    relative: float


class Checkpoint(abc.ABC):
    """A model's file or folder, open; a tensor is read when it is asked for.

    Tensors have the names and shapes of ``Architecture.tensors``. A format of matrices (``weights_format``) is

    - 'int8', 'fp16' or 'int4': ``QuantisedMatrix``, float16 or ``Int4Matrix`` [n, k]. Values that the file has in
      this format are taken as they are; others are rounded as docs/numerics.md says;
    - 'float32': what the file's values are, for a reference;
    - 'file': every matrix in the format that the file has it in, or in ``other`` where the machine lacks that format.

    Attributes
    ----------
    path : Path
    architecture : Architecture

    Methods raise UserError, one line that names file and tensor, for a value that is not finite or has no place in
    the format.
    """

    def __init__(self, path, architecture, model=None):
        self.path, self.architecture = Path(path), architecture
        self._shapes = architecture.tensors()
        if model is not None:
            check_agreement(model.architecture, architecture, f"{self.path}: not the file of {model.name}")

    @abc.abstractmethod
    def tokenizer(self):
        """The model's ``gen.tokenizer.Tokenizer``; UserError if it is missing or of an unknown kind."""

    @abc.abstractmethod
    def kind(self, name):
        """The file's type of a tensor, such as 'F32' or 'Q4_1'."""

    @abc.abstractmethod
    def _stored(self, name):
        """What the file calls the tensor."""

    @abc.abstractmethod
    def _values(self, name, rows=None):
        """The tensor, or rows of it, as float32."""

    @abc.abstractmethod
    def _kept(self, name):
        """The matrix in the machine's format that the file has it in; None if the machine lacks the format."""

    def layer(self, index, weights_format="file", other="int8"):
        """Tensors of layer ``index`` by name: float32 vectors, and matrices in a format."""
        shape = self._checked(self.architecture.layer, index)
        return {**{name: self.tensor(f"layers.{index}.{name}") for name in shape.vector_sizes},
                **{name: self.matrix(f"layers.{index}.{name}", weights_format, other) for name in shape.matrix_shapes}}

    def tensors(self, weights_format="file", other="int8"):
        """What stands before and behind the layers, by name; what the model does not have is absent.

        embedding                    float32 [vocab, hidden]
        positions                    float32 [max_context, hidden], row p for position p
        embed_norm, final_norm       float32 [hidden], with embed_norm_bias, final_norm_bias for layer_norm
        lm_head                      matrix [vocab, hidden] in a format; the embedding's where the two are tied
        lm_head_bias                 float32 [vocab]
        """
        a = self.architecture
        found = {name: self.tensor(name) for name in self._shapes
                 if not name.startswith("layers.") and name not in ("positions", "lm_head")}
        if a.positions == "learned":
            found["positions"] = self.tensor("positions")[a.position_offset:]
        elif a.positions == "sinusoidal":
            found["positions"] = sinusoidal_positions(first=a.position_offset, count=a.max_context, hidden=a.hidden)
        if a.lm_head:
            found["lm_head"] = self.matrix(self._lm_head_name(), weights_format, other)
        return found

    def embedding(self, tokens):
        """Embedding rows of token numbers, float32 [tokens, hidden]; no other row is read."""
        tokens = np.asarray(tokens, np.int64)
        if tokens.ndim != 1 or np.any((tokens < 0) | (tokens >= self.architecture.vocab)):
            raise ValueError(f"tokens must be a list of numbers from 0 to {self.architecture.vocab - 1}")
        return self._finite("embedding", self._values("embedding", tokens), rows=tokens)

    def tensor(self, name):
        """A tensor as float32."""
        self._known(name)
        return self._finite(name, self._values(name))

    def matrix(self, name, weights_format="file", other="int8"):
        """A matrix [n, k] in a format."""
        self._known(name)
        if weights_format not in WEIGHTS_FORMATS or other not in _ROUNDED:
            raise UserError(f"weights format {weights_format!r}, other {other!r}: allowed are "
                            f"{', '.join(WEIGHTS_FORMATS)}, as other {', '.join(_ROUNDED)}")
        if weights_format == "float32":
            return self.tensor(name)
        matrix = self._kept(name)
        if matrix is not None and weights_format in ("file", _format(matrix)):
            self._check_kept(name, matrix)
            return matrix
        rounded = _ROUNDED[other if weights_format == "file" else weights_format]
        return self._checked(rounded, self._stored(name), self.tensor(name))

    def tensor_errors(self, weights_format="file", other="int8"):
        """Yield the ``TensorError`` of each matrix in turn, lm_head last, the embedding for it where they are tied."""
        names = [f"layers.{index}.{name}" for index in range(self.architecture.layers)
                 for name in self.architecture.layer(index).matrix_shapes]
        for name in [*names, *([self._lm_head_name()] if self.architecture.lm_head else [])]:
            matrix, values = self.matrix(name, weights_format, other), self.tensor(name).astype(np.float64)
            difference = (matrix if isinstance(matrix, np.ndarray) else dequantise(matrix)) - values
            scale = np.sqrt(np.mean(values ** 2))
            yield TensorError(name=name, kind=self.kind(name), format=_format(matrix),
                              largest=float(np.abs(difference).max()),
                              relative=float(np.sqrt(np.mean(difference ** 2)) / scale) if scale else 0.0)

    def _lm_head_name(self):
        return "embedding" if self.architecture.tied_embeddings else "lm_head"

    def _known(self, name):
        if name not in self._shapes:
            raise UserError(f"{self.path}: there is no tensor {name}")

    def _check_kept(self, name, matrix):
        parts = (matrix,) if isinstance(matrix, np.ndarray) else matrix[1:]
        if not all(part is None or np.isfinite(part).all() for part in parts):
            with np.errstate(invalid="ignore"):
                values = matrix if isinstance(matrix, np.ndarray) else dequantise(matrix)
            self._finite(name, values)

    def _finite(self, name, values, rows=None):
        self._checked(check_finite, self._stored(name), values, rows=rows)
        return values

    def _checked(self, function, *args, **kwargs):
        """Result of the function; a UserError of its own names the file too."""
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None


def _format(matrix):
    if isinstance(matrix, np.ndarray):
        return {"float16": "fp16"}.get(matrix.dtype.name, matrix.dtype.name)
    return {QuantisedMatrix: "int8", Int4Matrix: "int4"}[type(matrix)]
