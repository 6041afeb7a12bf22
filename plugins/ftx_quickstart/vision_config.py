"""The sizes of the quickstart's vision model, and its config.json with the keys that InternVL2's official one has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TILE = 112  # pixels a side
PATCH = 14  # pixels a side: 64 patches a tile, of which four make a token
ADDED_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
"""The special tokens that InternVL2 adds after InternLM2's vocabulary, in the order of their ids."""

VISION: dict[str, Any] = {
    "architectures": ["InternVisionModel"],
    "attention_dropout": 0.0,
    "drop_path_rate": 0.0,
    "dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 192,
    "image_size": TILE,
    "initializer_factor": 0.1,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "layer_norm_eps": 1e-06,
    "model_type": "intern_vit_6b",
    "norm_type": "layer_norm",
    "num_attention_heads": 6,
    "num_channels": 3,
    "num_hidden_layers": 5,
    "patch_size": PATCH,
    "qk_normalization": False,
    "qkv_bias": True,
    "tie_word_embeddings": True,
    "use_flash_attn": False,
}
"""An InternViT of the 300M kind (LayerNorm, qkv bias, no norm of queries and keys), small enough to be embedded."""

# What transformers 4 wrote into every nested config, and other readers of this layout may look for.
_GENERIC: dict[str, Any] = {
    "_name_or_path": "",
    "add_cross_attention": False,
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "bos_token_id": None,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "decoder_start_token_id": None,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "finetuning_task": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_decoder": False,
    "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "length_penalty": 1.0,
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "pad_token_id": None,
    "prefix": None,
    "problem_type": None,
    "pruned_heads": {},
    "remove_invalid_values": False,
    "repetition_penalty": 1.0,
    "return_dict": True,
    "return_dict_in_generate": False,
    "sep_token_id": None,
    "suppress_tokens": None,
    "task_specific_params": None,
    "temperature": 1.0,
    "tf_legacy_loss": False,
    "tie_encoder_decoder": False,
    "tokenizer_class": None,
    "top_k": 50,
    "top_p": 1.0,
    "torch_dtype": "bfloat16",
    "torchscript": False,
    "transformers_version": "4.39.3",
    "typical_p": 1.0,
    "use_bfloat16": False,
}


def official_config(language: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of an InternVL2 over the language model with config `language`, whose vocabulary gains ADDED_TOKENS.

    Without `auto_map`: no code goes with the folder.
    """
    grown = {"vocab_size": language["vocab_size"] + len(ADDED_TOKENS), "torch_dtype": "bfloat16"}
    return {
        "_commit_hash": None,
        "_name_or_path": "",
        "architectures": ["InternVLChatModel"],
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": TILE,
        "hidden_size": language["hidden_size"],
        "llm_config": dict(sorted({**_GENERIC, **language, **grown}.items())),
        # One tile, or two and a thumbnail.
        "max_dynamic_patch": 2,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internlm2-chat",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": None,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": dict(sorted({**_GENERIC, **VISION}.items())),
    }


PREPROCESSOR: dict[str, Any] = {
    "crop_size": TILE,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": TILE,
}
"""preprocessor_config.json, as InternVL2's official one."""
