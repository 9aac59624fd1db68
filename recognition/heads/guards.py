"""What a head refuses in one line, on every rank alike."""

from __future__ import annotations

from collections.abc import Sequence

from recognition.distributed.collectives import gather_numbers, hosts_can_meet
from recognition.distributed.world import World
from recognition.errors import CheckpointError, ConfigError
from recognition.heads.choosing import Sampling
from recognition.heads.margins import Margin


def check_update(update: str, centers_format: str, sampling: Sampling) -> None:
    """Raise ConfigError where an optimizer of one's own could not keep, or a sample not leave, what is asked for."""
    if update == "autograd" and centers_format != "float32":
        raise ConfigError(
            f"head.update: found 'autograd' with {centers_format} centers, but an optimizer moves rows of float32; use "
            "head.update=fused"
        )
    if sampling.correction == "logq" and sampling.negatives == "nearest":
        raise ConfigError(
            "head.sampling_correction: found 'logq' with negatives 'nearest', where no class is drawn by chance; "
            "expected random negatives; leave it at 'none'"
        )
    if sampling.unsampled == "frozen" and sampling.rate < 1 and update == "autograd":
        raise ConfigError(
            f"head.unsampled: found 'frozen' with sample_rate {sampling.rate:g} and update 'autograd', whose optimizer "
            "moves every row by its momentum and decay; set head.unsampled=coast, or head.update=fused"
        )


def check_margin(margin: Margin, sub_centers: int, threshold: float, label_smoothing: float) -> None:
    """Raise ConfigError where a head of this kind cannot do what is asked for."""
    name = type(margin).__name__
    if margin.rows == "raw" and sub_centers > 1:
        raise ConfigError(
            f"head.sub_centers: found {sub_centers} with {name}, whose centers are of any length, so that none of them "
            "is the nearest; use head.sub_centers=1"
        )
    if margin.rows != "unit" and threshold:
        raise ConfigError(
            f"head.interclass_filtering_threshold: found {threshold:g} with {name}, whose negatives are no cosines; "
            "expected 0; remove the key"
        )
    if not 0 <= label_smoothing < 1:
        raise ConfigError(
            f"head.label_smoothing: found {label_smoothing:g}; expected at least 0 and below 1; correct it"
        )
    if label_smoothing and margin.sums != "softmax":
        raise ConfigError(
            f"head.label_smoothing: found {label_smoothing:g} with {name}, which has no softmax to smooth; expected 0; "
            "remove the key"
        )


def check_ranks(batch: int, *, keeps_own: bool, world: World) -> None:
    """Raise ConfigError on all ranks unless each brings as many rows and `keeps_own` centers.

    Collective: one gather of two numbers, between the hosts where the group has a backend for them.
    """
    device = "cpu" if hosts_can_meet(world) else world.device
    batches, kept = zip(*gather_numbers([batch, int(keeps_own)], world, device=device), strict=True)
    if not all(kept):
        raise ConfigError(
            "head: its centers were replaced by those of rank 0, which DistributedDataParallel does to whatever it "
            "wraps; expected each rank to keep its own; wrap the backbone alone and call the head beside it"
        )
    if len(set(batches)) > 1:
        raise ConfigError(
            f"head: found {', '.join(map(str, batches))} embeddings on ranks 0 to {world.size - 1}; expected as many "
            "on every rank; drop the last, smaller batch of an epoch (drop_last=True)"
        )


def check_span(held: Sequence[int], own: Sequence[int], world: World) -> None:
    """Raise CheckpointError unless a state's span (first class, end, all classes) is that of this rank."""
    if list(held) != list(own):
        raise CheckpointError(
            f"head: the state is of classes {_spelled(held)}; expected {_spelled(own)}, those of rank {world.rank} of "
            f"{world.size}; a state_dict is one rank's rows: for another number of ranks use save_head(head, folder) "
            "and load_head(head, folder)"
        )


def check_kind(holds_second_moment: bool, kind: str, place: str) -> None:
    """Raise CheckpointError unless what is held of the centers is of an optimizer of `kind`."""
    held = "adamw" if holds_second_moment else "sgd"
    if held != kind:
        raise CheckpointError(
            f"{place}: the centers were moved by {held}; expected {kind}, which keeps other moments of them; set "
            f"head.optimizer={held}, or in a program make head.optimizer(kind={held!r}, ...) before loading"
        )


def check_unsampled(held: bool, own: bool, place: object) -> None:
    """Raise CheckpointError unless a state's rows coast where the head's do; those that do are behind as stored."""
    if held != own:
        kinds = ["coast" if coasts else "frozen" for coasts in (held, own)]
        raise CheckpointError(
            f"{place}: holds centers whose unsampled rows are {kinds[0]!r}; expected {kinds[1]!r}; set "
            f"head.unsampled={kinds[0]}, with the sample_rate they were trained with"
        )


def _spelled(span: Sequence[int]) -> str:
    start, stop, total = span
    return f"{start:,} to {stop - 1:,} of {total:,}"
