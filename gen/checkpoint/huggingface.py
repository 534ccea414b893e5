"""A Hugging Face folder: config.json, model.safetensors (or shards with an index), tokenizer.json."""

import json
import re
from pathlib import Path

import ml_dtypes  # noqa: F401  safetensors needs the type of BF16 to be known to NumPy
import numpy as np
from safetensors import SafetensorError, safe_open

from tilewright.gen.checkpoint.base import Checkpoint
from tilewright.gen.checkpoint.huggingface_config import architecture_from_config
from tilewright.gen.checkpoint.huggingface_names import NAMES
from tilewright.gen.errors import UserError
from tilewright.gen.tokenizer import tokenizer_from_folder

__all__ = ["HuggingFaceCheckpoint"]

_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_KINDS = ("F32", "F16", "BF16")


class HuggingFaceCheckpoint(Checkpoint):
    """A folder as transformers saves it. F16 matrices are kept as they are; F32 and BF16 ones have no format.

    Parameters
    ----------
    path : path          the folder; UserError if a file of it is missing, corrupt, of an unknown model_type, or has a
                         tensor that is missing, foreign, misshapen or of an unknown type
    model : Model or None    description whose architecture the folder must have
    """

    def __init__(self, path, model=None):
        self.path = Path(path)
        family, architecture = self._checked(architecture_from_config, self._json("config.json"))
        self._names = NAMES[family]
        self._files = self._open()
        self._check_tensors(architecture, family)
        super().__init__(path, architecture, model)

    def tokenizer(self):
        return tokenizer_from_folder(self.path, limit=self.architecture.vocab)

    def kind(self, name):
        return self._slice(self._names.stored(name)).get_dtype()

    def _stored(self, name):
        return self._files[self._names.stored(name)][1]

    def _values(self, name, rows=None):
        tensor = self._slice(self._names.stored(name))
        if rows is not None:
            values = np.concatenate([tensor[row:row + 1] for row in rows.tolist()]) if len(rows) else tensor[:0]
            return values.astype(np.float32)
        values = self._names.taken(name, tensor[:].astype(np.float32), self.architecture)
        if name == "positions" and self._names.token_type:
            values = values + self._slice(self._names.token_type)[:1].astype(np.float32)
        return values

    def _kept(self, name):
        tensor = self._slice(self._names.stored(name))
        return self._names.taken(name, tensor[:], self.architecture) if tensor.get_dtype() == "F16" else None

    def _slice(self, stored):
        file, name = self._files[stored]
        return file.get_slice(name)

    def _json(self, name):
        path = self.path / name
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: is no JSON ({error})") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: must be a JSON object")
        return values

    def _open(self):
        """(file, its name there) of each tensor that is a weight, by its name less prefixes."""
        if (self.path / _FILE).is_file():
            names = [_FILE]
        elif (self.path / _INDEX).is_file():
            index = self._json(_INDEX).get("weight_map")
            if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
                raise UserError(f"{self.path / _INDEX}: weight_map is missing or corrupt")
            names = sorted(set(index.values()))
        else:
            raise UserError(f"{self.path}: holds neither {_FILE} nor {_INDEX}")
        found = {}
        for name in names:
            path = self.path / name
            if Path(name).name != name or not path.is_file():
                raise UserError(f"{path}: no such file")
            try:
                file = safe_open(path, framework="np")
            except SafetensorError as error:
                raise UserError(f"{path}: truncated or corrupt safetensors file ({error})") from None
            for stored in file.keys():  # noqa: SIM118  not a mapping
                key = stored
                for prefix in self._names.prefixes:
                    key = key.removeprefix(prefix)
                key = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key)  # as TensorFlow called them
                key = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", key)
                if not re.fullmatch(self._names.ignored, key):
                    found[key] = file, stored
        return found

    def _check_tensors(self, architecture, family):
        """The files hold what the architecture calls for and nothing else: a bias ignored would be a wrong model."""
        expected = {self._names.stored(name): self._names.shape(name, shape)
                    for name, shape in architecture.tensors().items()}
        if self._names.token_type:
            expected[self._names.token_type] = None
        for stored, shape in expected.items():
            if stored not in self._files:
                raise UserError(f"{self.path}: tensor {stored} is missing")
            tensor = self._slice(stored)
            found = tuple(tensor.get_shape())
            if shape is None:
                shape = (*found[:1], architecture.hidden)
            if found != shape:
                raise UserError(f"{self.path}: tensor {stored} has shape {found} instead of {shape}")
            if tensor.get_dtype() not in _KINDS:
                raise UserError(f"{self.path}: tensor {stored} is of type {tensor.get_dtype()}, which is not "
                                f"supported; supported: {', '.join(_KINDS)}")
        tied = {self._names.stored("lm_head")} if architecture.lm_head else set()  # a tied one may be there once more
        for stored in self._files:
            if stored not in expected and stored not in tied:
                raise UserError(f"{self.path}: tensor {stored} is no part of a model of type {family}")
