"""Keys that are set and have no effect, since another key leaves them unread: each is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raytrain import plugins
from raytrain.config import Config
from raytrain.config.data import GROWING, BucketConfig, DataConfig

Group = tuple[str, tuple[str, ...], str]
"""A table, keys of it, and why they are not read."""
ASKED = ("path", "revision", "prompt", "max_new_tokens", "num_beams", "options")
SCORED = ("clip", "aesthetic", "legacy", "max_references")
"""Keys of [evaluate] that only scorers read."""


def unread(config: Config) -> tuple[str, ...]:
    """Return a sentence for each key that has another value than its default and no effect."""
    now, default = config.values(), config.defaults().values()
    found = []
    for table, keys, why in _groups(config):
        mine, usual = _table(now, table), _table(default, table) or {}
        found += [
            f"{table}.{key} = {mine[key]!r} has no effect: {why}"
            for key in keys
            if mine[key] != usual.get(key)
        ]
    found += [
        f"the path of the score {score.name!r} has no effect: {score.kind!r} reads none"
        for score in config.data.quality.scores
        if score.path and "path" in _unread_by("scores", score.kind)
    ]
    return tuple(found)


def _groups(config: Config) -> Iterator[Group]:
    if config.data.snapshot == GROWING:
        why = f'snapshot = "{GROWING}" trains on unfinished ones in any case'
        yield "data", ("partial",), why
    yield from _captions(config.data)
    yield from _images(config.data)
    yield from _buckets(config.data.buckets)
    yield from _train(config)
    yield from _after(config)


def _captions(data: DataConfig) -> Iterator[Group]:
    captions, table = data.captions, "data.captions"
    if captions.captioner == "none":
        yield table, (*ASKED, "replace"), 'captioner = "none" captions nothing'
    else:
        keys = _unread_by("captioners", captions.captioner)
        yield table, keys, f"the captioner {captions.captioner!r} does not read it"
    if other := captions.fallback:
        given = other.model_fields_set
        keys = ASKED if other.captioner == "none" else _unread_by("captioners", other.captioner)
        keys = tuple(key for key in keys if key in given)
        yield f"{table}.fallback", keys, f"the captioner {other.captioner!r} does not read it"
    if captions.variants == 1:
        keys = ("tag_dropout", "shuffle_tags")
        yield table, keys, "variants = 1 shuffles and drops no tags"
        if not captions.warmup_stages:
            yield table, ("keep_tags", "keep_separator"), "variants = 1 changes no tags"
    if not captions.warmup_stages:
        yield table, ("warmup_min",), "warmup_stages = 0 lets no caption grow"
    if not captions.trigger and not any(s.regularization or s.trigger for s in data.subsets):
        yield table, ("placeholder",), "there is no trigger to put in its place"
    if not captions.quality_tags:
        yield table, ("quality_score",), "there are no quality_tags"
    if not captions.rewriter:
        yield table, ("rewriter_options",), "there is no rewriter"


def _images(data: DataConfig) -> Iterator[Group]:
    for what, kind, keys in (
        ("masks", data.masks.kind, ("path", "options", "prompt", "train")),
        ("controls", data.controls.kind, ("path", "options")),
    ):
        if kind == "none":
            yield f"data.{what}", keys, f'kind = "none" makes no {what}'
        else:
            ignored = _unread_by(what, kind)
            yield f"data.{what}", ignored, f"the kind {kind!r} does not read it"
    if not data.masks.train and data.buckets.crop != "salience":
        yield "data.masks", ("kind",), 'train = false uses masks for crop = "salience" alone'
    augment, table = data.augment, "data.augment"
    if not augment.colors:
        ranges = ("hue", "brightness", "contrast", "saturation", "blur")
        yield table, ranges, "colors = 0 makes no version with other colors"
    if not augment.zooms:
        yield table, ("zoom",), "zooms = 0 makes no version of a part"
    if not augment.outpaints:
        yield table, ("outpaint",), "outpaints = 0 makes no smaller version"


def _buckets(buckets: BucketConfig) -> Iterator[Group]:
    table, limits = "data.buckets", ("max_ratio", "min_side", "max_side")
    if buckets.sizes:
        yield table, ("resolution", *limits), "sizes says what buckets there are"
        return
    keys = _unread_by("buckets", buckets.rule)
    yield table, keys, f"the rule {buckets.rule!r} does not read it"
    if buckets.resolutions:
        yield table, ("resolution",), "resolutions is read in its place"


def _train(config: Config) -> Iterator[Group]:
    train, table = config.train, "train"
    if train.param_dtype == "fp32":
        yield table, ("rounding",), 'param_dtype = "fp32" rounds no weight'
    if not train.async_validation:
        keys = ("async_validation_cpus", "async_validation_gpus")
        yield table, keys, "async_validation = false starts no actor"
    if not train.gpus_per_worker:
        yield table, ("deterministic",), "a CPU computes the same bits in any case"
    if train.engine.startswith("zero"):
        yield table, ("memory_format",), f"engine = {train.engine!r} keeps weights contiguous"
    if train.min_workers == train.workers:
        yield table, ("min_workers",), "it is as many as workers"
    slots = train.global_batch // train.workers
    if train.micro_batch and train.micro_batch >= slots:
        yield table, ("micro_batch",), f"a worker's part of a step is {slots} images"
    if not config.data.held_out:
        yield table, ("held_out_every",), "data.held_out = 0 holds no images out"


def _after(config: Config) -> Iterator[Group]:
    sample, tune = config.sample, config.tune
    if sample.guidance_scale <= 1:
        yield "sample", ("negative_prompt",), f"guidance_scale = {sample.guidance_scale:g} is none"
    if not (config.train.gpus_per_worker or config.train.async_validation_gpus):
        yield "sample", ("offload",), "images are drawn on the CPU (train.gpus_per_worker = 0)"
    yield "evaluate", _unscored(config), "no scorer of evaluate.scorers reads it"
    if tune.stopper == "none":
        yield "tune", ("grace", "reduction"), 'stopper = "none" stops no trial'
    elif tune.grace >= tune.evaluations:
        yield "tune", ("stopper", "reduction"), f"grace = {tune.grace} is a whole trial"
    elif tune.stopper == "median":
        yield "tune", ("reduction",), 'stopper = "median" has no rungs'
    if config.train.ema is None:
        yield "export", ("ema",), "train.ema keeps no average"
    if config.log.wandb == "off":
        yield "log", ("project",), 'wandb = "off"'
    if not (config.cluster.address != "local" or _needs_ray(config)):
        yield "log", ("metrics",), "this uses no Ray, unless it is submitted to one"
    if config.cluster.address != "local":
        yield "cluster", ("num_cpus", "object_store_mb"), "a Ray that is joined has its own"


def _needs_ray(config: Config) -> bool:
    """Return whether a stage starts a private Ray."""
    train, encode = config.train, config.data.encode
    workers = max(train.workers, encode.workers, encode.max_workers or 0, config.sample.workers)
    return workers > 1 or train.async_validation or bool(config.tune.space)


def _unscored(config: Config) -> tuple[str, ...]:
    """Return the keys of [evaluate] that no scorer reads; none where one does not say what."""
    scorers = [plugins.load("evaluate.scorers", name) for name in config.evaluate.scorers]
    read = {key for scorer in scorers for key in getattr(scorer, "READS", SCORED)}
    return tuple(key for key in SCORED if key not in read)


def _unread_by(kind: str, name: str) -> tuple[str, ...]:
    """Return the keys of its table that a plug-in names as those it does not read (`IGNORES`)."""
    found: tuple[str, ...] = getattr(plugins.load(f"data.{kind}", name), "IGNORES", ())
    return found


def _table(tree: dict[str, Any], path: str) -> Any:
    for name in path.split("."):
        tree = tree[name]
    return tree
