"""A tagger folder with tiny random weights, built offline with the onnx library:
average brightness, one layer, a sigmoid."""

from __future__ import annotations

from pathlib import Path

SIDE = 32
TAGS = (
    ("general", 9), ("sensitive", 9), ("questionable", 9), ("explicit", 9), ("red_star", 0),
    ("blue_circle", 0), ("^_^", 0), ("long_hair", 0), ("hatsune_miku", 4), ("vocaloid", 3),
    ("some_artist", 1), ("highres", 5),
)  # fmt: skip


def write(folder: str, seed: int) -> None:
    """Write `model.onnx` and `selected_tags.csv`."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    lines = [f"{number},{name},{category},1" for number, (name, category) in enumerate(TAGS)]
    (root / "selected_tags.csv").write_text(
        "\n".join(["tag_id,name,category,count", *lines]) + "\n", encoding="utf-8"
    )
    weights = np.random.default_rng(seed).normal(0, 0.03, (3, len(TAGS))).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["color"], keepdims=0),
        helper.make_node("MatMul", ["color", "weights"], ["raw"]),
        helper.make_node("Sigmoid", ["raw"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", len(TAGS)])],
        [
            numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "axes"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(root / "model.onnx"))
