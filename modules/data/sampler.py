"""Which clips a rank sees in an epoch, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass

from torch.utils.data import DistributedSampler


@dataclass(frozen=True)
class Draw:
    """One clip to load; the epoch goes along because persistent workers do not see a new epoch otherwise."""

    epoch: int
    index: int


class ClipSampler(DistributedSampler):
    """Disjoint, newly shuffled clips for each rank and epoch; works unchanged with one process.

    Where there are at least as many clips as ranks, the few that do not divide evenly are left out of the epoch
    (other ones each time) rather than given to two ranks.

    Args:
        clips: what is drawn from; only its length counts.
        rank, world_size: this process and how many there are.
        seed: the order of an epoch follows from the seed and the epoch's number alone.
    """

    def __init__(self, clips: Sized, rank: int, world_size: int, seed: int) -> None:
        super().__init__(
            clips,  # type: ignore[arg-type]
            num_replicas=world_size,
            rank=rank,
            shuffle=True,
            seed=seed,
            drop_last=len(clips) >= world_size,
        )
        self.skip = 0

    def set_position(self, epoch: int, skip: int = 0) -> None:
        """Go to ``epoch`` and leave out the first ``skip`` clips of it (done before an interruption)."""
        self.set_epoch(epoch)
        self.skip = skip

    def __iter__(self) -> Iterator[Draw]:  # type: ignore[override]
        indices = list(super().__iter__())
        return iter([Draw(self.epoch, index) for index in indices[self.skip :]])
