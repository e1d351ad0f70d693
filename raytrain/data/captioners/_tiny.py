"""Captioner folders with tiny random weights, built offline: real classes, meaningless captions,
for tests and trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIDE = 32
WORDS = (
    "a",
    "red",
    "blue",
    "star",
    "circle",
    "on",
    "of",
    "the",
    "and",
    "in",
    "what",
    "is",
    "this",
    "?",
    ":",
    ",",
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
VISION = TEXT | {"image_size": SIDE, "patch_size": 8}


def write_blip(folder: str, seed: int) -> None:
    """Write a BLIP folder."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    torch.manual_seed(seed)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    (root / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizer(vocab=str(root / "vocab.txt")).save_pretrained(root)
    BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(root)
    text = {
        "vocab_size": len(words) + 1,
        "encoder_hidden_size": 32,
        "max_position_embeddings": 64,
        "projection_dim": 32,
    }
    special = {"pad_token_id": 0, "bos_token_id": len(words), "sep_token_id": 3, "eos_token_id": 3}
    config = BlipConfig(text_config=TEXT | text | special, vision_config=VISION, projection_dim=32)
    _save(BlipForConditionalGeneration(config), folder)


def write_blip2(folder: str, seed: int) -> None:
    """Write a BLIP-2 folder with an OPT language model."""
    import torch
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, OPTConfig
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    torch.manual_seed(seed)
    tokenizer = _tokenizer(("<image>",), image_token="<image>", add_bos=True)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        **special,
    )
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=TEXT | {"vocab_size": 8},
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(folder)
    _save(Blip2ForConditionalGeneration(config), folder)


def write_git(folder: str, seed: int) -> None:
    """Write a GIT folder."""
    import torch
    from transformers import GitConfig, GitForCausalLM
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(seed)
    tokenizer = _tokenizer(())
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    model = GitForCausalLM(GitConfig(vision_config=VISION, **TEXT, **words, **special))
    _save(model, folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)


def write_vit_gpt2(folder: str, seed: int) -> None:
    """Write a ViT encoder with a GPT-2 decoder."""
    import torch
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
    )
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(seed)
    tokenizer = _tokenizer(())
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        add_cross_attention=True,
        **special,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(**VISION), text, decoder_start_token_id=1, **special
    )
    model = VisionEncoderDecoderModel(config)
    model.generation_config.update(decoder_start_token_id=1, **special)
    _save(model, folder)
    tokenizer.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def write_florence2(folder: str, seed: int) -> None:
    """Write a Florence-2 folder."""
    import torch
    from transformers import (
        BartConfig,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(seed)
    tokenizer = _tokenizer(("<image>",), image_token="<image>")
    text = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, max_position_embeddings=96, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
        forced_bos_token_id=None,
    )  # fmt: skip
    vision = {
        "depths": (1, 1), "patch_size": (7, 3), "patch_stride": (4, 2), "patch_padding": (3, 1),
        "num_heads": (2, 4), "patch_prenorm": (False, True), "embed_dim": (16, 32),
        "num_groups": (2, 4), "window_size": 4, "projection_dim": 32, "max_temporal_embeddings": 4,
        "max_position_embeddings": 8, "drop_path_rate": 0.0,
    }  # fmt: skip
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = Florence2ForConditionalGeneration(
        Florence2Config(text_config=text.to_dict(), vision_config=vision, image_token_id=image)
    )
    images = CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    images.image_seq_length = (SIDE // 8) ** 2 + 1
    Florence2Processor(images, tokenizer).save_pretrained(folder)
    _save(model, folder)


def write_chat_vlm(folder: str, seed: int) -> None:
    """Write a LLaVA-NeXT folder with a Llama language model and a chat template."""
    import torch
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    torch.manual_seed(seed)
    tokenizer = _tokenizer(("<image>", "[INST]", "[/INST]"), image_token="<image>", add_bos=True)
    grid = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = (
        TEXT
        | special
        | {"model_type": "llama", "vocab_size": len(tokenizer), "max_position_embeddings": 512}
    )
    model = LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=VISION | {"model_type": "clip_vision_model", "projection_dim": 32},
            text_config=text,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_grid_pinpoints=grid,
        )
    )
    size = {"shortest_edge": SIDE}
    crop = {"height": SIDE, "width": SIDE}
    LlavaNextProcessor(
        LlavaNextImageProcessorPil(size=size, crop_size=crop, image_grid_pinpoints=grid),
        tokenizer,
        patch_size=VISION["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=(
            "{% for message in messages %}[INST] {% for part in message['content'] %}{{ '<image>' "
            "if part['type'] == 'image' else part['text'] }} {% endfor %}[/INST]{% endfor %}"
        ),
    ).save_pretrained(folder)
    _save(model, folder)


def write_qwen2_vl(folder: str, seed: int) -> None:
    """Write a Qwen2-VL folder, whose whole processor would need torchvision for videos."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    torch.manual_seed(seed)
    names = {
        "image": "<|image_pad|>",
        "video": "<|video_pad|>",
        "vision_start": "<|vision_start|>",
        "vision_end": "<|vision_end|>",
    }
    tokenizer = _tokenizer(tuple(names.values()), image_token=names["image"])
    tokenizer.chat_template = (
        "{% for message in messages %}{% for part in message['content'] %}{{ "
        "'<|vision_start|><|image_pad|><|vision_end|>' if part['type'] == 'image' else "
        "part['text'] }} {% endfor %}{% endfor %}"
    )
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    rotary = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
    text = (
        TEXT
        | special
        | {"vocab_size": len(tokenizer), "num_key_value_heads": 4, "rope_parameters": rotary}
    )
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 8}
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(word) for name, word in names.items()
    }
    _save(
        Qwen2VLForConditionalGeneration(
            Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
        ),
        folder,
    )
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        patch_size=8, min_pixels=SIDE**2, max_pixels=4 * SIDE**2
    ).save_pretrained(folder)


def _save(model: Any, folder: str) -> None:
    """Save weights large enough for the images to matter to the captions:
    those models are initialized with are not."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)


def _tokenizer(special: Sequence[str], image_token: str = "", add_bos: bool = False) -> Any:
    """Return a tokenizer of the words above: <pad>, <s>, </s> and <unk> first,
    further special tokens last."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        word: number for number, word in enumerate(("<pad>", "<s>", "</s>", "<unk>", *WORDS))
    }
    rust = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    rust.pre_tokenizer = Whitespace()
    if add_bos:
        rust.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    extra = {"extra_special_tokens": {"image_token": image_token}} if image_token else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=rust,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        **extra,
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [word for word in special if word != image_token]}
    )
    return tokenizer
