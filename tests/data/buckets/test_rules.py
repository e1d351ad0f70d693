"""Every bucket rule against the numbers its source gives or that follow from its formula by hand,
and its promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrain import plugins
from raytrain.config.data import BucketConfig
from raytrain.data.buckets import Fit, all_sizes, fits, needs_mean
from raytrain.errors import UserError

ELEVEN = (
    (512, 1024), (576, 1024), (576, 960), (640, 896), (704, 832), (768, 768),
    (832, 704), (896, 640), (960, 576), (1024, 576), (1024, 512),
)  # fmt: skip
RULES = plugins.names("data.buckets")


def bucket_of(
    width: int, height: int, config: BucketConfig, mean: float | None = None
) -> tuple[int, int]:
    """The one bucket of an image."""
    ((bucket, _),) = fits(width, height, config, mean)
    return bucket


# fixed -------------------------------------------------------------------------------------------


def test_fixed_at_1024_is_the_list() -> None:
    tall = {(896, 1152), (832, 1216), (768, 1280), (768, 1344)}
    expected = tall | {(h, w) for w, h in tall} | {(1024, 1024)}
    assert set(all_sizes(BucketConfig(rule="fixed", resolution=1024))) == expected


def test_fixed_is_scaled_down_to_the_step() -> None:
    # By hand, halves: 576x448, 608x416, 672x384, 640x384; a step of 64 rounds 608 to 576, 416 to
    # 384 and 672 to 640.
    fine = {(448, 576), (416, 608), (384, 672), (384, 640)}
    config = BucketConfig(rule="fixed", resolution=512, step=32)
    assert set(all_sizes(config)) == fine | {(h, w) for w, h in fine} | {(512, 512)}
    coarse = {(448, 576), (384, 576), (384, 640)}
    config = BucketConfig(rule="fixed", resolution=512, step=64)
    assert set(all_sizes(config)) == coarse | {(h, w) for w, h in coarse} | {(512, 512)}


def test_fixed_chooses_by_the_difference_of_ratios() -> None:
    # 768 / 1280 = 0.6, 832 / 1216 = 0.68421: their middle is 0.64211, by logarithm it would be
    # 0.64072.
    config = BucketConfig(rule="fixed", resolution=1024)
    assert bucket_of(6414, 10000, config) == (768, 1280)
    assert bucket_of(6422, 10000, config) == (832, 1216)


def test_listed_sizes_keep_the_order_that_decides_ties() -> None:
    # 1.25 is as far from 1 as from 1.5.
    assert bucket_of(1250, 1000, BucketConfig(rule="fixed", sizes=((384, 256), (512, 512)))) == (
        384,
        256,
    )
    assert bucket_of(1250, 1000, BucketConfig(rule="fixed", sizes=((512, 512), (384, 256)))) == (
        512,
        512,
    )


# kohya -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "number"),
    [
        (BucketConfig(rule="kohya", resolution=512), 17),
        (BucketConfig(rule="kohya", resolution=1024), 25),
        (BucketConfig(rule="kohya", resolution=1024, min_side=256, max_side=4096, step=32), 193),
    ],
)
def test_kohya_gives_the_known_numbers_of_buckets(config: BucketConfig, number: int) -> None:
    assert len(all_sizes(config)) == number


def test_kohya_at_512_by_hand() -> None:
    # 512^2 / width: 256 1024, 320 819, 384 682, 448 585, 576 455, 640 409, 704 372, 768 341, 832
    # 315, 896 292, 960 273, 1024 256; the heights are rounded down to 64, and every pair also
    # stands the other way.
    wide = {
        (576, 448),
        (640, 384),
        (704, 320),
        (768, 320),
        (832, 256),
        (896, 256),
        (960, 256),
        (1024, 256),
    }
    assert set(all_sizes(BucketConfig(rule="kohya", resolution=512))) == wide | {
        (h, w) for w, h in wide
    } | {(512, 512)}


def test_kohya_with_enlarging() -> None:
    config = BucketConfig(rule="kohya", resolution=512)
    # 3:2 -> 640x384 (1.667) or 576x448 (1.286): 1.5 is closer to 1.667. By height: 384 / 1000 *
    # 1500 = 576 < 640, so by width: 640 / 1500 * 1000 = 426.67, rounded to 427.
    assert fits(1500, 1000, config) == (Fit((640, 384), (640, 427)),)
    # 300x200 is enlarged; the same shape.
    assert fits(300, 200, config) == (Fit((640, 384), (640, 427)),)
    # An image of a bucket's own size stays as it is, although 1024x256 = 4 is no closer than
    # itself.
    assert fits(320, 704, config) == (Fit((320, 704), (320, 704)),)


@pytest.mark.parametrize(
    ("size", "fit"),
    [
        # At most the area: its own size, cut to the step.
        ((500, 300), Fit((448, 256), (500, 300))),
        ((512, 512), Fit((512, 512), (512, 512))),
        # 1500x1000: sqrt(512^2 * 1.5) = 627.07 x 418.05. By width 576: 576/1.5 = 384, ratio 1.5
        # exactly; by height 384: the same ratio. No smaller error by width, so by height: 384 *
        # 1.5 = 576.
        ((1500, 1000), Fit((576, 384), (576, 384))),
        # 1600x900 (1.7778): 682.67 x 384. By width: 640, 640 / 1.7778 = 360 -> 320, ratio 2, error
        # 0.222. By height: 384, 682.67 -> 683 -> 640, ratio 1.667, error 0.111. So by height: 384
        # * 1.7778 = 682.67 -> 683.
        ((1600, 900), Fit((640, 384), (683, 384))),
        # 1000x1100 (0.90909): 488.17 x 536.99. By width: 448, 492.8 -> 448, ratio 1, error 0.0909.
        # By height: 537 -> 512, 465.45 -> 448, ratio 0.875, error 0.0341. So by height: 465.45 ->
        # 465.
        ((1000, 1100), Fit((448, 512), (465, 512))),
        # 2000x1000: 724.08 x 362.04. By width: 704, 352 -> 320, ratio 2.2, error 0.2. By height:
        # 320, 640, ratio 2, error 0.
        ((2000, 1000), Fit((640, 320), (640, 320))),
        # 950x1000 (0.95): 499.04 x 525.31. By width: 448, 471.6 -> 448, 1, error 0.05. By height:
        # 512, 486.4 -> 448, 0.875, error 0.075. So by width: 448 / 0.95 = 471.58 -> 472.
        ((950, 1000), Fit((448, 448), (448, 472))),
    ],
)
def test_kohya_without_enlarging(size: tuple[int, int], fit: Fit) -> None:
    assert fits(*size, BucketConfig(rule="kohya", resolution=512, upscale=False)) == (fit,)


def test_kohya_without_enlarging_rejects_what_is_thinner_than_a_step() -> None:
    config = BucketConfig(rule="kohya", resolution=512, upscale=False)
    assert fits(500, 63, config) == ()
    assert fits(100_000, 10, config) == ()
    assert fits(100_000, 1_000, config) == ()


def test_kohya_side_limits_hold_without_enlarging_too() -> None:
    config = BucketConfig(rule="kohya", resolution=512, upscale=False, min_side=256, max_side=576)
    assert fits(500, 255, config) == ()
    assert fits(700, 300, config) == (Fit((576, 256), (700, 300)),)


def test_a_resolution_beyond_kohyas_sides_is_refused() -> None:
    with pytest.raises(UserError, match="got 2048 for 256 to 1024"):
        all_sizes(BucketConfig(rule="kohya", resolution=2048))
    assert (2048, 2048) in all_sizes(BucketConfig(rule="kohya", resolution=2048, max_side=4096))


# novelai -----------------------------------------------------------------------------------------


def test_novelai_at_512_gives_the_known_31_buckets() -> None:
    # By hand, area 768 * 512: 256 1536, 320 1216, 384 1024, 448 832, 512 768, 576 640, and for
    # heights the largest widths.
    tall = {(256, h) for h in (1280, 1344, 1408, 1472, 1536)} | {
        (320, h) for h in (1088, 1152, 1216)
    }
    tall |= {(384, 896), (384, 960), (384, 1024), (448, 832), (512, 704), (512, 768), (576, 640)}
    sizes = set(all_sizes(BucketConfig(rule="novelai")))
    assert len(sizes) == 31
    assert sizes == tall | {(h, w) for w, h in tall} | {(512, 512)}


def test_novelai_chooses_by_logarithm() -> None:
    # 1536 / 256 = 6 and 1472 / 256 = 5.75: the middle by logarithm is 5.8737, by difference 5.875.
    config = BucketConfig(rule="novelai")
    assert bucket_of(58735, 10000, config) == (1472, 256)
    assert bucket_of(58740, 10000, config) == (1536, 256)
    assert bucket_of(10000, 58740, config) == (256, 1536)


def test_novelai_leaves_out_extreme_shapes_of_both_orientations() -> None:
    config = BucketConfig(rule="novelai")
    assert bucket_of(9990, 1000, config) == (1536, 256)
    assert bucket_of(1000, 9990, config) == (256, 1536)
    assert fits(10_000, 1000, config) == fits(1000, 10_000, config) == ()


# mean --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "resolution", "size"),
    [
        (1.0, 512, (512, 512)),
        # sqrt(512^2 * 1.5) = 627.07 = 9.80 steps -> 640; 512^2 / 627.07 = 418.05 = 6.53 steps ->
        # 448.
        (1.5, 512, (640, 448)),
        # 1024 * sqrt(0.75) = 886.81 = 13.86 -> 896; 1024^2 / 886.81 = 1182.41 = 18.48 -> 1152.
        (0.75, 1024, (896, 1152)),
    ],
)
def test_mean_by_hand(ratio: float, resolution: int, size: tuple[int, int]) -> None:
    config = BucketConfig(rule="mean", resolution=resolution)
    assert all_sizes(config, ratio) == (size,)
    assert {bucket_of(w, h, config, ratio) for w, h in ((100, 900), (900, 100), (3000, 2000))} == {
        size
    }
    assert size in all_sizes(config)


def test_mean_needs_the_mean() -> None:
    config = BucketConfig(rule="mean")
    assert needs_mean(config)
    with pytest.raises(ValueError, match="before the mean"):
        fits(10, 10, config)
    assert not needs_mean(BucketConfig(rule="mean", sizes=((512, 512),)))
    assert not any(needs_mean(BucketConfig(rule=rule)) for rule in RULES if rule != "mean")


@given(st.floats(0.01, 100.0), st.sampled_from([512, 768, 1024]), st.sampled_from([8, 32, 64]))
def test_mean_announces_every_size_it_may_give(ratio: float, resolution: int, step: int) -> None:
    config = BucketConfig(rule="mean", resolution=resolution, step=step)
    assert set(all_sizes(config, ratio)) <= set(all_sizes(config))


def test_mean_takes_no_side_limits() -> None:
    with pytest.raises(UserError, match="takes no side limits"):
        all_sizes(BucketConfig(rule="mean", min_side=256))


# sd_trainer --------------------------------------------------------------------------------------


def test_sd_trainer_gives_the_known_numbers_of_buckets() -> None:
    at_768 = BucketConfig(rule="sd_trainer", resolution=768, max_side=1024)
    assert all_sizes(at_768) == ELEVEN
    tall = {(704, 1408), (768, 1344), (768, 1280), (832, 1216), (896, 1152), (960, 1088)}
    assert set(all_sizes(BucketConfig(rule="sd_trainer", resolution=1024))) == tall | {
        (h, w) for w, h in tall
    } | {(1024, 1024)}


def test_sd_trainer_cuts_no_shape_to_the_ratio() -> None:
    # 768^2 / 448 = 1316 -> 1280 is 2.86 times as long: left out; rule `area` cuts it.
    config = BucketConfig(rule="sd_trainer", resolution=768, min_side=448, max_side=896)
    assert min(all_sizes(config)) == (448, 896)
    config = config.model_copy(update={"max_side": 1280})
    assert min(all_sizes(config)) == (576, 960)
    assert min(all_sizes(config.model_copy(update={"rule": "area"}))) == (512, 1024)


def test_sd_trainer_rounds_the_free_side_down() -> None:
    # 1.536 is 0.136 from 896 / 640 and 0.131 from 960 / 576; 651 x 960 / 1000 = 624.96.
    config = BucketConfig(rule="sd_trainer", resolution=768, max_side=1024)
    assert fits(1000, 651, config) == (Fit((960, 576), (960, 624)),)
    assert fits(1000, 651, BucketConfig(resolution=768, nearest="difference")) == (
        Fit((960, 576), (960, 625)),
    )


# nearest -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "mean"])
def test_the_nearest_size_is_that_of_the_measure_asked_for(rule: str) -> None:
    # Between ratios 1 and 2 lies 1.5 by difference, and 1.414 by logarithm.
    sizes = ((512, 512), (1024, 512))
    log = BucketConfig(rule=rule, sizes=sizes, nearest="log")
    difference = BucketConfig(rule=rule, sizes=sizes, nearest="difference")
    found = [bucket_of(1450, 1000, config) for config in (log, difference)]
    assert found == [(1024, 512), (512, 512)]
    assert bucket_of(1450, 1000, BucketConfig(rule=rule, sizes=sizes)) in found


def test_a_measure_without_a_choice_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to choose from"):
        all_sizes(BucketConfig(rule="mean", nearest="log"))
    with pytest.raises(UserError, match="nothing to choose from"):
        all_sizes(BucketConfig(rule="kohya", upscale=False, nearest="log"))


# every rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize("upscale", [True, False])
@pytest.mark.parametrize("rule", RULES)
@given(
    width=st.integers(1, 20_000),
    height=st.integers(1, 20_000),
    step=st.sampled_from([16, 64]),
    many=st.booleans(),
)
def test_every_fit_is_a_promise_kept(
    rule: str, upscale: bool, width: int, height: int, step: int, many: bool
) -> None:
    resolutions = (256, 512, 768) if many else ()
    config = BucketConfig(rule=rule, step=step, upscale=upscale, resolutions=resolutions)
    mean = 1.3 if rule == "mean" else None
    sizes, found = set(all_sizes(config, mean)), fits(width, height, config, mean)
    assert all(side % step == 0 and side > 0 for size in sizes for side in size)
    assert len({fit.bucket for fit in found}) == len(found) <= (3 if many else 1)
    for number, (bucket, resized) in enumerate(found):
        assert bucket in sizes
        assert resized[0] >= bucket[0]
        assert resized[1] >= bucket[1]
        if number or not upscale:
            assert resized[0] <= width
            assert resized[1] <= height
    if upscale and rule != "novelai":
        assert found


@pytest.mark.parametrize("rule", RULES)
def test_listed_sizes_replace_those_of_every_rule(rule: str) -> None:
    config = BucketConfig(rule=rule, sizes=((640, 512), (512, 512)))
    assert all_sizes(config) == ((512, 512), (640, 512))
    assert bucket_of(500, 400, config) == (640, 512)


def test_several_resolutions_as_far_as_the_image_reaches() -> None:
    config = BucketConfig(resolutions=(1024, 512, 768))
    assert [fit.bucket for fit in fits(1024, 1024, config)] == [
        (512, 512),
        (768, 768),
        (1024, 1024),
    ]
    assert [fit.bucket for fit in fits(1023, 1024, config)] == [(512, 512), (768, 768)]
    assert [fit.bucket for fit in fits(100, 100, config)] == [(512, 512)]


def test_without_enlarging_a_small_image_takes_the_largest_bucket_it_covers() -> None:
    config = BucketConfig(sizes=((256, 256), (512, 256), (512, 512)), upscale=False)
    assert fits(511, 511, config) == (Fit((256, 256), (256, 256)),)
    assert fits(600, 400, config) == (Fit((512, 256), (512, 341)),)
    assert fits(255, 4000, config) == ()


def test_contradictions_are_refused() -> None:
    with pytest.raises(UserError, match="sizes or resolutions"):
        all_sizes(BucketConfig(sizes=((512, 512),), resolutions=(512, 768)))
    with pytest.raises(UserError, match="between min_side and max_side"):
        all_sizes(BucketConfig(resolutions=(512, 768), max_side=640))
