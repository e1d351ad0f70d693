"""One TOML file configures every stage; each table below is one stage's settings,
with its defaults.

Types are strict ("False" is no boolean), tables are frozen, unknown keys are refused.
`raytrain.config.file` reads and writes the file. Imports no torch, so that a mistake is reported
at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from raytrain import plugins
from raytrain.config.data import GROWING, DataConfig
from raytrain.config.period import Share
from raytrain.config.train import FREE_TRAIN_KEYS as FREE_TRAIN_KEYS
from raytrain.config.train import TrainConfig as TrainConfig
from raytrain.config.tune import TuneConfig
from raytrain.paths import inside
from raytrain.table import Interval, Names, Seed, Table


class ModelConfig(Table):
    """`[model]`: the base model, a local folder in diffusers layout or a hub id."""

    family: str = "sd15"
    path: str
    revision: str | None = None
    variant: str | None = None
    vae: str | None = None
    """Folder or hub id of another VAE to use instead of the model's own."""
    max_tokens: Literal[75, 150, 225] = 75
    """Caption length in tokens; above 75 the text encoders see chunks of 75 whose hidden states
    are joined."""
    size_ids: Annotated[tuple[int, int, int, int, int, int], Field(strict=False)] | None = None
    """What an SDXL model is told in training of every image: original height and width, crop top
    and left, target height and width. Default: each image's own."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random`: the denoiser starts from its config alone, to train from scratch."""
    quantize: Literal["none", "int8", "nf4"] = "none"
    """Linear layers of the denoiser in 8 bits (LLM.int8, arXiv:2208.07339) or 4
    (QLoRA, arXiv:2305.14314), under a LoRA."""

    @field_validator("family")
    @classmethod
    def _family_exists(cls, value: str) -> str:
        plugins.check("families", value)
        return value


class MethodConfig(Table):
    """Base of every method's own table; `name` is the file in `raytrain/methods`."""

    name: str


class ObjectiveConfig(Table):
    """`[objective]`: target, weighting, noise and timesteps of the diffusion loss."""

    prediction: Literal["auto", "epsilon", "v_prediction", "flow"] = "auto"
    """`auto` follows the model's scheduler."""
    min_snr_gamma: float | None = Field(None, gt=0)
    """Min-SNR-gamma loss weight (Hang et al. 2023, arXiv:2303.09556); 5 is usual."""
    noise_offset: float = Field(0.0, ge=0)
    timestep_range: Interval = (0.0, 1.0)
    """Share of the schedule to draw timesteps from: [0, 0.5) tunes style, [0.5, 1) composition."""
    caption_dropout: float = Field(0.0, ge=0, le=1)
    """Share of captions of which only what data.captions.dropped says is left."""
    caption_dropout_epochs: int = Field(0, ge=0)
    """In every so manieth epoch all captions are dropped; 0: in none."""
    caption_warmup: Share = 0
    """Steps (or their share of all, "10 %") in which captions grow from their first tags to the
    whole, in data.captions.warmup_stages stages."""

    @model_validator(mode="after")
    def _ordered(self) -> ObjectiveConfig:
        low, high = self.timestep_range
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"timestep_range must satisfy 0 <= low < high <= 1, got [{low}, {high}]"
            )
        return self


class SampleConfig(Table):
    """`[sample]`: prompts and sampler of validation and evaluation images."""

    prompts: Names = ()
    """Empty means captions of held-out images."""
    prompt_file: str = ""
    """A text file of prompts, one a line, with kohya's flags for what differs from this table:
    `--n` negative, `--w` width, `--h` height, `--d` seed, `--l` guidance, `--s` steps, `--cn`
    control image (relative to the file)."""
    controls: Names = ()
    """Control images of the prompts, for a method that takes them: files, one a prompt,
    or one folder of them."""
    max_prompts: int = Field(8, ge=1)
    """More are not drawn; a line says so."""
    images_per_prompt: int = Field(1, ge=1)
    negative_prompt: str = ""
    steps: int = Field(30, ge=1)
    guidance_scale: float = Field(7.5, ge=0)
    scheduler: Literal["auto", "ddim", "euler", "euler_ancestral", "dpmpp_2m", "unipc"] = "auto"
    """`auto`: ddim, and for flow matching euler."""
    width: int | None = Field(None, ge=16)
    height: int | None = Field(None, ge=16)
    """Default: those of the bucket with most training images."""
    seed: Seed = 0
    batch: int = Field(4, ge=1)
    offload: bool = False
    """Keep text encoders and VAE on the host; each of their layers is on the GPU only while it
    works."""
    workers: int = Field(1, ge=1)
    """How many draw the images of `raytrain sample` and `raytrain evaluate`, each a batch at a
    time; a cluster that has room for fewer lets fewer draw."""
    gpus_per_worker: float | None = Field(None, ge=0)
    """GPUs of one that draws, and of scoring, by default `train.gpus_per_worker`; with a part of
    one several share it."""


class EvaluateConfig(Table):
    """`[evaluate]`: which scorers judge the images, with which models."""

    scorers: Names = ("clip_text", "clip_image", "diversity", "held_out_loss")
    """Files of `raytrain/evaluate/scorers`."""
    clip: str = "openai/clip-vit-base-patch32"
    aesthetic: str = ""
    """Safetensors file of the ResNet-50 aesthetic head; needed by the scorer `aesthetic`."""
    legacy: bool = False
    """Use the published evaluation's formulas, known bugs included,
    to compare with older figures."""
    bootstrap: int = Field(1000, ge=100)
    confidence: float = Field(0.95, gt=0, lt=1)
    timesteps: int = Field(8, ge=1)
    """Timesteps of the held-out loss for each held-out image."""
    max_held_out: int = Field(64, ge=1)
    """Held-out images the loss is taken over at most."""
    max_references: int = Field(256, ge=1)
    """Training images compared with at most."""

    @field_validator("scorers")
    @classmethod
    def _scorers_exist(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            plugins.check("evaluate.scorers", name)
        return value

    @model_validator(mode="after")
    def _weights_given(self) -> EvaluateConfig:
        if "aesthetic" in self.scorers and not self.aesthetic:
            raise ValueError(
                "scorer 'aesthetic' needs `evaluate.aesthetic`, the safetensors file of its "
                "weights"
            )
        return self


class ExportConfig(Table):
    """`[export]`: which files are written of what a run learned."""

    formats: Literal["auto"] | Names = "auto"
    """Files of `raytrain/export/formats`; `auto`: every format that can hold what the method
    learned."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    ema: bool = True
    """Export the moving average where the run kept one."""

    @field_validator("formats")
    @classmethod
    def _formats_exist(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in () if isinstance(value, str) else value:
            plugins.check("export.formats", name)
        return value


class ClusterConfig(Table):
    """`[cluster]`: where Ray runs."""

    address: str = "local"
    """`local` starts a private Ray here; `auto` or `host:port` joins a running one."""
    num_cpus: int | None = Field(None, ge=1)
    object_store_mb: int | None = Field(512, ge=100)
    wait_minutes: float = Field(30.0, gt=0)
    """How long a stage waits for room on a cluster that is joined, which its autoscaler may make,
    before it ends with a message."""


class LogConfig(Table):
    """`[log]`: metric sinks next to the console and `metrics.jsonl`."""

    tensorboard: bool = True
    wandb: Literal["off", "offline", "online"] = "off"
    project: str = "raytrain"
    metrics: bool = True
    """Numbers for Prometheus, where the process is in a Ray, at its nodes' metrics ports."""
    worker_output: bool = False
    """Show what workers and Ray's own actors print, next to the progress line."""


class Config(Table):
    """The whole file."""

    seed: Seed = 0
    output: str
    """Folder of this run: dataset, checkpoints, samples, reports."""
    model: ModelConfig
    method: SerializeAsAny[MethodConfig] = Field(default_factory=lambda: _method({"name": "lora"}))
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    sample: SampleConfig = SampleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tune: TuneConfig = TuneConfig()
    export: ExportConfig = ExportConfig()
    cluster: ClusterConfig = ClusterConfig()
    log: LogConfig = LogConfig()

    @field_validator("method", mode="before")
    @classmethod
    def _load_method(cls, value: Any) -> MethodConfig:
        return value if isinstance(value, MethodConfig) else _method(value)

    @model_validator(mode="after")
    def _quantizable(self) -> Config:
        kind = self.model.quantize
        frozen = getattr(plugins.load("methods", self.method.name), "FREEZES_BASE", False)
        if kind != "none" and not frozen:
            raise ValueError(
                f'model.quantize = "{kind}" is for a method that freezes the base, got '
                f"method.name = {self.method.name!r}: quantized weights cannot learn. Use a LoRA, "
                'or model.quantize = "none"'
            )
        if self.model.weights == "random" and (frozen or kind != "none"):
            raise ValueError(
                'model.weights = "random" is for a method that trains the whole denoiser, got '
                f"method.name = {self.method.name!r} and model.quantize = {kind!r}: frozen random "
                'weights predict nothing. Use method.name = "full", or model.weights = '
                '"pretrained"'
            )
        if kind != "none" and self.train.engine == "zero3":
            raise ValueError(
                f'model.quantize = "{kind}" cannot go with train.engine = "zero3": its shards '
                'would be cut from the packed bits and lose their scales. Use "auto", "ddp", '
                '"zero1" or "zero2"'
            )
        return self

    @model_validator(mode="after")
    def _warmed_up(self) -> Config:
        stages, steps = self.data.captions.warmup_stages, self.objective.caption_warmup
        if bool(stages) != bool(steps):
            raise ValueError(
                "objective.caption_warmup says how long captions grow, and "
                "data.captions.warmup_stages in how many stages that are stored; got "
                f"{steps!r} and {stages}, so nothing would grow. Set both or neither"
            )
        return self

    @model_validator(mode="after")
    def _grows(self) -> Config:
        if self.data.snapshot == GROWING and self.train.steps is None:
            raise ValueError(
                f'data.snapshot = "{GROWING}" needs train.steps: while the dataset grows, nobody '
                "knows how many steps an epoch has, and the learning rate follows their number. "
                "Set train.steps in place of train.epochs"
            )
        return self

    @model_validator(mode="after")
    def _apart(self) -> Config:
        """What a run writes must not be read as images."""
        for key, folder in (("output", self.output), ("data.dataset", self.data.dataset)):
            if folder:
                self.check_apart(key, folder)
        return self

    def check_apart(self, key: str, folder: str) -> None:
        """Raise ValueError where a folder that a command writes to is one of images."""
        for subset in self.data.all_subsets():
            if subset.source and inside(folder, subset.source):
                raise ValueError(
                    f"{key} {folder!r} is in the folder of images {subset.source!r}: what a "
                    "run draws and writes there would be read as training images. Give a "
                    "folder beside it"
                )

    @property
    def dataset(self) -> str:
        """Folder of the prepared dataset."""
        from raytrain import storage  # pyarrow, which a config alone does not need

        return self.data.dataset or storage.join(self.output, "dataset")

    @property
    def drawing_gpus(self) -> float:
        """GPUs of a worker that draws or scores images."""
        own = self.sample.gpus_per_worker
        return self.train.gpus_per_worker if own is None else own

    def defaults(self) -> Config:
        """Return the config with every key at its default, for this method;
        a key without one is as here or empty."""
        method = self.method
        required = {
            name: getattr(method, name)
            for name, key in type(method).model_fields.items()
            if key.is_required()
        }
        return Config(
            output="",
            model=ModelConfig(path=""),
            method=_method({**required, "name": method.name}),
        )

    def values(self) -> dict[str, Any]:
        """Return the plain, JSON-able tree; `parse(config.values())` gives an equal config."""
        return self.model_dump(mode="json")


def _method(table: Mapping[str, Any]) -> MethodConfig:
    name = table.get("name", "lora") if isinstance(table, Mapping) else table
    if not isinstance(name, str):
        raise ValueError(f"method.name must be text, got {name!r}")
    config: MethodConfig = plugins.load("methods", name).Config(**{**table, "name": name})
    return config
