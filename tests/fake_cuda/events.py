"""CUDA's events where nothing happens: who marks a place in the queue, and who waits for one."""

from __future__ import annotations


def note_events() -> list[str]:
    """Put events that note "mark" and "wait" in the place of torch's; return where they do."""
    import torch

    met: list[str] = []

    class Event:
        """Notes who waits for it."""

        def record(self) -> None:
            met.append("mark")

        def synchronize(self) -> None:
            met.append("wait")

    torch.cuda.Event = Event  # type: ignore[misc,assignment]
    return met
