"""The names of tensors in other projects' files of image and text encoders, and our names for them.

Image encoders are named as in timm, text encoders as BERT in transformers, since our modules are. Read as well, because
the mapping is exact: ViTs of transformers, names that a wrapper such as DistributedDataParallel put `module.` before,
and BERT's names in its first files. Other projects are recognised, for messages.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

Sources = Mapping[str, tuple[str, ...]]
"""By our name of a tensor, its name in a file; the tensors of several names follow on another along the first axis."""

WRAPPERS = ("module.", "_orig_mod.")
"""What wrapping a module puts before all names: DistributedDataParallel and torch.compile."""


def wrapper_prefix(names: Collection[str]) -> str:
    """Return what wrappers put before all names, empty for none."""
    prefix = ""
    while names:
        more = next((part for part in WRAPPERS if all(name.startswith(prefix + part) for name in names)), "")
        if not more:
            break
        prefix += more
    return prefix


def _unwrapped(names: Collection[str]) -> dict[str, str]:
    """Return the names in a file by those without wrappers."""
    prefix = wrapper_prefix(names)
    return {name.removeprefix(prefix): name for name in names}


VIT_OF_TRANSFORMERS = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"layernorm\.(\w+)", r"norm.\1"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_before\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_after\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:output\.dense|o_proj)\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.(?:output\.dense|mlp\.fc2)\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
)
"""Patterns of names without `vit.`, and timm's names; first as files have them, then as modules do since version 5."""

QKV_OF_TRANSFORMERS = re.compile(
    r"(?:encoder\.layer|layers)\.(?P<block>\d+)\.attention\."
    r"(?:attention\.(?P<long>query|key|value)|(?P<short>[qkv])_proj)\.(?P<kind>\w+)"
)
"""Queries, keys and values, which timm holds as one."""


def image_encoder_names(names: Collection[str]) -> Sources:
    """Return where the tensors of an image encoder are in a file, by timm's names; others keep their names."""
    unwrapped = _unwrapped(names)
    if not any(re.fullmatch(r"(vit\.)?embeddings\.patch_embeddings\..+", name) for name in unwrapped):
        return {name: (source,) for name, source in unwrapped.items()}
    sources: dict[str, tuple[str, ...]] = {}
    fused: dict[str, dict[str, str]] = {}
    for name, source in unwrapped.items():
        bare = name.removeprefix("vit.")
        if part := QKV_OF_TRANSFORMERS.fullmatch(bare):
            letter = part["short"] or part["long"][0]
            fused.setdefault(f"blocks.{part['block']}.attn.qkv.{part['kind']}", {})[letter] = source
        else:
            _place(sources, _timm_name(bare), source)
    return sources | {name: tuple(parts[key] for key in "qkv" if key in parts) for name, parts in fused.items()}


def _place(sources: dict[str, tuple[str, ...]], name: str, source: str) -> None:
    """Give a tensor our name, unless another of the file has it: then it keeps its own and is left over."""
    sources[source if name in sources else name] = (source,)


def _timm_name(name: str) -> str:
    for pattern, replacement in VIT_OF_TRANSFORMERS:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return name


def text_encoder_names(names: Collection[str]) -> Sources:
    """Return where the tensors of a BERT are in a file, by the names in BertForMaskedLM; others keep their names."""
    sources: dict[str, tuple[str, ...]] = {}
    for name, source in _unwrapped(names).items():
        _place(sources, _bert_name(name), source)
    return sources


def _bert_name(name: str) -> str:
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


IMAGE_LEFT_OVER: Mapping[str, str] = {
    "classifier head": r"(head|classifier|fc)\..+",
    "pooler": r"(pooler|pre_logits)\..+",
}
"""What may be left over of an image encoder: families of tensors that its tokens do not depend on, by pattern."""

TEXT_LEFT_OVER: Mapping[str, str] = {
    "pooler": r"bert\.pooler\..+",
    "classifier head": r"(classifier|qa_outputs|cls\.seq_relationship)\..+",
    "numbers of positions and types": r"bert\.embeddings\.(position_ids|token_type_ids)",
    "tied output": r"cls\.predictions\.decoder\.(weight|bias)",
}
"""What may be left over of a BERT, besides its layers above those of the recipe, by pattern."""


def unexpected(left_over: Iterable[str], families: Mapping[str, str]) -> tuple[str, ...]:
    """Return the tensors that belong to no family of those that may be left over."""
    return tuple(name for name in left_over if not any(re.fullmatch(family, name) for family in families.values()))


FEATURES: Mapping[str, str] = {
    r".*\.(ls[12]\.gamma|gamma_[12]|lambda_[12]|layer_scale[12]\.lambda1)": "LayerScale",
    r".*(q_norm|k_norm|query_norm|key_norm)\..+": "normalised queries and keys (q/k-norm)",
    r".*(reg_token|register_tokens|storage_tokens)": "register tokens",
    r".*(dist_token|distillation_token)": "a distillation token",
    r".*(norm_pre|pre_layrnorm|ln_pre)\..+": "a LayerNorm before the blocks, as CLIP has",
    r".*(rel_pos|relative_position|relative_attention|distance_embedding).*": "relative positions",
    r".*(w12|gate_proj|up_proj|weights_in)\..+": "gated MLPs (SwiGLU)",
    r".*mask_token": "a mask token",
}
"""What tensors that the model does not have are, by pattern."""


def features(names: Iterable[str]) -> str:
    """Return what tensors are, in a few words; empty when none is recognised."""
    names = list(names)
    there = [what for pattern, what in FEATURES.items() if any(re.fullmatch(pattern, name) for name in names)]
    return " and ".join(there)


IMAGE_BLOCKS, TEXT_LAYERS = "blocks.", "bert.encoder.layer."
"""What our names of the blocks of an image encoder, and of the layers of a BERT, begin with; a number follows."""


def count_blocks(names: Iterable[str], start: str) -> int:
    """Return the number of blocks whose names begin like this."""
    numbers = (name.removeprefix(start).partition(".")[0] for name in names if name.startswith(start))
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)


OTHER_PROJECTS: Mapping[str, str] = {
    "uniter.": "UNITER, which is not supported",
    "student.visual_encoder.": "a model of Fuseray; name its checkpoint in start.checkpoint",
    "visual_encoder.": "an ALBEF checkpoint; run `fuseray import-checkpoint albef FILE OUT` and name OUT in "
    "start.checkpoint",
    "text_encoder.": "an ALBEF checkpoint; run `fuseray import-checkpoint albef FILE OUT` and name OUT in "
    "start.checkpoint",
    "visual.": "CLIP of OpenAI or open_clip",
    "vision_model.": "CLIP or SigLIP of transformers, which is not supported",
    "text_model.": "CLIP or SigLIP of transformers, which is not supported",
    "backbone.": "a backbone with a head, as DINO has; save the backbone's tensors alone, without `backbone.`",
    "student.": "DINO's student and teacher; save the teacher's backbone alone, without prefixes",
    "teacher.": "DINO's student and teacher; save the teacher's backbone alone, without prefixes",
    "deit.": "DeiT of transformers, which has a distillation token; name timm's deit_base_patch16_224 instead",
    "beit.": "BEiT, which is not supported",
    "dinov2.": "DINOv2 of transformers, which is not supported",
    "roberta.": "RoBERTa, which has another vocabulary and other positions than BERT; name a BERT",
    "distilbert.": "DistilBERT, which has other layers than BERT; name a BERT",
    "electra.": "ELECTRA; name a BERT",
    "albert.": "ALBERT, whose layers share their weights; name a BERT",
    "deberta.": "DeBERTa; name a BERT",
    "mpnet.": "MPNet; name a BERT",
    "model.layers.": "a causal language model; name a BERT",
    "transformer.": "GPT or DistilBERT; name a BERT",
    "0.auto_model.": "a model of sentence-transformers; name the model.safetensors that it keeps beside",
    "layer1.": "a ResNet, which is no ViT",
    "stages.": "a network of stages, such as ConvNeXt, which is no ViT",
    "bert.": "a BERT; name it in model.text_weights",
    "blocks.": "a ViT; name it in model.vision_weights",
    "vit.": "a ViT of transformers; name it in model.vision_weights",
}
"""What files are, by the beginning of tensors' names, the most telling ones first."""


def recognised(names: Iterable[str]) -> str:
    """Return what the tensors of a file are, as far as names tell."""
    names = list(names)
    for prefix, project in OTHER_PROJECTS.items():
        if any(name.startswith(prefix) for name in names):
            return f"it looks like {project}"
    return f"its names begin like {', '.join(names[:3])}" if names else "it holds no tensors"
