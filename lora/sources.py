"""Where a model's files lie on this disk; needs neither torch nor NumPy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from lora.errors import ModelNotFoundError

__all__ = ["fetch", "hub_name", "weight_files"]

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_WEIGHTS: Final = ("*.safetensors", "pytorch_model*.bin")
_IGNORED: Final = ("*.onnx", "*.ot", "*.h5", "*.msgpack", "openvino*", "onnx/*", "*.gguf")


def hub_name(model: str) -> str:
    """The full hub id that a text means; raises `ModelNotFoundError` where it can mean none."""
    if _HUB_ID.fullmatch(model) is None or Path(model).exists():
        raise ModelNotFoundError(f"the model {model!r} is neither a folder nor a hub id")
    return model if "/" in model else f"sentence-transformers/{model}"


def weight_files(folder: Path) -> list[Path]:
    """The weights of the model in a folder, sorted; safetensors where there are any.

    Raises:
        ModelNotFoundError: there are none.
    """
    for pattern in _WEIGHTS:
        found = sorted(
            file
            for file in (*folder.glob(pattern), *folder.glob("[0-9]*_*/" + pattern))
            if file.is_file()
        )
        if found:
            return found
    raise ModelNotFoundError(f"the folder {folder} holds no model weights")


def fetch(name: str) -> Path:
    """The folder of a hub id: from the local cache, else from the hub, where that is allowed.

    Raises:
        ModelNotFoundError: it is not at hand and cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    ignored = list(_IGNORED)
    try:
        try:
            return Path(snapshot_download(name, ignore_patterns=ignored, local_files_only=True))
        except OSError:
            return Path(snapshot_download(name, ignore_patterns=ignored))
    except (OSError, ValueError, HfHubHTTPError) as e:
        reason = str(e).strip().splitlines() or [type(e).__name__]
        raise ModelNotFoundError(
            f"the model {name!r} is not at hand and could not be fetched: {reason[0]}"
        ) from e
