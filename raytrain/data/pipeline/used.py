"""What a preparation really uses where its config leaves it open."""

from __future__ import annotations

from raytrain import families, storage
from raytrain.config import Config
from raytrain.data import sources
from raytrain.data.pipeline.listing import near
from raytrain.data.store.schema import Manifest
from raytrain.effective import Settings


def used(config: Config, manifest: Manifest, on_ray: bool) -> Settings:
    """Return the settings of a preparation that made a snapshot, and why they are so."""
    data, encode = config.data, config.data.encode
    found: dict[str, tuple[object, str]] = {}
    here = near(data, storage.join(config.dataset, "downloads"))
    for number, (subset, there) in enumerate(zip(data.all_subsets(), here, strict=True)):
        name = f"format {number + 1}" if data.subsets else "format"
        auto = subset.format == "auto"
        found[name] = (
            sources.recognize(there.source) if auto else subset.format,
            f"{subset.source}: {'recognized' if auto else 'as the config says'}",
        )
    rule, captions = data.buckets, data.captions
    sides = ", ".join(map(str, rule.resolutions or (rule.resolution,)))
    resolutions = "data.buckets.sizes" if rule.sizes else sides
    family = families.load(config.model.family)
    whom = "all images" if captions.replace else "images that bring none"
    most = encode.max_workers or encode.workers
    return found | {
        "buckets": (
            list(manifest.buckets),
            f'rule "{rule.rule}" at {resolutions}: those that images came into',
        ),
        "columns": (list(manifest.columns), f'method.name = "{config.method.name}" reads them'),
        "captions": (
            captions.captioner,
            f"for {whom}" if captions.captioner != "none" else "images that bring none have none",
        ),
        "caption tokens": (
            families.caption_tokens(family, config.model),
            f"model.max_tokens = {config.model.max_tokens}",
        ),
        "encoders": (
            encode.workers if most == encode.workers else f"{encode.workers} to {most}",
            "actors on Ray" if on_ray else "processes of this machine",
        ),
        "device": (
            "cuda" if encode.gpus_per_worker else "cpu",
            f"data.encode.gpus_per_worker = {encode.gpus_per_worker:g}",
        ),
        "precision": (encode.precision, "as data.encode.precision says"),
    }
