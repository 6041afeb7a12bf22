"""Micro-batches, made by threads ahead of the loop: pictures are decoded and resized while the model computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ftx.data.collate import collate, pinned
from ftx.train.loss import asked
from ftx.train.schedule import micro_batches

if TYPE_CHECKING:
    from ftx.data.store import Sample
    from ftx.plan import Plan

    Batch = dict[str, Any]

MOST_WORKERS = 8


class Batches:
    """The micro-batches of process `rank` of `world`, step after step from `first`; to be used as a context."""

    def __init__(
        self,
        plan: Plan,
        rank: int,
        world: int,
        first: int,
        *,
        end_to_end: bool = False,
        pinned: bool = False,
        even: bool = False,
    ) -> None:
        """`end_to_end` as collate has it; `pinned`: in memory that a GPU reads while the host goes on; `even`: in the
        few shapes that recordings want."""
        self._plan, self._rank, self._world = plan, rank, world
        self._end_to_end, self._pinned, self._even = end_to_end, pinned, even
        self._workers = plan.recipe.data.workers
        if self._workers is None:
            self._workers = min(MOST_WORKERS, os.cpu_count() or 1) if plan.images else int(pinned)
        self._pool = ThreadPoolExecutor(self._workers) if self._workers else None
        self._stream = self._made(first)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def of_step(self, rows: list[int]) -> Iterator[tuple[Batch, bool]]:
        """The micro-batches of the next step, whose `rows` these are, and whether each counts.

        A process without rows of its own computes some all the same, as collectives need, and counts nothing.
        """
        for part in micro_batches(rows, self._plan.micro_batch_size, self._rank, self._world):
            yield next(self._stream), bool(part)

    def _made(self, first: int) -> Iterator[Batch]:
        if self._pool is None:
            yield from map(self._batch, self._held(first))
            return
        ahead: deque[Future[Batch]] = deque()
        for held in self._held(first):
            ahead.append(self._pool.submit(self._batch, held))
            if len(ahead) > 2 * (self._workers or 1):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _held(self, first: int) -> Iterator[list[list[Sample]]]:
        """The samples of each micro-batch; read here, in one thread, as a stream can only be read in order."""
        plan = self._plan
        train = plan.recipe.train
        for step in range(first, plan.steps):
            rows = plan.feed.rows_of(step, train.global_batch_size, train.seed)
            for part in micro_batches(rows, plan.micro_batch_size, self._rank, self._world):
                yield [plan.feed.samples(i) for i in part or rows[:1]]

    def _batch(self, held: list[list[Sample]]) -> Batch:
        plan = self._plan
        made = collate(
            held,
            plan.tokenizer.pad_id,
            isolated=plan.feed.isolated,
            end_to_end=self._end_to_end,
            images=plan.images,
        )
        made.update(asked(made.pop("labels")))
        if self._even:
            from ftx.fast.graph import even_out

            made = even_out(made, plan.micro_batch_size * plan.recipe.data.max_length, plan.tokenizer.pad_id)
        return pinned(made) if self._pinned else made
