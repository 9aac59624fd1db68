"""The loader a config describes."""

from __future__ import annotations

import logging
from pathlib import Path

from recognition.config.schema import Config
from recognition.distributed.world import World, declared_local_size
from recognition.feed.bad_records import LIST_NAME, BadRecordList
from recognition.feed.dataset import Dataset
from recognition.feed.loader import BatchLoader
from recognition.feed.loader_size import choose_workers
from recognition.feed.orders import IdentityOrder, ImageOrder, Order
from recognition.work.system import usable_cores

logger = logging.getLogger(__name__)


def build_loader(config: Config, dataset: Dataset, world: World, folder: Path) -> BatchLoader:
    """Return this rank's loader; its processes start at once. Bad records are listed in the run `folder`."""
    num_workers = choose_workers(
        config.data.num_workers,
        cores=usable_cores(),
        ranks_here=declared_local_size(),
        on_gpu=world.device.type == "cuda",
    )
    logger.info("data: %d loader processes of %d threads per rank", num_workers, config.data.num_threads)
    return BatchLoader(
        dataset,
        seed=config.seed,
        batch_size=config.train.batch_size,
        world=world,
        num_workers=num_workers,
        num_threads=config.data.num_threads,
        device=world.device,
        order=build_order(config, dataset),
        bad_records=bad_record_list(config, folder),
    )


def bad_record_list(config: Config, folder: Path) -> BadRecordList | None:
    """Return the list of the run in `folder`, or None where a bad record ends it."""
    if config.data.on_bad_record == "raise":
        return None
    return BadRecordList(folder / LIST_NAME, budget=config.data.max_bad_records)


def build_order(config: Config, dataset: Dataset) -> Order:
    """Return the order of images that the config asks for."""
    if config.data.images_per_identity is None:
        return ImageOrder(len(dataset), config.seed, block=config.data.shuffle_block)
    return IdentityOrder(dataset.labels(), config.seed, per_identity=config.data.images_per_identity)
