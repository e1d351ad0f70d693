"""Run one Ray Data stage over Arrow blocks, quietly: each block is one call; results arrive as they are finished."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from raytrain.config import EncodeConfig
from raytrain.errors import UserError


def map_tasks(blocks: Sequence[pa.Table], function: Any, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Call `function(block, **settings)` for every block in Ray tasks; yield the rows of what they return."""
    yield from _rows(blocks, function, fn_kwargs=settings)


def map_actors(
    blocks: Sequence[pa.Table], actor: type, settings: dict[str, Any], encode: EncodeConfig
) -> Iterator[dict[str, Any]]:
    """Call `actor(**settings)(block)` for every block on a pool of actors; yield the rows they return."""
    if not blocks:
        return
    yield from _rows(
        blocks,
        actor,
        fn_constructor_kwargs=settings,
        compute=ActorPoolStrategy(size=min(encode.workers, len(blocks))),
        num_cpus=encode.cpus_per_worker,
        num_gpus=encode.gpus_per_worker,
    )


def _rows(blocks: Sequence[pa.Table], function: Any, **options: Any) -> Iterator[dict[str, Any]]:
    for name in ("progress", "execution.streaming_executor"):
        logging.getLogger(f"ray.data._internal.{name}").setLevel(logging.ERROR)  # our own bars say the same
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        data = ray.data.from_arrow(list(blocks)).map_batches(
            function, batch_size=None, batch_format="pyarrow", **options
        )
        for batch in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch.to_pylist()


def check_room(encode: EncodeConfig) -> None:
    """Raise UserError when no node has room for one encoding worker; call it where no autoscaler can add a node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {"CPU": encode.cpus_per_worker, "GPU": encode.gpus_per_worker}
    if any(all(node.get(kind, 0) >= amount for kind, amount in needs.items()) for node in nodes):
        return
    most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in needs}
    raise UserError(
        f"An encoding worker asks for {encode.cpus_per_worker:g} CPUs and {encode.gpus_per_worker:g} GPUs "
        f"(data.encode.cpus_per_worker, gpus_per_worker), but the largest node has {most['CPU']:g} CPUs and "
        f"{most['GPU']:g} GPUs: it would wait for ever. Ask for less, or join a larger cluster."
    )
