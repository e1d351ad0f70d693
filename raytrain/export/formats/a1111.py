"""Embeddings as the Stable Diffusion web UIs, ComfyUI and kohya read them:
a safetensors file named after each word.

With one text encoder its vectors' key is `emb_params`; with several each has its own, such as
`clip_l` and `clip_g`.
"""

from __future__ import annotations

from torch import Tensor

from raytrain import storage
from raytrain.artifacts import Embeddings
from raytrain.errors import UserError
from raytrain.export.bundle import Bundle, Written, write_safetensors

TAKES = (Embeddings,)


def write(bundle: Bundle, folder: str) -> list[Written]:
    """Write `<folder>/<word>.safetensors` of each word."""
    files: dict[str, dict[str, Tensor]] = {}
    for artifact in bundle.of(Embeddings):
        key = bundle.family.EMBEDDINGS[artifact.part]
        for word, vectors in artifact.vectors.items():
            files.setdefault(word, {})[key] = vectors.to(bundle.dtype)
    return [_write_word(bundle, word, tensors, folder) for word, tensors in files.items()]


def _write_word(bundle: Bundle, word: str, tensors: dict[str, Tensor], folder: str) -> Written:
    name = word.strip("<>")
    if not name or "/" in name:
        raise UserError(
            f"Format 'a1111' names a file after each word, got {word!r}, which names none; "
            'the word could not be written. Set export.formats = ["diffusers"].'
        )
    path = write_safetensors(storage.join(folder, f"{name}.safetensors"), tensors, bundle.header)
    return Written(path, (
        f"ComfyUI: copy it to models/embeddings and write embedding:{name} in the prompt.",
        f"Web UIs: copy it to embeddings and write {name} in the prompt.",
    ))  # fmt: skip
