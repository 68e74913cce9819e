"""A tiny network of each family that people use, with random weights: what a checkpoint of theirs looks like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

VOCABULARY = 64
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "initializer_range": 0.2}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = TEXT | IDS | SIZE
GROUPED = DECODER | {"num_key_value_heads": 2}
GEMMA = GROUPED | {"head_dim": 8}
EXPERTS = GROUPED | {"num_experts_per_tok": 2}
PICTURE = SIZE | {"image_size": 16, "patch_size": 4, "initializer_range": 0.2}


@dataclass(frozen=True)
class Member:
    """A network of a family.

    head: its class in transformers. config: its settings. reads: "tokens", "images" or "sound".
    blocks: how many segments between the input and the output; 0 where it is one segment.
    unknown: types of modules that hold matrices which are no sites.
    dense: sites that have no second moment, and why; undecided: those without curvature. no_law: why there is none.
    refused: why it cannot be run on one array.
    tolerance: of outputs, where the network is built in another way than transformers does.
    """

    head: str
    config: dict[str, Any]
    blocks: int = 2
    reads: str = "tokens"
    unknown: tuple[str, ...] = ()
    dense: dict[str, str] = field(default_factory=dict)
    undecided: dict[str, str] = field(default_factory=dict)
    no_law: str = ""
    refused: str = ""
    tolerance: float = 0.0

    def build(self) -> PreTrainedModel:
        torch.manual_seed(0)
        kind = getattr(transformers, self.head)
        return kind(kind.config_class(**self.config)).eval()

    def left(self, method: str) -> dict[str, str]:
        """What a method leaves dense, embeddings aside, and why."""
        if method.startswith("quantize.rtn"):
            return {}
        return self.dense | (self.undecided if method.startswith("quantize.entropy") else {})

    def inputs(self, n: int = 6) -> np.ndarray:
        random = np.random.default_rng(7)
        if self.reads == "tokens":
            return random.integers(3, VOCABULARY, (n, 12))
        shape = {"images": (3, 16, 16), "sound": (8, 24)}[self.reads]
        return random.normal(size=(n, *shape)).astype(np.float32)


SAM = {
    "vision_config": SIZE
    | {"image_size": 16, "patch_size": 4, "output_channels": 8, "mlp_dim": 48, "global_attn_indexes": [1]}
    | {"window_size": 2, "num_pos_feats": 4},
    "prompt_encoder_config": {"hidden_size": 8, "image_size": 16, "patch_size": 4, "mask_input_channels": 4},
    "mask_decoder_config": {"hidden_size": 8, "mlp_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"iou_head_hidden_dim": 8},
}
SEEN = {"initializer_range": 0.2, "depths": [1, 2], "hidden_sizes": [8, 16]}
GPT2 = {"vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
DISTIL = TEXT | {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
OPT = TEXT | IDS | {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
BART = IDS | {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "decoder_start_token_id": 1,
    "init_std": 0.2,
    **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")},
}
WHISPER = BART | {"num_mel_bins": 8, "max_source_positions": 12, "max_target_positions": 16}
GROUPS = "a grouped convolution has no single second moment"
SOUND = "Conv1d has no second moment of inputs"
DEPTHWISE = ("0.layers.0", "1.layers.0", "1.layers.1")
ZOO = {
    "llama": Member("LlamaForCausalLM", GROUPED | {"tie_word_embeddings": True}),
    "mistral": Member("MistralForCausalLM", GROUPED | {"sliding_window": 4}),
    "qwen2": Member("Qwen2ForCausalLM", GROUPED),
    "qwen3": Member("Qwen3ForCausalLM", GROUPED | {"head_dim": 8}),
    "gemma": Member("GemmaForCausalLM", GEMMA),
    "gemma2": Member("Gemma2ForCausalLM", GEMMA | {"sliding_window": 4}),
    "gemma3": Member(
        "Gemma3ForCausalLM", GEMMA | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
    ),
    "phi": Member("PhiForCausalLM", DECODER),
    "phi3": Member("Phi3ForCausalLM", GROUPED),
    "gpt2": Member("GPT2LMHeadModel", GPT2 | IDS),
    "gpt_neox": Member("GPTNeoXForCausalLM", DECODER),
    "opt": Member(
        "OPTForCausalLM",
        OPT | {"word_embed_proj_dim": 32},
        undecided={"model.decoder.embed_positions.weight": "OPTLearnedPositionalEmbedding is no plain lookup"},
    ),
    "mixtral": Member(
        "MixtralForCausalLM", EXPERTS | {"num_local_experts": 4}, unknown=("MixtralTopKRouter",), tolerance=1e-4
    ),
    "qwen3_moe": Member(
        "Qwen3MoeForCausalLM",
        EXPERTS | {"num_experts": 4, "head_dim": 8, "moe_intermediate_size": 24},
        unknown=("Qwen3MoeTopKRouter",),
        tolerance=1e-4,
    ),
    "bert": Member("BertModel", TEXT | SIZE, undecided={"pooler.dense.weight": "no gradient of the output reaches it"}),
    "bert_masked": Member("BertForMaskedLM", TEXT | SIZE),
    "roberta": Member("RobertaForSequenceClassification", TEXT | SIZE | IDS),
    "distilbert": Member("DistilBertForSequenceClassification", DISTIL),
    "t5": Member("T5ForConditionalGeneration", T5 | {"decoder_start_token_id": 0}, 4),
    "t5_encoder": Member("T5EncoderModel", T5),
    "bart": Member(
        "BartForConditionalGeneration",
        BART | {"max_position_embeddings": 64},
        4,
        undecided={
            f"model.{side}.embed_positions.weight": "BartLearnedPositionalEmbedding is no plain lookup"
            for side in ("encoder", "decoder")
        },
    ),
    "marian": Member("MarianMTModel", BART | {"max_position_embeddings": 64}, 4),
    "whisper": Member(
        "WhisperForConditionalGeneration",
        WHISPER,
        4,
        reads="sound",
        dense={f"model.encoder.conv{i}.weight": SOUND for i in (1, 2)},
        undecided={"model.decoder.embed_positions.weight": "WhisperPositionalEmbedding is no plain lookup"},
    ),
    "vit": Member("ViTForImageClassification", PICTURE, reads="images", unknown=("ViTEmbeddings",)),
    "deit": Member("DeiTForImageClassification", PICTURE, reads="images", unknown=("DeiTEmbeddings",)),
    "convnext": Member(
        "ConvNextForImageClassification",
        SEEN | {"num_stages": 2, "patch_size": 2, "layer_scale_init_value": 1.0},
        reads="images",
        dense={f"convnext.encoder.stages.{layer}.dwconv.weight": GROUPS for layer in DEPTHWISE},
    ),
    "resnet": Member(
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "layer_type": "basic", "num_labels": 5},
        4,
        reads="images",
    ),
    "clip": Member(
        "CLIPModel",
        {"text_config": DECODER, "vision_config": PICTURE, "projection_dim": 16},
        0,
        refused="does not take examples of 12",
    ),
    "clip_vision": Member("CLIPVisionModelWithProjection", PICTURE | {"projection_dim": 16}, reads="images"),
    "clip_text": Member("CLIPTextModelWithProjection", DECODER | {"projection_dim": 16}),
    "sam": Member(
        "SamModel",
        SAM,
        reads="images",
        unknown=("ConvTranspose2d", "SamPositionalEmbedding", "SamVisionEncoder", "SamVisionSdpaAttention"),
        dense={f"prompt_encoder.mask_embed.conv{i}.weight": "calibration never reached it" for i in (1, 2, 3)},
        no_law="the network.s output is not understood",
    ),
}


def table() -> str:
    """The rows of docs/guides/families.md."""
    lines = ["| network | segments | stays dense, beside vectors |", "| --- | --- | --- |"]
    for member in ZOO.values():
        cut = "a block each" if member.blocks else "one"
        reasons = dict.fromkeys([*member.dense.values(), *member.undecided.values()])
        matrices = [f"matrices of {kind}" for kind in member.unknown]
        lines.append(f"| {member.head} | {cut} | {'; '.join([*matrices, *reasons]) or '-'} |")
    return "\n".join(lines)
