"""Every key a run's YAML may hold, stated once: type, default, meaning, range, and the keys it does not go with.

`make docs` writes configs/base.yaml and the table of docs/configs.md from here. Rank, world size and step counts are
not config: they live in `World` and in the `Plan`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from recognition.config.choice import Choice
from recognition.config.keys import BELOW_ONE, SEED, SHARE, Range, Rule, above, at_least, key, within
from recognition.config.schema_optim import OptimConfig as OptimConfig
from recognition.config.schema_teacher import TeacherConfig as TeacherConfig
from recognition.config.schema_teacher import has_teacher as has_teacher
from recognition.config.stages import Stage

Precision = Literal["bf16", "fp16", "off"]


def _margins(values: tuple[float, float, float]) -> bool:
    m1, m2, m3 = values
    return m1 > 0 and 0 <= m2 < math.pi and 0 <= m3 <= 2


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how batches are made of it."""

    rec: str | None = key(
        None,
        'folder with train.rec, a .rec file, a folder of identity folders, a pattern such as "sets/*.rec", or '
        '"synthetic"',
        clash=Rule(
            lambda c: c.data.rec == "synthetic" and (c.data.num_classes is None or c.data.num_image is None),
            "'synthetic' has no sizes of its own; state data.num_classes and data.num_image",
        ),
    )
    more_rec: tuple[str, ...] = key(
        (),
        "further sets, trained on together with rec",
        void=Rule(lambda c: c.data.rec == "synthetic", "with data.rec 'synthetic'; remove this key"),
    )
    identities: str = key(
        "offset",
        "class ids of several sets: offset numbers each set after those before it, same takes the ids as they are, "
        "anything else is a file of lines: set TAB class id TAB new class id",
    )
    num_classes: int | None = key(
        None,
        'comes from the data; a stated number counts where it covers the labels; needed for "synthetic" and for a plan '
        "without data",
        within(2, 2**32),
    )
    num_image: int | None = key(
        None, "comes from the data; checked when stated; needed in the same places", within(1, 2**48)
    )
    max_identities: int | None = key(
        None,
        "only the first so many people, by class id",
        at_least(2),
        void=Rule(lambda c: c.data.rec == "synthetic", "with data.rec 'synthetic'; set data.num_classes"),
    )
    image_size: int = key(112, "side in pixels; images of another size are an error", within(16, 4096))
    num_workers: int | None = key(
        None,
        "loader processes per rank; 0 decodes in the training process; null: from the machine",
        within(0, 512),
    )
    num_threads: int = key(1, "threads of each loader process; decoding runs outside the GIL", within(1, 512))
    shuffle_block: int = key(
        1,
        "neighbors shuffled as one block, for slow disks; 1 shuffles images (docs/data.md)",
        at_least(1),
        void=Rule(
            lambda c: c.data.images_per_identity is not None,
            "with data.images_per_identity, which draws images by person; remove this key",
        ),
    )
    images_per_identity: int | None = key(
        None,
        "K of batches of P x K images, for losses on pairs; null: images are independent",
        at_least(2),
        clash=Rule(
            lambda c: c.data.images_per_identity is not None and c.train.batch_size % c.data.images_per_identity != 0,
            "{data.images_per_identity} does not divide train.batch_size {train.batch_size}; expected whole groups in "
            "the batch of each rank",
        ),
    )
    flip: float = key(0.5, "probability of a horizontal flip, drawn per image from f(seed, epoch, image)", SHARE)
    on_bad_record: Literal["raise", "skip"] = key(
        "raise", "a record that cannot be read ends the run (raise), or another image takes its place (skip)"
    )
    max_bad_records: int = key(
        100,
        "with skip: so many in the whole run may be replaced; they are listed in bad_records.jsonl",
        at_least(1),
        void=Rule(
            lambda c: c.data.on_bad_record == "raise",
            "with data.on_bad_record raise; set data.on_bad_record: skip or remove this key",
        ),
    )


@dataclass(frozen=True)
class AugmentConfig:
    """On the device, drawn per image and epoch; a probability in place of null replaces the preset's."""

    preset: Literal["none", "arcface_dali", "adaface"] = key(
        "none", "what happens to images on the device: none, arcface_dali or adaface (docs/data.md)"
    )
    crop: float | None = key(
        None, "probability that all but a random window becomes black; null, here and below: the preset's", SHARE
    )
    misalign: float | None = key(
        None, "of a turn by up to 9 degrees, a zoom of 0.9 to 1.1 and a shift by up to 6 pixels", SHARE
    )
    shift: float | None = key(None, "of a shift by up to 4 pixels", SHARE)
    low_resolution: float | None = key(None, "of scaling down and up again", SHARE)
    blur: float | None = key(None, "of a Gaussian blur", SHARE)
    color: float | None = key(None, "of a change of brightness, contrast, saturation and hue", SHARE)
    gray: float | None = key(None, "of losing the color", SHARE, was=("augment.grey",))
    occlusion: float | None = key(None, "of a gray rectangle", SHARE)
    mask: float | None = key(None, "of a synthetic face mask; needs faces on the ArcFace template", SHARE)
    jpeg: float | None = key(None, "of JPEG artifacts of quality 20 to 80", SHARE)


@dataclass(frozen=True)
class BackboneConfig:
    """The network between pixels and embeddings."""

    network: str = key(
        "r50", "r50, mbf, vit_t, tiny and others (docs/networks.md); backbone.network=? answers with all names"
    )
    embedding_size: int = key(512, "length of an embedding", within(1, 2**16))
    dropout: float = key(0.0, "before the last dense layer", BELOW_ONE)
    drop_path: float | None = key(
        None,
        "share of the images whose last block is skipped in training, less in earlier ones (ViT); null, here and "
        "below: as the network's name says",
        BELOW_ONE,
    )
    mask_ratio: float | None = key(None, "share of the patches hidden in training (ViT)", BELOW_ONE)
    activation_checkpointing: bool | None = key(
        None, "compute a block's activations again in the backward pass instead of keeping them (ViT)"
    )
    sync_bn: bool = key(
        False, "BatchNorm statistics over the global batch: results no longer depend on the number of ranks"
    )


_USES_EVERY_CLASS = Rule(
    lambda c: c.head.sample_rate == 1 and all(stage.sample_rate in (None, 1) for stage in c.stages),
    "with head.sample_rate 1, where every class is used; lower the rate or remove this key",
)


@dataclass(frozen=True)
class HeadConfig:
    """The sharded margin-softmax."""

    margins: tuple[float, float, float] = key(
        (1.0, 0.5, 0.0),
        "m1, m2, m3 of cos(m1 * theta + m2) - m3: ArcFace [1, 0.5, 0], CosFace [1, 0, 0.4]",
        Range(_margins, "m1 above 0, m2 at least 0 and below pi, m3 between 0 and 2"),
        void=Rule(lambda c: c.head.margin is not None, "with head.margin; remove this key"),
    )
    margin: Choice | None = key(
        None,
        "a loss by name, with its settings, in place of margins: {name: adaface, m: 0.4} (docs/losses.md)",
    )
    scale: float = key(64.0, "factor s before the softmax", above(0))
    weight: float = key(
        1.0,
        "factor of its loss beside that of a teacher; 0: without a head, and then data.rec may be a folder of photos "
        "without identities",
        at_least(0),
        void=Rule(lambda c: not has_teacher(c.teacher), "without a teacher; set one, or change optim.lr instead"),
    )
    margin_gradient: Literal["straight_through", "exact"] = key(
        "straight_through",
        "straight_through: what arcface_torch's results come from; or exact",
        void=(
            Rule(lambda c: c.head.margin is not None, "with head.margin; set its gradient there or remove this key"),
            Rule(
                lambda c: c.head.margins[:2] == (1.0, 0.0),
                "with m1 = 1 and m2 = 0, whose derivative is 1 either way; remove this key",
            ),
        ),
    )
    update: Literal["fused", "deferred", "autograd"] = key(
        "fused",
        "centers move block by block in the optimizer's step (fused; deferred is an older word for it), or by a dense "
        "gradient (autograd)",
        clash=Rule(
            lambda c: c.head.update == "autograd" and c.head.sample_rate < 1 and c.head.unsampled == "frozen",
            "autograd with head.sample_rate {head.sample_rate} cannot go with head.unsampled frozen: its optimizer "
            "moves every center by its momentum and decay; set head.unsampled: coast, or head.update: fused",
        ),
    )
    overlap: bool = key(
        False,
        "move the centers beside the backbone's backward, on a stream of their own on CUDA: a value that is not finite "
        "in the backbone's gradient then keeps the backbone alone from moving",
        void=Rule(
            lambda c: c.head.update == "autograd",
            "with head.update autograd, whose centers are moved by the backbone's optimizer; remove this key",
        ),
        clash=Rule(
            lambda c: c.head.overlap and c.train.precision == "fp16",
            "true cannot go with train.precision fp16, whose loss scale overflows on purpose and would move the "
            "centers alone; set train.precision: bf16, or head.overlap: false",
        ),
    )
    products: Literal["auto", "float32", "tf32", "bf16"] = key(
        "auto",
        "precision of the matrix products, whose sums are float32: float32, tf32 (on a CPU the same) or bf16; auto: "
        "bf16 on GPUs from Ampere on, float32 on others and on a CPU",
    )
    kernels: bool = key(True, "Triton's kernels on GPUs, where they run; false: plain operations")
    block_size: int | None = key(
        None, "classes per block; null: chosen from batch, embedding size and device", at_least(1)
    )
    sample_rate: float = key(
        1.0, "share of the classes used in a step (PartialFC); 0: the batch's own classes only", SHARE
    )
    negatives: Literal["random", "nearest"] = key(
        "random",
        "random, or nearest: the classes closest to the batch",
        void=_USES_EVERY_CLASS,
    )
    unsampled: Literal["frozen", "coast"] = key(
        "frozen",
        "centers outside a step's sample: frozen (as in MXNet's Partial FC), or coast: they decay and follow their "
        "momentum (as in arcface_torch)",
        void=_USES_EVERY_CLASS,
        clash=Rule(
            lambda c: c.head.unsampled == "coast" and c.centers_optimizer == "adamw" and c.head.update != "autograd",
            "coast is a rule of SGD, and AdamW moves the centers; set head.unsampled: frozen, or head.update: autograd",
        ),
    )
    sampling_correction: Literal["none", "logq"] = key(
        "none",
        "none, or logq: a sampled class that is not of the batch counts 1 / q times, q being its chance to be drawn",
        void=_USES_EVERY_CLASS,
        clash=Rule(
            lambda c: c.head.sampling_correction == "logq" and c.head.negatives == "nearest",
            "logq cannot go with head.negatives nearest, which draws no class by chance; set head.negatives: random, "
            "or head.sampling_correction: none",
        ),
    )
    optimizer: Literal["auto", "sgd", "adamw"] = key(
        "auto",
        "what moves the centers: sgd or adamw, with the settings of optim; auto: as optim.optimizer",
        void=Rule(
            lambda c: c.head.update == "autograd",
            "with head.update autograd, whose centers are moved by the backbone's optimizer; remove this key",
        ),
    )
    lr_factor: float = key(
        1.0,
        "the centers' learning rate as a multiple of optim.lr; with SGD without momentum a step is "
        "1 / (1 - optim.momentum) times shorter in the long run, which is made up for here",
        above(0),
    )
    centers_format: Literal["float32", "bf16"] = key(
        "float32",
        "float32 or bf16 (stochastic rounding)",
        void=Rule(
            lambda c: c.head.update == "autograd",
            "with head.update autograd, whose state is float32; set head.update: fused or remove this key",
        ),
    )
    momentum_format: Literal["float32", "bf16", "int8", "none"] = key(
        "float32",
        "of the centers' momentum, or of AdamW's two moments: float32, bf16, int8 or none (SGD alone)",
        clash=Rule(
            lambda c: c.head.momentum_format == "none" and c.centers_optimizer == "adamw",
            "none keeps no moments, and AdamW needs two; choose another format or head.optimizer: sgd",
        ),
        void=Rule(
            lambda c: c.head.update == "autograd",
            "with head.update autograd, whose state is float32; set head.update: fused or remove this key",
        ),
    )
    sub_centers: int = key(1, "centers per class; the nearest counts", at_least(1))
    init: Literal["random", "class_means", "keep"] = key(
        "random",
        "random, or with init_from class_means: of the embeddings of some images of each class; keep: the centers of "
        "the run that init_from names, by the people's names, and class_means for new people (docs/recipes.md)",
        clash=Rule(
            lambda c: c.head.init != "random" and c.init_from is None,
            "{head.init} needs a network that knows faces; set init_from, or head.init: random",
        ),
    )
    init_images: int = key(
        10,
        "with class_means: at most so many images of a class",
        at_least(1),
        void=Rule(
            lambda c: c.head.init == "random", "with head.init random; set head.init: class_means or remove this key"
        ),
    )
    interclass_filtering_threshold: float = key(
        0.0, "negatives with a cosine above this are left out; 0 keeps all", SHARE
    )
    label_smoothing: float = key(
        0.0,
        "share of the target that all classes get alike; with losses that have a softmax",
        BELOW_ONE,
    )
    class_balance: float = key(
        0.0,
        "beta of the effective number of images, by which classes with fewer of them weigh more; 0: all alike",
        BELOW_ONE,
    )


@dataclass(frozen=True)
class TrainConfig:
    """How long and in which portions."""

    batch_size: int = key(128, "images per rank and micro-batch", within(1, 2**20))
    num_epoch: int = key(20, "passes over the data", at_least(1))
    gradient_accumulation: int = key(1, "micro-batches per step, averaged", at_least(1))
    precision: Precision = key("bf16", "autocast of the backbone: bf16 (on a CPU, where it has it), fp16 or off")
    channels_last: bool = key(True, "memory layout of the convolutions")
    compile: bool = key(False, "torch.compile of the backbone")
    gradient_compression: Literal["none", "bf16", "fp16"] = key(
        "none",
        "the type in which the backbone's gradient travels between ranks: none (float32), bf16 or fp16 (as in "
        "arcface_torch); half the bytes",
    )
    deterministic: bool = key(
        False,
        "on GPUs: equal bits from run to run, at some cost in speed; false: the fastest kernels (on a CPU bits are "
        "equal either way)",
    )
    ema: float | None = key(
        None,
        "decay of a moving average of the weights, such as 0.999, which is validated and published in their place "
        "(docs/recipes.md)",
        BELOW_ONE,
    )
    recalibrate_bn: int = key(
        0,
        "images from which BatchNorm's statistics are taken anew for what is validated and published; 0: those of the "
        "training",
        at_least(0),
    )
    max_refused_steps: int = key(20, "stop after this many refused (non-finite) steps in a row", at_least(1))
    timeout_s: float = key(600.0, "seconds a rank waits for the others before the run ends with an error", above(0))


_WITHOUT_TARGETS = Rule(
    lambda c: not c.validation.val_targets, "without validation.val_targets; name them or remove this key"
)


def _has_repeated_targets(config: Config) -> bool:
    targets = config.validation.val_targets
    return any(not target for target in targets) or len(set(targets)) != len(targets)


@dataclass(frozen=True)
class ValidationConfig:
    """Verification during training."""

    val_dir: str | None = key(None, "folder with the .bin files; null: the data folder", void=_WITHOUT_TARGETS)
    val_targets: tuple[str, ...] = key(
        (),
        "names of .bin files with or without the suffix, such as [lfw, cfp_fp, agedb_30], or their paths",
        clash=Rule(_has_repeated_targets, "found {validation.val_targets}, expected distinct names"),
    )
    every_steps: int = key(
        2000,
        "steps between two validations; also before step 1 and at the end",
        at_least(1),
        void=_WITHOUT_TARGETS,
    )
    batch_size: int = key(64, "images per rank", at_least(1), void=_WITHOUT_TARGETS)


@dataclass(frozen=True)
class CheckpointConfig:
    """When a checkpoint is written, beside those that signals ask for, and which are kept."""

    every_epochs: int = key(1, "a checkpoint at every so many epoch ends, and at the end", at_least(1))
    every_steps: int | None = key(
        2000,
        "as well at every so many steps, written while training goes on; null: at epochs alone (docs/checkpoints.md)",
        at_least(1),
    )
    keep: int = key(3, "newest checkpoints kept; the one with the best mean validation score stays too", at_least(1))
    max_failures: int = key(3, "saves in a row that may fail (a full disk) before the run ends", at_least(1))


@dataclass(frozen=True)
class LogConfig:
    """What is reported while it runs."""

    every_steps: int = key(10, "steps between two lines of the log", at_least(1))
    tensorboard: bool = key(True, "write event files")
    wandb: str | None = key(
        None,
        "project of Weights & Biases to write to as well, from rank 0; its access comes from WANDB_API_KEY and is "
        "never in a config",
        Range(lambda name: bool(name.strip()), "the name of a project, or null"),
    )


@dataclass(frozen=True)
class Config:
    """One run."""

    seed: int = key(
        2048,
        "of centers, sampling, order and augmentation; every stream is f(seed, epoch, rank or image)",
        SEED,
    )
    device: Literal["auto", "cpu", "cuda"] = key("auto", "auto: CUDA where there is some; cpu; cuda")
    output: str | None = key(None, "run folder; null: work_dirs/<config name>")
    resume: bool = key(False, "continue from the newest checkpoint of the run folder")
    init_from: str | None = key(
        None, "weight file under insightface's names, run folder or checkpoint to start the backbone from"
    )
    stages: tuple[Stage, ...] = key(
        (),
        "one after another, each {until_epoch or until_step, sample_rate, scale, margin, lr_factor}: what holds during "
        "it in place of head's keys; two numbers are a ramp (docs/recipes.md)",
        void=Rule(lambda c: c.head.weight == 0, "with head.weight 0, which trains without a head; remove this key"),
    )
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

    @property
    def centers_optimizer(self) -> Literal["sgd", "adamw"]:
        """What moves the centers, whichever key says so."""
        follows = self.head.optimizer == "auto" or self.head.update == "autograd"
        return self.optim.optimizer if follows else self.head.optimizer  # type: ignore[return-value]


SECTION_VOID: Mapping[str, Rule] = {
    "head": Rule(lambda c: c.head.weight == 0, "with head.weight 0, which trains without a head; remove this key"),
}
"""Where all keys of a section would be ignored, but the one that says so."""
