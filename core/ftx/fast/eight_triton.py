"""Rows rounded to 8 bits, each by its own largest magnitude, and factors behind them. Imported where Triton is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ftx.fast.kernels import MOST, Placed

TALL = 64  # rows of a factor that one program places


@triton.jit
def _load(x_at, stride, row, at, start, width):  # type: ignore[no-untyped-def]
    inside = (at >= start) & (at < start + width)
    return tl.load(x_at + row * stride + at - start, inside, 0.0).to(tl.float32)


@triton.jit
def _round(  # type: ignore[no-untyped-def]
    x_at,
    x_stride,
    x_width,
    y_at,
    y_stride,
    y_width,
    z_at,
    z_stride,
    z_width,
    beside_at,
    times_at,
    small_at,
    scale_at,
    room,
    most,
    least,
    count: tl.constexpr,
    block: tl.constexpr,
    more: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    width = x_width
    x = _load(x_at, x_stride, row, at, 0, x_width)
    if count > 1:
        x += _load(y_at, y_stride, row, at, width, y_width)
        width += y_width
    if count > 2:
        x += _load(z_at, z_stride, row, at, width, z_width)
        width += z_width
    largest = tl.max(tl.abs(x))
    small_at += row * (width + room)
    if more:
        behind = tl.arange(0, more)
        filled = behind < room
        side = tl.load(beside_at + row * room + behind, filled, 0.0).to(tl.float32)
        side *= tl.load(times_at + behind, filled, 0.0)
        largest = tl.maximum(largest, tl.max(tl.abs(side)))
    scale = tl.maximum(largest, least) / most
    tl.store(scale_at + row, scale)
    tl.store(small_at + at, (x / scale).to(small_at.dtype.element_ty), at < width)
    if more:
        tl.store(small_at + width + behind, (side / scale).to(small_at.dtype.element_ty), filled)


def eight_bits(
    xs: Sequence[Tensor], beside: tuple[Tensor, Tensor] | None, room: int, least: float
) -> tuple[Tensor, Tensor]:
    """As ftx.fast.kernels.eight_bits."""
    rows, device = len(xs[0]), xs[0].device
    width = sum(x.shape[1] for x in xs)
    room = room if beside is None else beside[0].shape[1]
    if beside is None and room:
        small = torch.zeros(rows, width + room, dtype=torch.uint8, device=device).view(torch.float8_e4m3fn)
    else:
        small = torch.empty(rows, width + room, dtype=torch.float8_e4m3fn, device=device)
    scale = torch.empty(rows, 1, dtype=torch.float32, device=device)
    block = triton.next_power_of_2(width)
    warps = min(16, max(4, block // 1024))
    more = triton.next_power_of_2(room) if beside else 0
    three = [(x, x.stride(0), x.shape[1]) for x in (*xs, xs[0], xs[0])[:3]]
    given = [part for one in three for part in one]
    side = beside or (xs[0], scale)
    _round[(rows,)](*given, *side, small, scale, room, MOST, least, len(xs), block, more, num_warps=warps)
    return small, scale


@triton.jit
def _tile(  # type: ignore[no-untyped-def]
    factor_at,
    down,
    across,
    scale_at,
    times_at,
    into_at,
    stride,
    rows,
    columns,
    alpha,
    tile,
    tall: tl.constexpr,
    wide: tl.constexpr,
):
    row = tile * tall + tl.arange(0, tall)
    column = tl.arange(0, wide)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    factor = tl.load(factor_at + row[:, None] * down + column[None, :] * across, inside, 0.0).to(tl.float32)
    scale = tl.load(scale_at + row, row < rows, 1.0)
    times = tl.load(times_at + column, column < columns, 1.0)
    made = alpha * factor / scale[:, None] / times[None, :]
    tl.store(into_at + row[:, None].to(tl.int64) * stride + column[None, :], made.to(into_at.dtype.element_ty), inside)


@triton.jit
def _place(  # type: ignore[no-untyped-def]
    factor_at,
    down,
    across,
    scale_at,
    times_at,
    into_at,
    stride,
    rows,
    columns,
    alpha,
    tall: tl.constexpr,
    wide: tl.constexpr,
):
    tile = tl.program_id(0)
    _tile(factor_at, down, across, scale_at, times_at, into_at, stride, rows, columns, alpha, tile, tall, wide)


def place(one: Placed) -> None:
    """As ftx.fast.kernels.place, of one."""
    rows, columns = one.factor.shape
    given = (one.factor, *one.factor.stride(), one.scale, one.times, one.into, one.into.stride(0))
    wide = triton.next_power_of_2(columns)
    _place[(triton.cdiv(rows, TALL),)](*given, rows, columns, one.alpha, TALL, wide, num_warps=4)


@triton.jit
def _place_all(table_at, alphas_at, tiles_at, tall: tl.constexpr, wide: tl.constexpr):  # type: ignore[no-untyped-def]
    which = tl.load(tiles_at + 2 * tl.program_id(0))
    tile = tl.load(tiles_at + 2 * tl.program_id(0) + 1)
    entry = table_at + which.to(tl.int64) * 9
    factor_at = tl.load(entry).to(tl.pointer_type(tl.bfloat16))
    scale_at = tl.load(entry + 3).to(tl.pointer_type(tl.float32))
    times_at = tl.load(entry + 4).to(tl.pointer_type(tl.float32))
    into_at = tl.load(entry + 5).to(tl.pointer_type(tl.float8e4nv))
    down, across, stride = tl.load(entry + 1), tl.load(entry + 2), tl.load(entry + 6)
    rows, columns, alpha = tl.load(entry + 7), tl.load(entry + 8), tl.load(alphas_at + which)
    _tile(factor_at, down, across, scale_at, times_at, into_at, stride, rows, columns, alpha, tile, tall, wide)


def at_once(all_placed: Sequence[Placed]) -> bool:
    """Whether one kernel can place them all: factors in bfloat16, and scales and multipliers without gaps."""
    return all(
        one.factor.dtype == torch.bfloat16 and one.scale.stride() == one.times.stride() == (1,) for one in all_placed
    )


class Placing:
    """As ftx.fast.kernels.placing: addresses and sizes of all lie in a table on the GPU."""

    def __init__(self, all_placed: Sequence[Placed]) -> None:
        self._kept = list(all_placed)  # that what the table points to stays
        device = all_placed[0].factor.device
        table = [
            [
                one.factor.data_ptr(),
                *one.factor.stride(),
                *(given.data_ptr() for given in (one.scale, one.times, one.into)),
                one.into.stride(0),
                *one.factor.shape,
            ]
            for one in all_placed
        ]
        tiles = [
            (which, tile)
            for which, one in enumerate(all_placed)
            for tile in range(triton.cdiv(one.factor.shape[0], TALL))
        ]
        self._table = torch.tensor(table, dtype=torch.int64, device=device)
        self._alphas = torch.tensor([one.alpha for one in all_placed], dtype=torch.float32, device=device)
        self._tiles = torch.tensor(tiles, dtype=torch.int32, device=device)
        self._wide = triton.next_power_of_2(max(one.factor.shape[1] for one in all_placed))

    def __call__(self) -> None:
        given = (self._table, self._alphas, self._tiles)
        _place_all[(len(self._tiles),)](*given, TALL, self._wide, num_warps=4)
