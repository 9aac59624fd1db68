"""A plan in words."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from recognition.config.schema import HeadConfig, has_teacher
from recognition.console import count, duration, size
from recognition.heads.margins import make_margin
from recognition.heads.products import resolve_products
from recognition.plan.inputs import Inputs
from recognition.plan.memory import backbone_cost
from recognition.plan.run import Plan
from recognition.plan.timing import Timing


def render_plan(plan: Plan, inputs: Inputs | None = None, timing: Timing | None = None) -> str:
    """Return the plan as lines for a person; `inputs` adds what was found on disk, `timing` what was measured."""
    sections = {
        "data": _data(plan, inputs),
        "batch": _batch(plan),
        "schedule": _schedule(plan),
        **({"stages": _stages(plan)} if plan.stages.spans else {}),
        "lr": _lr(plan),
        "backbone": _backbone(plan),
        **({"teacher": _teacher(plan)} if has_teacher(plan.config.teacher) else {}),
        "classes": _classes(plan),
        "head": _head(plan),
        "memory": _memory(plan),
        "validation": _validation(plan, inputs),
    }
    if timing is not None:
        sections["time"] = _time(plan, timing)
    lines = [f"plan for {count(plan.world_size, 'rank')}"]
    for title, text in sections.items():
        first, *rest = text.split("\n")
        lines.append(f"  {title:<11}{first}")
        lines.extend(" " * 13 + line for line in rest)
    lines.extend(f"  warning: {warning}" for warning in plan.warnings)
    return "\n".join(lines)


def _data(plan: Plan, inputs: Inputs | None) -> str:
    source = inputs.data if inputs else plan.config.data.rec or "data.rec is not set"
    stated = "" if inputs is None or inputs.has_data else ", sizes as the config states them"
    each = plan.num_images / max(1, plan.num_used)
    images, identities = count(plan.num_images, "image"), count(plan.num_used, "identity")
    classes = "" if plan.num_used == plan.num_classes else f" in {count(plan.num_classes, 'class')}"
    return f"{source}: {images} of {identities} ({each:.1f} each){classes}{stated}"


def _batch(plan: Plan) -> str:
    train = plan.config.train
    micro = f" x {train.gradient_accumulation} micro-batches" if train.gradient_accumulation > 1 else ""
    ranks = count(plan.world_size, "rank")
    return (
        f"{train.batch_size} x {ranks}{micro} = {plan.global_batch:,} images a step; {plan.steps_per_epoch:,} steps an "
        f"epoch, {count(plan.images_left_out, 'image')} left over in each"
    )


def _schedule(plan: Plan) -> str:
    optim = plan.config.optim
    shape = {
        "poly": f"poly {optim.poly_power:g} to 0",
        "cosine": "cosine to 0",
        "multistep": f"times {optim.drop_factor:g} at {', '.join(f'{step:,}' for step in plan.schedule.milestones)}",
        "plateau": f"times {optim.drop_factor:g} after {optim.patience + 1} validations without a better mean",
    }[optim.schedule]
    warmup = f"warm-up of {plan.warmup_steps:,}" if plan.warmup_steps else "no warm-up"
    return f"{count(plan.config.train.num_epoch, 'epoch')} = {plan.total_steps:,} steps, {warmup}, {shape}"


def _stages(plan: Plan) -> str:
    return "\n".join(f"steps {span.first:,} to {span.stop - 1:,}: {span.stage}" for span in plan.stages.spans)


def _lr(plan: Plan) -> str:
    optim = plan.config.optim
    lr = f"{optim.optimizer}, {optim.lr:g}"
    if optim.reference_batch is None:
        return f"{lr} as stated (optim.reference_batch would tell for which global batch it was chosen)"
    if plan.scaled_lr is None:
        return f"{lr}, chosen for this global batch"
    return (
        f"{lr} as stated, chosen for a global batch of {optim.reference_batch:,}; the linear-scaling rule gives "
        f"optim.lr={plan.scaled_lr:.4g} for {plan.global_batch:,}"
    )


def _backbone(plan: Plan) -> str:
    backbone = plan.config.backbone
    norm = ", BatchNorm over the global batch" if backbone.sync_bn else ""
    precision = plan.config.train.precision
    autocast = "float32" if precision == "off" else f"autocast {precision}"
    cost = backbone_cost(backbone, plan.config.data.image_size)
    again = ", activations computed again in the backward pass" if cost.recomputes else ""
    return (
        f"{backbone.network}, {cost.parameters:,} parameters, {cost.macs / 1e9:,.3g} GMACs an image, "
        f"{autocast}{norm}{again}"
    )


def _teacher(plan: Plan) -> str:
    teacher, weight = plan.config.teacher, plan.config.head.weight
    source = teacher.model or ", ".join(teacher.embeddings)
    beside = f"beside a head of weight {weight:g}" if weight else "alone"
    return f"{source}: 1 - cosine of weight {teacher.weight:g}, {beside}"


def _classes(plan: Plan) -> str:
    if plan.config.head.weight == 0:
        return "not used"
    if plan.world_size == 1:
        owned = f"{plan.first_classes:,} on the only rank"
    elif plan.first_classes == plan.last_classes:
        owned = f"{plan.first_classes:,} on each rank"
    else:
        owned = f"{plan.first_classes:,} on the first rank, {plan.last_classes:,} on the last"
    head = plan.config.head
    if head.sample_rate == 1:
        return f"{owned}, all used in each step"
    others = "the others coast" if head.unsampled == "coast" else "the others rest"
    if head.sample_rate == 0:
        return f"{owned}, only the batch's own (about {plan.sampled_classes:,} a rank) used in a step; {others}"
    return f"{owned}, {plan.sampled_classes:,} used in a step ({head.negatives} negatives); {others}"


def _head(plan: Plan) -> str:
    head = plan.config.head
    if head.weight == 0:
        return "none"
    parts = [
        _margin(head),
        _scale(head),
        f"update {'autograd' if head.update == 'autograd' else 'fused'}",
        f"products {_products(plan)}",
        f"centers {head.centers_format}",
        f"{_moments(plan)} {head.momentum_format}",
    ]
    if head.margin_gradient == "exact":
        parts.append("exact margin gradient")
    if head.sub_centers > 1:
        parts.append(f"{head.sub_centers} sub-centers")
    if head.interclass_filtering_threshold:
        parts.append(f"negatives above a cosine of {head.interclass_filtering_threshold:g} left out")
    if head.label_smoothing:
        parts.append(f"labels smoothed by {head.label_smoothing:g}")
    if head.class_balance:
        parts.append(f"classes weighed by the effective number of their images, beta {head.class_balance:g}")
    return ", ".join(parts)


def _moments(plan: Plan) -> str:
    return "AdamW, moments" if plan.config.centers_optimizer == "adamw" else "SGD, momentum"


def _scale(head: HeadConfig) -> str:
    margin = None if head.margin is None else make_margin(head.margin.name, head.margin.settings)
    return f"scale {head.scale:g}" if margin is None or margin.uses_scale else "scale its own or none"


def _products(plan: Plan) -> str:
    asked, where = plan.config.head.products, "a GPU" if plan.device == "cuda" else "a CPU"
    if asked == "auto":
        return f"{resolve_products(asked, torch.device(plan.device))} (auto, on {where})"
    return "float32 (tf32 is of GPUs)" if asked == "tf32" and plan.device == "cpu" else asked


def _margin(head: HeadConfig) -> str:
    if head.margin is not None:
        return " ".join([head.margin.name, *(f"{key}={value}" for key, value in head.margin.settings.items())])
    m1, m2, m3 = head.margins
    return f"cos({'' if m1 == 1 else f'{m1:g} * '}theta{f' + {m2:g}' if m2 else ''}){f' - {m3:g}' if m3 else ''}"


def _memory(plan: Plan) -> str:
    parts = ", ".join(f"{name} {size(value)}" for name, value in plan.memory.parts().items() if value)
    return (
        f"{size(plan.memory.total)} on rank 0, estimated, without the framework's own\n{parts}\n"
        f"and {size(plan.memory.staging)} of the host for the copy that a checkpoint is written from"
    )


def _time(plan: Plan, timing: Timing) -> str:
    others = ", if all ranks are like this one" if plan.world_size > 1 else ""
    loading = f", loading {timing.loading_s:.2g} s{' beside it' if timing.is_apart else ''}" if timing.loading_s else ""
    return (
        f"about {duration(timing.epoch_s)} an epoch on this machine, {plan.global_batch / timing.step_s:,.0f} "
        f"images/s{others}\na step: backbone {timing.backbone_s:.2g} s, head {timing.head_s:.2g} s{loading}; estimated "
        "from a few passes, without validation and checkpoints"
    )


def _validation(plan: Plan, inputs: Inputs | None) -> str:
    validation = plan.config.validation
    if not validation.val_targets:
        return "none; validation.val_targets names the .bin files"
    when = f"before step 1, every {validation.every_steps:,} steps and at the end, {validation.batch_size} a rank"
    return f"{', '.join(_targets(plan, inputs))}: {when}"


def _targets(plan: Plan, inputs: Inputs | None) -> Iterator[str]:
    if inputs is None:
        yield from plan.config.validation.val_targets
        return
    for name in inputs.validation:
        yield f"{name} (absent)" if name in inputs.missing_validation else name
