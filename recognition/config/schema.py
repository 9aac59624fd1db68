"""Every key a run's YAML may hold, with its default. `configs/base.yaml` spells the same keys for people.

Rank, world size and step counts are not config: they live in `World` and in the `Plan`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Precision = Literal["bf16", "fp16", "off"]


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how batches are made of it."""

    rec: str | None = None
    """A folder with train.rec, a .rec file, a folder of identity folders, a pattern such as "sets/*.rec", or
    "synthetic"."""
    more_rec: tuple[str, ...] = ()
    """Further sets that are trained on together with `rec`."""
    identities: str = "offset"
    """Class ids of several sets: "offset" numbers each behind those before it, "same" takes them as they are, and any
    other value is a file of lines `set TAB class id TAB new class id`."""
    num_classes: int | None = None
    """Comes from the data; when stated it is checked (and needed for "synthetic")."""
    num_image: int | None = None
    """Comes from the data; when stated it is checked (and needed for "synthetic")."""
    image_size: int = 112
    """Side of the square images in pixels; images of another size are an error."""
    num_workers: int | None = None
    """Loader processes per rank; 0 decodes in the training process. Chosen from the machine when absent."""
    num_threads: int = 1
    """Threads of each loader process; decoding runs outside the GIL."""
    shuffle_block: int = 1
    """Neighboring images that are shuffled as one block, for disks and network file systems; 1 shuffles images."""
    images_per_identity: int | None = None
    """Images of one person that stand together in a batch, for losses on pairs; absent: images are independent."""
    flip: float = 0.5
    """Probability of a horizontal flip, drawn per image from f(seed, epoch, image)."""
    on_bad_record: Literal["raise", "skip"] = "raise"
    """What a record that cannot be read does: end the run, or be replaced by another image and listed in the run
    folder's bad_records.jsonl."""
    max_bad_records: int = 100
    """With "skip": records of the whole run, over all ranks, that may be listed before it ends all the same."""


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to images on the device, drawn per image from f(seed, epoch, image); data.flip comes on top.

    A probability in place of null replaces the preset's.
    """

    preset: Literal["none", "arcface_dali", "adaface"] = "none"
    crop: float | None = None
    """All but a random window becomes black."""
    misalign: float | None = None
    shift: float | None = None
    low_resolution: float | None = None
    blur: float | None = None
    color: float | None = None
    """Brightness, contrast, saturation, hue."""
    gray: float | None = None
    occlusion: float | None = None
    """A gray rectangle."""
    mask: float | None = None
    """A synthetic face mask; needs faces on the ArcFace template."""
    jpeg: float | None = None


@dataclass(frozen=True)
class BackboneConfig:
    """The network between pixels and embeddings."""

    network: str = "r50"
    embedding_size: int = 512
    dropout: float = 0.0
    sync_bn: bool = False
    """BatchNorm statistics over the global batch; makes results independent of the number of ranks."""


@dataclass(frozen=True)
class HeadConfig:
    """The sharded margin-softmax."""

    margins: tuple[float, float, float] = (1.0, 0.5, 0.0)
    """m1, m2, m3 of cos(m1 * theta + m2) - m3."""
    scale: float = 64.0
    margin_gradient: Literal["straight_through", "exact"] = "straight_through"
    update: Literal["fused", "deferred", "autograd"] = "fused"
    """Where the centers' step is taken: inside the block loop, after the backbone's backward, or by an optimizer."""
    products: Literal["float32", "bf16"] = "float32"
    """Precision of the matrix products; accumulation and reductions are float32 in both."""
    block_size: int | None = None
    """Classes per block; chosen from batch, embedding size and device when absent."""
    sample_rate: float = 1.0
    """Share of the classes used in a step (PartialFC); positives are always used, and 0 means positives only."""
    negatives: Literal["random", "nearest"] = "random"
    lr_factor: float = 1.0
    """The centers' learning rate as a multiple of optim.lr. Without momentum a step is 1 / (1 - optim.momentum) times
    shorter in the long run; this is where to make up for it."""
    centers_format: Literal["float32", "bf16"] = "float32"
    momentum_format: Literal["float32", "bf16", "int8", "none"] = "float32"
    sub_centers: int = 1
    init: Literal["random", "class_means"] = "random"
    """Where the centers start; "class_means", of the embeddings of the network that `init_from` names."""
    init_images: int = 10
    """With "class_means": at most so many images of a class are embedded."""
    interclass_filtering_threshold: float = 0.0
    """Negatives with a cosine above this are left out of the sum; 0 keeps all."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer of backbone and centers, and its schedule."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    """At `reference_batch`; used as it stands, whatever the global batch."""
    reference_batch: int | None = None
    """Global batch `lr` was chosen for; a run whose global batch differs is told the linear-scaling value."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["poly", "cosine"] = "poly"
    poly_power: float = 1.0
    warmup_epoch: float = 0.0
    clip_norm: float = 5.0
    """Largest norm of the backbone's gradient; 0 turns clipping off."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's."""


@dataclass(frozen=True)
class TrainConfig:
    """How long and in which portions."""

    batch_size: int = 128
    """Images per rank and micro-batch."""
    num_epoch: int = 20
    gradient_accumulation: int = 1
    precision: Precision = "bf16"
    """Autocast of the backbone; on a CPU "bf16" pays where the hardware has it."""
    channels_last: bool = True
    compile: bool = False
    max_refused_steps: int = 20
    """Stop after this many refused steps in a row."""
    timeout_s: float = 600.0
    """How long a rank waits for the others before the run ends with an error."""


@dataclass(frozen=True)
class ValidationConfig:
    """Verification during training."""

    val_dir: str | None = None
    """Folder with the .bin files; defaults to the data folder, as in arcface_torch."""
    val_targets: tuple[str, ...] = ()
    every_steps: int = 2000
    batch_size: int = 64


@dataclass(frozen=True)
class CheckpointConfig:
    """When a checkpoint is written, beside those that signals ask for, and which are kept."""

    every_epochs: int = 1
    every_steps: int | None = 2000
    """On top of `every_epochs`, whose end may be hours away."""
    keep: int = 3
    """The newest; the one with the best mean validation accuracy stays as well."""
    max_failures: int = 3
    """Saves in a row that may fail, on a full disk for example, before the run ends."""


@dataclass(frozen=True)
class LogConfig:
    """What is told while it runs."""

    every_steps: int = 10
    tensorboard: bool = True
    wandb: str | None = None
    """Project of Weights & Biases to write to as well; its key comes from WANDB_API_KEY and is never in a config."""


@dataclass(frozen=True)
class Config:
    """One run."""

    seed: int = 2048
    device: Literal["auto", "cpu", "cuda"] = "auto"
    output: str | None = None
    """Run folder; work_dirs/<config name> when absent."""
    resume: bool = False
    init_from: str | None = None
    """A weight file under insightface's names to start the backbone from."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
