"""From a model's name or a path to its open checkpoint."""

from pathlib import Path

from tilewright.gen.checkpoint.gguf_file import GgufCheckpoint
from tilewright.gen.checkpoint.huggingface import HuggingFaceCheckpoint
from tilewright.gen.checkpoint.llama2c_file import Llama2cCheckpoint
from tilewright.gen.errors import UserError
from tilewright.gen.fetch import fetch
from tilewright.gen.model import known_models, load_model

__all__ = ["open_checkpoint"]


def open_checkpoint(model_or_path, source=None, *, tokenizer=None, progress=True):
    """The ``Checkpoint`` of a known model, or of a file or folder.

    Parameters
    ----------
    model_or_path : str or path    a known model's name in any case; or a .gguf file, a llama2.c checkpoint (.bin),
                                   a Hugging Face folder or the .safetensors file in one
    source : str or path           where a known model's file is fetched from; None: its own place
    tokenizer : path               tokenizer of a llama2.c checkpoint; None: the one beside it
    progress : bool                show fetching on standard error

    Raises UserError for a name that is not known, a file that is missing or of an unknown kind, or not the model's.
    """
    model, name = None, str(model_or_path).lower()
    if name in known_models():
        model = load_model(name)
        path = Path(fetch(model, source, progress=progress))
    else:
        path = Path(model_or_path).expanduser()
        if not path.exists():
            raise UserError(f"{model_or_path}: neither a known model nor a file or folder; known models: "
                            f"{', '.join(known_models())}")
        if source is not None:
            raise UserError(f"source {source}: goes with a known model's name, not with a path")
    return _open(path, model, tokenizer)


def _open(path, model, tokenizer):
    if path.is_dir() or path.suffix == ".safetensors":
        return HuggingFaceCheckpoint(path if path.is_dir() else path.parent, model)
    if path.suffix == ".gguf":
        return GgufCheckpoint(path, model)
    if path.suffix == ".bin":
        return Llama2cCheckpoint(path, model, tokenizer)
    raise UserError(f"{path}: unknown kind of file; known are .gguf, .safetensors and .bin (llama2.c)")
