"""What goes wrong in a step: memory runs out, a number is none, a worker is stuck,
a step does not do what it must."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raytrain import storage
from raytrain.config import Config
from raytrain.errors import Diverged, UserError
from raytrain.log import read_metrics
from raytrain.model import Model
from raytrain.train import worker
from raytrain.train.engines import engine
from raytrain.train.guards.hang import EXIT_CODE
from raytrain.train.guards.out_of_memory import is_out_of_memory
from raytrain.train.record.notices import FOLDER
from tests.conftest import losses
from tests.train import group


def notices(config: Config) -> str:
    return "\n".join(
        path.read_text() for path in sorted(Path(config.output, FOLDER).glob("*.txt"))
    )


def test_out_of_memory_ends_in_a_smaller_micro_batch(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, small = (run_config(name=name, train={"steps": 3}) for name in ("whole", "small"))
    worker.train(whole)
    real = Model.forward

    def losses_of(self: Model, batch: Any, draws: Any) -> Any:
        if len(batch.ids) > 1:
            torch.empty(2**46)  # the allocator's own error
        return real(self, batch, draws)

    monkeypatch.setattr(Model, "forward", losses_of)
    worker.train(small)
    assert "Memory ran out at step 1 " in notices(small)
    assert "Going on with 2 at a time; a step is still 4 images." in notices(small)
    assert "Going on with 1 at a time; a step is still 4 images." in notices(small)
    assert losses(small) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
            ),
            True,
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
            ),
            True,
        ),
        (RuntimeError("could not create a primitive"), True),  # oneDNN
        (RuntimeError("The size of tensor a (4) must match the size of tensor b (5)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception, memory: bool) -> None:
    assert is_out_of_memory(error) == memory


def test_no_smaller_micro_batch_is_left(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses_of(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Model, "forward", losses_of)
    config = run_config()
    with pytest.raises(
        UserError, match=r"with 1 images at a time \(CUDA out of memory\).*gradient_checkpointing"
    ):
        worker.train(config)
    assert notices(config).count("Memory ran out") == 2  # 4 -> 2 -> 1


def read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the numbers of several steps together, as on a GPU."""
    build = engine.PlainEngine.__init__

    def init(self: engine.PlainEngine, *given: Any) -> None:
        build(self, *given)
        self.waits = False

    monkeypatch.setattr(engine.PlainEngine, "__init__", init)


def test_numbers_that_are_read_later_are_the_same(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"steps": 25, "checkpoint_every": 8, "held_out_every": 0}
    at_once, later = (run_config(name=name, train=train) for name in ("at-once", "later"))
    worker.train(at_once)
    read_later(monkeypatch)
    worker.train(later)
    assert losses(later) == losses(at_once)
    steps = [row["step"] for row in read_metrics(later.output) if "loss" in row]
    assert steps == list(range(1, 26))


@pytest.mark.parametrize("later", [False, True])
def test_a_loss_that_is_no_number_is_written_down(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    real, real_step = Model.forward, engine.PlainEngine.step
    poisoned: list[str] = []

    def losses_of(self: Model, batch: Any, draws: Any) -> Any:
        found = real(self, batch, draws)
        if batch.occurrences.count(0) < len(
            batch.occurrences
        ):  # from the second epoch on one image is bad
            poisoned[:] = poisoned or [batch.ids[1]]
        return found * torch.tensor(
            [float("nan") if name in poisoned else 1.0 for name in batch.ids]
        )

    before: list[dict[str, torch.Tensor]] = []

    def step(self: engine.PlainEngine, *given: Any) -> Any:
        if not poisoned or not before:
            before[:] = [{name: weight.clone() for name, weight in self.local().items()}]
        elif len(before) == 1:  # the step whose loss is none
            before.insert(0, {name: weight.clone() for name, weight in self.local().items()})
            ran.append(self)
        return real_step(self, *given)

    ran: list[engine.PlainEngine] = []
    monkeypatch.setattr(Model, "forward", losses_of)
    monkeypatch.setattr(engine.PlainEngine, "step", step)
    if later:
        read_later(monkeypatch)
    config = run_config(train={"steps": 40, "checkpoint_every": 100, "held_out_every": 0})
    with pytest.raises(Diverged, match="loss became nan at step") as error:
        worker.train(config)
    assert poisoned[0][:12] in str(error.value)
    path = next(Path(config.output, "diverged").glob("*.json"))
    facts = json.loads(path.read_text())
    assert facts["loss"] == "nan"
    bad = [
        name for name, value in zip(facts["ids"], facts["losses"], strict=True) if value == "nan"
    ]
    assert bad == poisoned
    assert losses(config)[-1] > 0
    assert len(losses(config)) == facts["step"] - 1
    tensors = load_file(path.with_suffix(".safetensors"))
    assert len(tensors["column.latents"]) == len(tensors["draw.timestep"]) == len(facts["ids"])
    assert all(torch.equal(weight, before[0][name]) for name, weight in ran[0].local().items())


def test_a_gradient_that_is_no_number_changes_no_weight(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plain", "zero1", "zero2", "zero3"):
        config = run_config(name=name, train={"engine": name})
        with monkeypatch.context() as patch:
            patch.setattr("raytrain.diffusion.loss.mean_squared_error", root_of_nothing)
            with pytest.raises(Diverged, match="gradient's norm became nan at step 1"):
                worker.train(config)


def root_of_nothing(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss of one whose gradient is no number: the square root's at 0 is infinite, times 0."""
    error = (prediction.float() - target.float()).flatten(1).mean(1)
    return 1 + (0 * error).sqrt()


def never_share() -> None:
    """Break the sharing of gradients."""

    def expect(self: Any, added: int) -> None:
        self._added, self.model.require_backward_grad_sync = added, False

    engine.ParallelEngine._expect = expect  # type: ignore[method-assign]


@pytest.mark.slow
def test_gradients_that_are_not_shared_are_noticed(
    run_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = run_config(train={"workers": 2, "engine": "ddp"})
    group.train(
        config,
        2,
        tmp_path,
        before=never_share,
        fails="the weights of workers 1 differ from worker 0's",
    )
    assert not storage.exists(storage.join(config.output, "checkpoints"))


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("frozen", "1 frozen weights changed, such as unet.conv_in.weight"),
        ("nothing", "none of the 64 trainable weights changed"),
    ],
)
def test_a_step_that_is_not_sound(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, broken: str, expected: str
) -> None:
    real = engine.PlainEngine.step

    def step(self: engine.PlainEngine, *given: Any) -> Any:
        if broken == "frozen":
            dict(self.model.named_parameters())["parts.unet.conv_in.weight"].data[0, 0, 0, 0] += 1
            return real(self, *given)
        self.zero_grad()
        return torch.tensor(1.0)

    monkeypatch.setattr(engine.PlainEngine, "step", step)
    with pytest.raises(UserError, match=expected):
        worker.train(run_config())


def stuck() -> None:
    """Keep the second worker from its third step, which from then on may take 6 seconds;
    earlier ones take what they need."""
    real = worker.optimizer_step

    def step(run: Any, *rest: Any) -> Any:
        if run.step == 2:
            run.watchdog._seconds = 6.0
            if run.rank == 1:
                time.sleep(3600)
        return real(run, *rest)

    worker.optimizer_step = step


def test_a_stuck_collective_ends(run_config: Callable[..., Config], tmp_path: Path) -> None:
    config = run_config(train={"workers": 2, "engine": "ddp", "hang_minutes": 10})
    group.train(config, 2, tmp_path, before=stuck, code=EXIT_CODE)
    said = notices(config)
    assert "Worker 0 made no progress for 6 s in step 3" in said
    assert "Worker 1 made no progress for 6 s in step 3, at step (test_trouble.py" in said
    stacks = sorted(Path(config.output, "hangs").iterdir())
    assert len(stacks) == 2
    assert any("_engine_run_backward" in path.read_text() for path in stacks)


def test_a_stuck_worker_ends_even_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    watch = (
        f"from raytrain.train.guards.hang import Watchdog; Watchdog({str(tmp_path / 'run')!r}, 0, "
        "0.4)"
    )
    script = f"import time; {watch}; time.sleep(3600)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == EXIT_CODE
    assert "NotADirectoryError" in done.stderr or "FileExistsError" in done.stderr
