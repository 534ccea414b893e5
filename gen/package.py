"""A compiled model with all that a host needs to run it, and its files: image, manifest, tokenizer."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path

from tilewright.gen.architecture import Architecture, RopeScaling
from tilewright.gen.compiler.assembler import Label
from tilewright.gen.compiler.formats import MatrixFormat
from tilewright.gen.compiler.image import KvLayout
from tilewright.gen.compiler.model import CompiledModel, compile_model
from tilewright.gen.errors import UserError
from tilewright.gen.tokenizer_file import read_tokenizer, write_tokenizer
from tilewright.hw.commands import COMMAND_BYTES, Opcode
from tilewright.hw.config import AcceleratorConfig, ConfigError
from tilewright.sim.golden.model import TransformerModel
from tilewright.sim.golden.weights import Int4Matrix

__all__ = ["Package", "compile_package", "positions", "whole_model", "write_package", "read_package", "is_package",
           "CONTEXT", "FORMAT"]

FORMAT = 2
"""Version of the manifest."""
CONTEXT = 512
"""Positions that a package holds, unless it is asked for others."""
MANIFEST, IMAGE, TOKENIZER = "manifest.json", "image.bin", "tokenizer.json"

_PLAIN = [field.name for field in fields(CompiledModel) if field.name not in ("image", "caches", "labels")]
"""What the manifest has of a CompiledModel as it is."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A model compiled for a configuration, with what a host needs to talk to it.

    compiled : CompiledModel       or ``gen.offload.OffloadedModel`` where the host runs the model
    config : AcceleratorConfig     the only one whose hardware runs it
    architecture : Architecture
    tokenizer : Tokenizer
    model : str                    its name
    weights, kv : str              formats of matrices ('file': each as the model's file has it) and KV cache
    tensors : list of dict         what rounding each matrix to its format cost: the fields of TensorError
    """

    compiled: object
    config: AcceleratorConfig
    architecture: Architecture
    tokenizer: object
    model: str
    weights: str
    kv: str
    tensors: list


def whole_model(checkpoint, weights, step=lambda text: None):
    """A checkpoint as a golden ``TransformerModel``, all of it in memory; ``weights``: format of the matrices."""
    architecture, layers = checkpoint.architecture, []
    for index in range(architecture.layers):
        step(f"reading layer {index + 1} of {architecture.layers}")
        layers.append(checkpoint.layer(index, weights))
    step("reading the embedding")
    return TransformerModel(
        shapes=tuple(architecture.layer(index) for index in range(architecture.layers)), layers=tuple(layers),
        tensors=checkpoint.tensors(weights),
        embed_scale=None if architecture.embed_scale == 1.0 else architecture.embed_scale)


def compile_package(checkpoint, whole, config, *, name, weights, kv, context=None, step=lambda text: None,
                    with_errors=False):
    """The ``Package`` of a checkpoint whose tensors are in ``whole``; UserError where it does not fit.

    context : int or None    positions; None: CONTEXT, or as many as model and configuration allow
    step : function          told what is being done
    with_errors : bool       tell what rounding did to each matrix, which takes as long as reading them
    """
    context = positions(checkpoint, config, context)
    _check_held(whole, config)
    compiled = compile_model(config, whole, context=context, kv_format=kv, step=step)
    if with_errors:
        step("measuring what rounding did")
    return Package(compiled=compiled, config=config, architecture=checkpoint.architecture,
                   tokenizer=checkpoint.tokenizer(), model=name, weights=weights, kv=kv,
                   tensors=[asdict(each) for each in checkpoint.tensor_errors(weights)] if with_errors else [])


def positions(checkpoint, config, context):
    """Positions of a package for which ``context`` were asked, None for the usual number; UserError where the model
    has fewer."""
    limit = checkpoint.architecture.max_context
    if context is None:
        return min(CONTEXT, limit, config.max_context)
    if context > limit:
        raise UserError(f"context = {context}: is {context - limit} more than the model's limit of {limit}; take a "
                        f"smaller --context")
    return context


def _check_held(whole, config):
    """Raise UserError for a matrix in a format that the configuration has no array for."""
    matrices = [value for tensors in (*whole.layers, whole.tensors) for value in tensors.values()]
    if any(isinstance(matrix, Int4Matrix) for matrix in matrices) and "int4" not in config.formats:
        raise UserError(f"formats = {list(config.formats)}: the model's matrices are in INT4; take --weights int8 or "
                        "fp16")


def is_package(folder):
    """Whether a folder holds a package."""
    return (Path(folder) / MANIFEST).is_file()


def write_package(package, folder):
    """Write the package's files, the same bytes for the same package; UserError where that cannot be."""
    folder, compiled = Path(folder), package.compiled
    kv = compiled.caches[0][0]
    manifest = {
        "format": FORMAT, "model": package.model, "architecture": asdict(package.architecture),
        "weights": package.weights, "kv": package.kv, "tensors": package.tensors,
        "configuration": asdict(package.config), "config_hash": package.config.sha256,
        "image": {"file": IMAGE, "bytes": len(compiled.image), "sha256": hashlib.sha256(compiled.image).hexdigest()},
        "tokenizer": TOKENIZER, "kv_heads": kv.kv_heads, "head_dim": kv.head_dim,
        "caches": [{"offset": offset, "slots": layout.slots, "ring": layout.ring}
                   for layout, offset in compiled.caches],
        "labels": _runs(compiled.labels), **{name: getattr(compiled, name) for name in _PLAIN},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)   # the last file written says that the others are whole
        (folder / IMAGE).write_bytes(compiled.image)
        write_tokenizer(package.tokenizer, folder / TOKENIZER)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; choose another folder") from None


def read_package(folder, config=None):
    """The ``Package`` in a folder. UserError, one line, for a missing, cut off or changed file, a manifest of another
    version, and for a package of another configuration than ``config``, where one is given."""
    folder = Path(folder)
    place = folder / MANIFEST
    try:
        manifest = json.loads(place.read_text(encoding="utf-8"))
        version = manifest["format"]
    except OSError as error:
        raise UserError(f"{place}: cannot be read: {error.strerror}; compile the model again") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{place}: no manifest; compile the model again") from None
    if version != FORMAT:
        raise UserError(f"{place}: format = {version!r}: this version reads {FORMAT}; compile the model again")
    try:
        built = AcceleratorConfig(**_tuples(manifest["configuration"]))
        architecture = _architecture(manifest["architecture"])
        kv_format = MatrixFormat(built, manifest["kv"])
        caches = tuple(
            (KvLayout(format=kv_format, kv_heads=manifest["kv_heads"], head_dim=manifest["head_dim"],
                      slots=cache["slots"], ring=cache["ring"]), cache["offset"]) for cache in manifest["caches"])
        values = {name: manifest[name] for name in _PLAIN}
        told = {name: manifest[name] for name in ("model", "weights", "kv", "tensors", "config_hash")}
        expected = {name: manifest["image"][name] for name in ("bytes", "sha256")}
        runs = [(text, int(offset), int(count)) for text, offset, count in manifest["labels"]]
    except (KeyError, TypeError, ValueError, ConfigError, UserError) as error:
        raise UserError(f"{place}: corrupt manifest ({error}); compile the model again") from None
    if told.pop("config_hash") != built.sha256:
        raise UserError(f"{place}: config_hash is not that of its configuration; compile the model again")
    if config is not None and config.sha256 != built.sha256:
        raise UserError(f"{folder}: compiled for configuration {built.name} ({built.sha256[:8]}), not for "
                        f"{config.name} ({config.sha256[:8]}); compile the model for it")
    image = _image(folder / IMAGE, expected)
    try:
        labels = _labels(runs, image)
    except ValueError as error:
        raise UserError(f"{place}: labels that are not the program's ({error}); compile the model again") from None
    compiled = CompiledModel(image=image, caches=caches, labels=labels, **values)
    return Package(compiled=compiled, config=built, architecture=architecture,
                   tokenizer=read_tokenizer(folder / TOKENIZER), **told)


def _image(place, expected):
    try:
        data = place.read_bytes()
    except OSError as error:
        raise UserError(f"{place}: cannot be read: {error.strerror}; compile the model again") from None
    if len(data) != expected["bytes"]:
        raise UserError(f"{place}: has {len(data)} bytes instead of {expected['bytes']}; compile the model again")
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise UserError(f"{place}: SHA-256 is not the manifest's; compile the model again")
    return data


def _runs(labels):
    """Labels as the manifest has them: the text of commands that lie behind each other, the first one's offset, their
    number. What a command is stands in the image."""
    runs = []
    for text, each in groupby(labels.items(), lambda item: item[1].text):
        for offset, _ in each:
            if runs and runs[-1][0] == text and runs[-1][1] + COMMAND_BYTES * runs[-1][2] == offset:
                runs[-1][2] += 1
            else:
                runs.append([text, offset, 1])
    return runs


def _labels(runs, image):
    """The other way round; ValueError where there is no such command."""
    labels = {}
    for text, first, count in runs:
        if first < 0 or first + COMMAND_BYTES * count > len(image):
            raise ValueError(f"offset {first}, {count} commands")
        for offset in range(first, first + COMMAND_BYTES * count, COMMAND_BYTES):
            labels[offset] = Label(Opcode(image[offset]).name, text)
    return labels


def _tuples(values):
    """JSON's lists as the tuples that they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _architecture(values):
    values = _tuples(values)
    if values["rope_scaling"] is not None:
        values["rope_scaling"] = RopeScaling(**values["rope_scaling"])
    return Architecture(**values)
