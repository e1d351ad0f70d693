"""Folders of models that look at images, with tiny random weights: real classes, no download."""

from __future__ import annotations

from pathlib import Path

import torch

from raytrain.families._tiny import tokenizer

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}


def clipseg(folder: Path, seed: int = 0) -> str:
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(seed)
    tokenizer(folder)
    text = SHAPE | {
        "vocab_size": 150,
        "bos_token_id": 136,
        "eos_token_id": 137,
        "initializer_factor": 8.0,
    }
    vision = SHAPE | {"image_size": 64, "patch_size": 16}
    config = CLIPSegConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=32,
        extract_layers=[0, 1, 2],
        reduce_dim=16,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=32,
    )
    model = CLIPSegForImageSegmentation(config)
    for weight in (
        model.decoder.parameters()
    ):  # as initialized the two logits hardly differ, and a mask would be flat
        weight.data += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


def swin2sr(folder: Path, seed: int = 0, upscale: int = 4) -> str:
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution
    from transformers.models.swin2sr.image_processing_pil_swin2sr import Swin2SRImageProcessorPil

    torch.manual_seed(seed)
    config = Swin2SRConfig(
        image_size=16, embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=4,
        upscale=upscale, upsampler="pixelshuffledirect",
    )  # fmt: skip
    model = Swin2SRForImageSuperResolution(config)
    for weight in model.upsample.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    Swin2SRImageProcessorPil().save_pretrained(folder)
    return str(folder)


def depth(folder: Path, seed: int = 0, kind: str = "relative") -> str:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    torch.manual_seed(seed)
    backbone = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 16, 16, 32],
        fusion_hidden_size=16,
        head_hidden_size=16,
        depth_estimation_type=kind,
        max_depth=20,
    )
    model = DepthAnythingForDepthEstimation(config)
    for weight in model.head.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder)
    size = {"height": 56, "width": 56}
    DPTImageProcessorPil(size=size, keep_aspect_ratio=True, ensure_multiple_of=14).save_pretrained(
        folder
    )
    return str(folder)


def pose(folder: Path, seed: int = 0, experts: int = 1) -> str:
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation
    from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

    torch.manual_seed(seed)
    backbone = VitPoseBackboneConfig(
        image_size=[64, 48],
        patch_size=[16, 16],
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_experts=experts,
        part_features=8,
        out_indices=[2],
    )
    labels = {number: f"joint {number}" for number in range(17)}
    model = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, id2label=labels))
    for weight in model.head.parameters():
        weight.data += 0.03 * torch.randn_like(weight)
    model.save_pretrained(folder)
    VitPoseImageProcessorPil(size={"height": 64, "width": 48}).save_pretrained(folder)
    return str(folder)


def classifier(folder: Path, seed: int = 0, **settings: object) -> str:
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(seed)
    labels = {0: "clean", 1: "watermark", 2: "logo"}
    model = ViTForImageClassification(
        ViTConfig(**SHAPE, image_size=32, patch_size=8, id2label=labels, **settings)
    )
    model.classifier.weight.data.normal_(std=0.2)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)
