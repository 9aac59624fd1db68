"""Where each key of an arcface_torch config went. `docs/configs.md` shows the same tables; a test keeps them equal."""

from __future__ import annotations

from collections.abc import Mapping

COUNTERPARTS: Mapping[str, str] = {
    "margin_list": "head.margins",
    "network": "backbone.network",
    "resume": "resume",
    "output": "output",
    "embedding_size": "backbone.embedding_size",
    "sample_rate": "head.sample_rate",
    "interclass_filtering_threshold": "head.interclass_filtering_threshold",
    "fp16": "train.precision",
    "batch_size": "train.batch_size",
    "optimizer": "optim.optimizer",
    "lr": "optim.lr",
    "momentum": "optim.momentum",
    "weight_decay": "optim.weight_decay",
    "verbose": "validation.every_steps",
    "frequent": "log.every_steps",
    "gradient_acc": "train.gradient_accumulation",
    "seed": "seed",
    "num_workers": "data.num_workers",
    "rec": "data.rec",
    "num_classes": "data.num_classes",
    "num_image": "data.num_image",
    "num_epoch": "train.num_epoch",
    "warmup_epoch": "optim.warmup_epoch",
    "val_targets": "validation.val_targets",
}
"""Key of arcface_torch -> key here."""

WITHOUT_COUNTERPART: Mapping[str, str] = {
    "save_all_states": "every checkpoint here holds all states",
    "dali": "there is no DALI reader here; the loader decodes on the CPU",
    "dali_aug": "there is no DALI reader here; augment.preset: arcface_dali does the same to pictures",
    "using_wandb": "TensorBoard and metrics.jsonl are written instead",
    "wandb_key": "a config holds no secret; the value was not copied",
    "wandb_entity": "belongs to Weights & Biases, which is not written to",
    "wandb_project": "belongs to Weights & Biases, which is not written to",
    "wandb_log_all": "belongs to Weights & Biases, which is not written to",
    "wandb_resume": "belongs to Weights & Biases, which is not written to",
    "save_artifacts": "belongs to Weights & Biases, which is not written to",
    "suffix_run_name": "belongs to Weights & Biases, which is not written to",
    "notes": "belongs to Weights & Biases, which is not written to",
}
"""Key of arcface_torch without one here -> why."""
