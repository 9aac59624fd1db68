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
    "using_wandb": "log.wandb",
    "wandb_project": "log.wandb",
}
"""Key of arcface_torch -> key here."""

WITHOUT_COUNTERPART: Mapping[str, str] = {
    "save_all_states": "every checkpoint here holds all states",
    "dali": "there is no DALI reader here; the loader decodes on the CPU",
    "dali_aug": "there is no DALI reader here; augment.preset: arcface_dali does the same to pictures",
    "wandb_key": "a config holds no secret; the value was not copied; set WANDB_API_KEY in the environment",
    "wandb_entity": "the wandb package takes it from WANDB_ENTITY in the environment",
    "wandb_log_all": "rank 0 alone writes, one W&B run for the whole training",
    "wandb_resume": "a run that is resumed goes on in its own W&B run",
    "save_artifacts": "nothing is uploaded but numbers; model.pt stays in the run folder",
    "suffix_run_name": "the W&B run is named after the run folder",
    "notes": "the wandb package takes it from WANDB_NOTES in the environment",
}
"""Key of arcface_torch without one here -> why."""
