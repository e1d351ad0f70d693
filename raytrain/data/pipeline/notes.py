"""What a preparation says beside its counts."""

from __future__ import annotations

from collections.abc import Mapping

from raytrain import plugins
from raytrain.config import Config, ModelConfig
from raytrain.config.data import CaptionConfig, DataConfig
from raytrain.data import sources
from raytrain.data.files.location import absolute, is_web, look
from raytrain.data.pipeline.plan_rows import CROPPED, ENLARGED
from raytrain.data.store.schema import Manifest


def notes(
    config: Config,
    earlier: Manifest | None,
    manifest: Manifest,
    cut: int,
    planned: Mapping[str, int],
) -> tuple[str, ...]:
    """Return the sentences for a dataset that follows an earlier one, with `cut` captions longer
    than what is encoded of them; `planned` counts its `images`, and those that are `enlarged` or
    `cropped` much, `faceless`, `unsaid` (without the score or rating that is read) or `unheard`
    (with one that is not)."""
    return (
        *_remade(earlier, manifest),
        *_cut(cut, config.model),
        *_few(config.data, manifest),
        *_unwritten(config.data.captions, planned["images"]),
        *_faceless(planned["faceless"]),
        *_strained(planned),
        *_site(planned["unsaid"], planned["unheard"]),
        *unread(config),
    )


def unread(config: Config) -> tuple[str, ...]:
    """Return a sentence for each setting of [data] that nothing reads."""
    rule = config.objective
    idle = config.data.captions.dropped != "empty" and not (
        rule.caption_dropout or rule.caption_dropout_epochs
    )
    said = (
        'data.captions.dropped = "trigger" has no effect: no caption is dropped; set '
        "objective.caption_dropout"
    )
    return (*config.data.unread(), *((said,) if idle else ()))


def of_sources(config: Config) -> tuple[str, ...]:
    """Return what sources say that this config answers otherwise, before anything is read.

    A source plug-in may offer `notes(subset, config)`, an iterator of sentences.
    """
    found: list[str] = []
    for subset in config.data.all_subsets():
        if not subset.source or not _there(subset.source):
            continue  # listing the source says why
        name = subset.format if subset.format != "auto" else sources.recognize(subset.source)
        told = getattr(plugins.load("data.sources", name), "notes", None)
        found += told(subset, config) if told else ()
    return tuple(dict.fromkeys(found))


def _there(source: str) -> bool:
    try:
        return not is_web(source) and look(absolute(source)).kind != "absent"
    except OSError:
        return False


def _cut(count: int, model: ModelConfig) -> tuple[str, ...]:
    """Say that captions were longer than what is encoded of them."""
    if not count:
        return ()
    from raytrain import families

    family = families.load(model.family)
    most = families.caption_tokens(family, model)
    longer = [asked for asked, tokens in family.CAPTION_TOKENS.items() if tokens > most]
    remedy = f"set model.max_tokens = {longer[0]}" if longer else "shorten them"
    said = "caption encoded now is" if count == 1 else "captions encoded now are"
    return (f"{count} {said} longer than {most} tokens, whose end was cut off; {remedy}",)


def _site(unsaid: int, unheard: int) -> tuple[str, ...]:
    """Say that images have no word for a score or rating that none of their records has, or none
    for what a record says."""
    found = []
    if unsaid:
        found.append(
            f"{unsaid} images have no word for their score or rating: [data.captions] reads the "
            "columns `score` and `rating`, which their records do not have"
        )
    if unheard:
        found.append(
            f"the records of {unheard} images have a score, a rating or meta tags that become no "
            'word; set data.captions.quality_score = "site" with quality_tags, rating_words or '
            "meta_tags"
        )
    return tuple(found)


def _few(data: DataConfig, manifest: Manifest) -> tuple[str, ...]:
    """Say that nothing was held out although a share was wanted."""
    if not data.held_out or any(count.held_out for count in manifest.buckets.values()):
        return ()
    alone = sum(count.train for count in manifest.buckets.values()) == 1
    why = "one image alone is trained on" if alone else "regularization images never are"
    return (
        f"nothing is held out (data.held_out = {data.held_out:g}): {why}, "
        "so no held-out loss is measured; add images",
    )


def _unwritten(captions: CaptionConfig, images: int) -> tuple[str, ...]:
    """Say that the rewriter was not asked, since there are too few images or too many."""
    if not captions.rewriter or captions.rewrites(images):
        return ()
    least, most = captions.rewriter_images or (0, 0)
    return (
        f"the rewriter {captions.rewriter!r} was not asked: {images} images are not {least} to "
        f"{most} (data.captions.rewriter_images), so captions are as they were found or written",
    )


def _faceless(count: int) -> tuple[str, ...]:
    """Say that images have no version around a face."""
    if not count:
        return ()
    return (f"no face was found in {count} images: they have no versions of data.augment.faces",)


def _strained(strained: Mapping[str, int]) -> tuple[str, ...]:
    """Say how many images no bucket suits well."""
    remedies = {
        "enlarged": f"more than {ENLARGED} times to fill a bucket; data.quality.min_side leaves "
        "out small ones",
        "cropped": f"by more than {CROPPED:.0%} to fill a bucket; data.quality.max_ratio leaves "
        "out long ones",
    }
    return tuple(
        f"{count} {'image is' if count == 1 else 'images are'} {how} {remedy}"
        for how, remedy in remedies.items()
        if (count := strained[how])
    )


def _remade(earlier: Manifest | None, manifest: Manifest) -> tuple[str, ...]:
    """Say why what an earlier dataset holds could not be reused."""
    if earlier is None:
        return ()
    found = []
    if earlier.family != manifest.family:
        found.append(
            f"the earlier dataset was made for family {earlier.family!r}, this one is for "
            f"{manifest.family!r}"
        )
    for name, column in manifest.columns.items():
        before = earlier.columns[name].version if name in earlier.columns else column.version
        changed = [fact for fact, value in column.version.items() if before.get(fact) != value]
        if changed:
            found.append(
                f"the earlier dataset was made with another {', another '.join(changed)}: all of "
                f"its {name} were encoded again"
            )
        tools = earlier.columns[name].tools if name in earlier.columns else column.tools
        if other := [
            tool for tool in tools if column.tools.get(tool, "") not in ("", tools[tool])
        ]:
            found.append(
                f"the earlier dataset was made with another {', another '.join(other)}: those of "
                f"its {name} that it makes were encoded again"
            )
    return tuple(found)
