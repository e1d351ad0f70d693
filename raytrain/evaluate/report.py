"""The report: one HTML file with everything in it, written from whatever a run folder holds.

Evaluation, sweep and quickstart all call `write_report`; what a run does not have is left out. The
file asks nothing of the network: images are data URIs, curves are inline SVG, and its content
security policy forbids the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from raytrain import plugins, provenance, storage
from raytrain.config import Config
from raytrain.config.file import to_toml
from raytrain.data.store import schema
from raytrain.evaluate import charts, run_folder, scorers, sweep_charts
from raytrain.evaluate.run_folder import RunFolder
from raytrain.evaluate.statistics import Difference
from raytrain.evaluate.verdict import Verdict, headline, overfit, series

CURVES = (
    (
        "loss",
        "Training loss",
        True,
        "",
        "Noisy by nature: every step draws other timesteps. The bold line is its moving average.",
    ),
    (
        "held_out_loss",
        "Held-out loss",
        False,
        "min",
        "Images never trained on, fixed noise: when it turns up, stop.",
    ),
    ("learning_rate", "Learning rate", False, "", ""),
)
"""Metric, title, noisy, which end is best, what to look for."""
MAX_TRIALS = 25


@dataclass
class Curve:
    """One chart of the training section."""

    title: str
    reading: str
    """Its best or last value, in words."""
    note: str
    chart: Markup


def write_report(config: Config, uri: str | None = None) -> str:
    """Write `<output>/report.html` (or `uri`) from the run folder of `config` and return where it
    is."""
    target = uri or storage.join(config.output, "report.html")
    storage.write_bytes(target, render(config, run_folder.read(config)).encode())
    return target


def render(config: Config, run: RunFolder) -> str:
    """Return the report as HTML text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raytrain.evaluate", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(number=charts.number, interval=charts.interval, setting=setting)
    differences = run_folder.differences(run.evaluation)
    judged = overfit(run.metrics, differences)
    log_keys = [key for key, dimension in config.tune.space.items() if dimension.log]
    return environment.get_template("report.html").render(
        name=storage.base_name(config.output),
        subject=f"{config.model.family} · {config.method.name.replace('_', ' ')}",
        claim=_claim(run, differences),
        judged=judged,
        pill=_pill(differences, judged, run),
        facts=_facts(config, run, judged),
        scores=_score_rows(run.evaluation, differences),
        confidence=f"{config.evaluate.confidence:.0%}",
        checkpoint=run.evaluation.get("checkpoint"),
        pairs=run.pairs,
        curves=_curves(run.metrics),
        grids=run.grids,
        dataset=_dataset(run),
        trials=run.trials[:MAX_TRIALS],
        hidden_trials=max(0, len(run.trials) - MAX_TRIALS),
        settings=[axis.key for axis in sweep_charts.searched(run.trials)] or _keys(run.trials),
        trial_scores=list(dict.fromkeys(k for t in run.trials for k in t.get("scores") or {})),
        parallel=sweep_charts.parallel_chart(run.trials, log_keys),
        scatters=sweep_charts.scatter_charts(run.trials, log_keys),
        progress=sweep_charts.progress_chart(run.trials),
        changed=changed_settings(config),
        toml=to_toml(config),
        versions=run.environment.get("versions") or provenance.versions(),
        commit=run.environment.get("commit") or provenance.commit(),
    )


def changed_settings(config: Config) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (value, default) for every setting that is not its default."""
    plain = _flatten(config.defaults().values())
    return {
        key: (value, plain.get(key))
        for key, value in _flatten(config.values()).items()
        if plain.get(key, None) != value
    }


def setting(value: Any) -> str:
    """Write a setting's value for people, unset parts left out."""
    if isinstance(value, Mapping):
        return (
            ", ".join(f"{key}: {setting(each)}" for key, each in value.items() if each is not None)
            or charts.NOTHING
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(setting, value))}]"
    if value is None or value == "":
        return charts.NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and not (
            prefix == "tune." and key in ("objective", "space")
        ):
            result |= _flatten(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def _claim(run: RunFolder, differences: Mapping[str, Difference]) -> str:
    if differences:
        return headline(differences)
    best = next((trial for trial in run.trials if trial["state"] == "completed"), None)
    if best:
        return (
            f"Trial {best['number']} is the best of {len(run.trials)}, with a score of "
            f"{charts.number(best['score'])}."
        )
    if run.trials:
        return f"None of {len(run.trials)} trials has completed yet."
    if series(run.metrics, "loss"):
        return "The model is trained; it has not been compared with the base model yet."
    return (
        "The dataset is prepared; nothing has been trained on it yet."
        if run.manifest
        else "Nothing has run here yet."
    )


def _pill(
    differences: Mapping[str, Difference], judged: Verdict, run: RunFolder
) -> tuple[str, str]:
    outcomes = {difference.outcome for difference in differences.values()}
    if judged.state == "overfit":
        return "bad", "Overfitting"
    if judged.state == "worse":
        return "bad", "Worse than its start"
    if {"better", "worse"} <= outcomes:
        return "warn", "Mixed result"
    if "better" in outcomes:
        return "good", "Better than base"
    if "worse" in outcomes:
        return "bad", "Worse than base"
    return (
        ("quiet", "Undecided")
        if outcomes
        else ("quiet", "Sweep" if run.trials else "Not evaluated")
    )


def _facts(config: Config, run: RunFolder, judged: Verdict) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    steps = max((step for step, _ in series(run.metrics, "loss")), default=0)
    if steps:
        facts.append(("steps", f"{steps:,}"))
    if run.manifest:
        facts.append(
            ("training images", f"{sum(b.train for b in run.manifest.buckets.values()):,}")
        )
        facts.append(("held out", f"{sum(b.held_out for b in run.manifest.buckets.values()):,}"))
    if judged.best_step is not None and len(series(run.metrics, "held_out_loss")) > 1:
        facts.append(("best held-out step", f"{judged.best_step:,}"))
    facts += [
        ("learning rate", f"{config.train.learning_rate:g}"),
        ("images a step", f"{config.train.global_batch:,}"),
    ]
    if run.trials:
        facts.append(("trials", f"{len(run.trials):,}"))
    return facts


def _score_rows(
    evaluation: Mapping[str, Any], differences: Mapping[str, Difference]
) -> list[dict[str, Any]]:
    rows = []
    for name, difference in differences.items():
        base, tuned = evaluation["base"][name], evaluation["tuned"][name]
        ends = [(side["mean"], side["low"], side["high"]) for side in (base, tuned)]
        rows.append(
            {
                "label": difference.label,
                "better": difference.better,
                "base": base,
                "tuned": tuned,
                "difference": asdict(difference),
                "signed": ("+" if difference.mean > 0 else "") + charts.number(difference.mean),
                "chart": charts.interval_chart(ends[0], ends[1], difference.label),
            }
        )
    return rows


def _curves(metrics: Sequence[Mapping[str, Any]]) -> list[Curve]:
    wanted = list(CURVES)
    for name in plugins.names("evaluate.scorers"):
        if name != "held_out_loss":
            scorer = scorers.load(name)
            wanted.append(
                (name, scorer.LABEL, False, "max" if scorer.BETTER == "higher" else "min", "")
            )
    curves = []
    for key, title, noisy, mark, note in wanted:
        points = series(metrics, key)
        if len(points) > 1:
            best = charts.best_point(points, mark) if mark else points[-1]
            text = (
                f"best {charts.number(best[1])} at step {best[0]:,}"
                if mark
                else f"{charts.number(best[1])} at the end"
            )
            curves.append(Curve(title, text, note, charts.line_chart(points, title, noisy, mark)))
    return curves


def _dataset(run: RunFolder) -> dict[str, Any] | None:
    if run.manifest is None:
        return None
    buckets = []
    most = max((b.train + b.held_out for b in run.manifest.buckets.values()), default=1) or 1
    for name, count in sorted(
        run.manifest.buckets.items(), key=lambda item: -(item[1].train + item[1].held_out)
    ):
        width, height = schema.bucket_size(name)
        buckets.append(
            {
                "name": f"{width} \N{MULTIPLICATION SIGN} {height}",
                "glyph": charts.aspect_glyph(width, height),
                "train": count.train,
                "held_out": count.held_out,
                "train_share": 100 * count.train / most,
                "held_out_share": 100 * count.held_out / most,
            }
        )
    return {
        "buckets": buckets,
        "rejected": run.manifest.rejected,
        "reasons": run.rejected[:12],
        "fingerprint": run.manifest.fingerprint,
        "shards": sum(map(len, run.manifest.shards.values())),
        "bytes": run.manifest.bytes / 2**20,
    }


def _keys(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for trial in trials for key in trial.get("parameters") or {}))
