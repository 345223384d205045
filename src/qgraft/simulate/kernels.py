"""Compiled kernels that run a lowered circuit forwards and backwards over tiles of samples.

A tile is a state `(rows, 16)` per part (re, im) and one buffer more for permutations. Forward
leaves psi in place; backward turns `lambda = dL/dpsi` and psi back step by step and collects one
trace per slot, so nothing but the final state is ever kept. Every tile is computed alone and the
tiles are summed in order: threads cannot change a bit.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from qgraft.simulate.compiled import compiled, internal
from qgraft.simulate.lanes import LANES, load, splat, store, total
from qgraft.simulate.lowering import BLOCK, PERMUTE, TURN
from qgraft.simulate.product import product_back, product_state
from qgraft.simulate.readout import lift, measure
from qgraft.simulate.slots import (
    build_samples,
    build_shared,
    trace_back_samples,
    trace_back_shared,
)


@njit(error_model="numpy", inline="always")
def _spread(k, bit):
    """Insert a zero at `bit`."""
    return ((k >> bit) << (bit + 1)) | (k & ((1 << bit) - 1))


@internal
def _row_of(k, low, middle, high):
    k = _spread(k, low)
    if middle >= 0:
        k = _spread(k, middle)
        if high >= 0:
            k = _spread(k, high)
    return k


@internal
def _sorted_bits(target, control, second):
    low = target if control < 0 else min(target, control)
    middle = -1 if control < 0 else max(target, control)
    if second < 0:
        return low, middle, -1
    if second > middle:
        return low, middle, second
    return min(low, second), max(low, second), middle


@internal
def _turn(re, im, m, row, target, control, second, is_real):
    low, middle, high = _sorted_bits(target, control, second)
    count = len(re) >> (1 + (control >= 0) + (second >= 0))
    fixed = (1 << control if control >= 0 else 0) | (1 << second if second >= 0 else 0)
    ar, ai, br, bi = load(m, row), load(m, row + 1), load(m, row + 2), load(m, row + 3)
    cr, ci, dr, di = load(m, row + 4), load(m, row + 5), load(m, row + 6), load(m, row + 7)
    for k in range(count):
        i = _row_of(k, low, middle, high) | fixed
        j = i | 1 << target
        xr, yr = load(re, i), load(re, j)
        if is_real:
            store(re, i, ar * xr + br * yr)
            store(re, j, cr * xr + dr * yr)
        else:
            xi, yi = load(im, i), load(im, j)
            store(re, i, ar * xr - ai * xi + br * yr - bi * yi)
            store(im, i, ar * xi + ai * xr + br * yi + bi * yr)
            store(re, j, cr * xr - ci * xi + dr * yr - di * yi)
            store(im, j, cr * xi + ci * xr + dr * yi + di * yr)


@internal
def _trace(pr, pi, lr, li, target, control, second, is_real, traces, at):
    """Write the anti-Hermitian part of the 2x2 matrix `sum psi lambda^dagger`."""
    low, middle, high = _sorted_bits(target, control, second)
    count = len(pr) >> (1 + (control >= 0) + (second >= 0))
    fixed = (1 << control if control >= 0 else 0) | (1 << second if second >= 0 else 0)
    upper = lower = skew_re = skew_im = splat(traces, 0.0)
    for k in range(count):
        i = _row_of(k, low, middle, high) | fixed
        j = i | 1 << target
        xr, yr, ur, vr = load(pr, i), load(pr, j), load(lr, i), load(lr, j)
        if is_real:
            skew_re = skew_re + xr * vr - yr * ur
        else:
            xi, yi, ui, vi = load(pi, i), load(pi, j), load(li, i), load(li, j)
            upper = upper + xi * ur - xr * ui
            lower = lower + yi * vr - yr * vi
            skew_re = skew_re + xr * vr + xi * vi - yr * ur - yi * ui
            skew_im = skew_im + xi * vr - xr * vi + yi * ur - yr * ui
    store(traces, at, upper)
    store(traces, at + 1, lower)
    store(traces, at + 2, skew_re)
    store(traces, at + 3, skew_im)


@internal
def _product_row(m, at, x0r, x0i, x1r, x1i, x2r, x2i, x3r, x3i):
    a, b, c, d = load(m, at), load(m, at + 1), load(m, at + 2), load(m, at + 3)
    e, f, g, h = load(m, at + 4), load(m, at + 5), load(m, at + 6), load(m, at + 7)
    re = a * x0r - b * x0i + c * x1r - d * x1i + e * x2r - f * x2i + g * x3r - h * x3i
    im = a * x0i + b * x0r + c * x1i + d * x1r + e * x2i + f * x2r + g * x3i + h * x3r
    return re, im


@internal
def _block(re, im, m, row, first, second):
    """Apply a 4x4 matrix; `first` is the bit that counts 1 in its rows, `second` counts 2."""
    low, high = min(first, second), max(first, second)
    for k in range(len(re) >> 2):
        i0 = _row_of(k, low, high, -1)
        i1, i2 = i0 | 1 << first, i0 | 1 << second
        i3 = i1 | i2
        x0r, x0i, x1r, x1i = load(re, i0), load(im, i0), load(re, i1), load(im, i1)
        x2r, x2i, x3r, x3i = load(re, i2), load(im, i2), load(re, i3), load(im, i3)
        y0r, y0i = _product_row(m, row, x0r, x0i, x1r, x1i, x2r, x2i, x3r, x3i)
        y1r, y1i = _product_row(m, row + 8, x0r, x0i, x1r, x1i, x2r, x2i, x3r, x3i)
        y2r, y2i = _product_row(m, row + 16, x0r, x0i, x1r, x1i, x2r, x2i, x3r, x3i)
        y3r, y3i = _product_row(m, row + 24, x0r, x0i, x1r, x1i, x2r, x2i, x3r, x3i)
        store(re, i0, y0r)
        store(im, i0, y0i)
        store(re, i1, y1r)
        store(im, i1, y1i)
        store(re, i2, y2r)
        store(im, i2, y2i)
        store(re, i3, y3r)
        store(im, i3, y3i)


@internal
def _adjoint(m, row, size, out):
    """Write the adjoint of a matrix to the same rows of `out`."""
    for r in range(size):
        for c in range(size):
            at, to = row + 2 * (size * c + r), row + 2 * (size * r + c)
            store(out, to, load(m, at))
            store(out, to + 1, splat(m, 0.0) - load(m, at + 1))


@internal
def _skew(pr, pi, lr, li, i, j, traces, at):
    xr, xi, yr, yi = load(pr, i), load(pi, i), load(pr, j), load(pi, j)
    ur, ui, vr, vi = load(lr, i), load(li, i), load(lr, j), load(li, j)
    real = xr * vr + xi * vi - yr * ur - yi * ui
    imag = xi * vr - xr * vi + yi * ur - yr * ui
    store(traces, at, load(traces, at) + real)
    store(traces, at + 1, load(traces, at + 1) + imag)


@internal
def _trace_block(pr, pi, lr, li, first, second, traces, at):
    """Write the anti-Hermitian part of the 4x4 matrix `sum psi lambda^dagger`."""
    low, high = min(first, second), max(first, second)
    for k in range(16):
        store(traces, at + k, splat(traces, 0.0))
    for k in range(len(pr) >> 2):
        i0 = _row_of(k, low, high, -1)
        i1, i2 = i0 | 1 << first, i0 | 1 << second
        i3 = i1 | i2
        d0 = load(pi, i0) * load(lr, i0) - load(pr, i0) * load(li, i0)
        d1 = load(pi, i1) * load(lr, i1) - load(pr, i1) * load(li, i1)
        d2 = load(pi, i2) * load(lr, i2) - load(pr, i2) * load(li, i2)
        d3 = load(pi, i3) * load(lr, i3) - load(pr, i3) * load(li, i3)
        store(traces, at, load(traces, at) + d0)
        store(traces, at + 1, load(traces, at + 1) + d1)
        store(traces, at + 2, load(traces, at + 2) + d2)
        store(traces, at + 3, load(traces, at + 3) + d3)
        _skew(pr, pi, lr, li, i0, i1, traces, at + 4)
        _skew(pr, pi, lr, li, i0, i2, traces, at + 6)
        _skew(pr, pi, lr, li, i0, i3, traces, at + 8)
        _skew(pr, pi, lr, li, i1, i2, traces, at + 10)
        _skew(pr, pi, lr, li, i1, i3, traces, at + 12)
        _skew(pr, pi, lr, li, i2, i3, traces, at + 14)


@internal
def _permute(old, new, low, high, n_qubits, packed):
    """Write `new[i] = old[high[i's upper bits] ^ low[i's lower bits]]`."""
    size = 1 << (n_qubits // 2)
    if packed:
        source, target = old.reshape(-1), new.reshape(-1)
        for upper in range(1 << (n_qubits - n_qubits // 2)):
            base = high[upper]
            for lower in range(size):
                target[upper * size + lower] = source[base ^ low[lower]]
    else:
        for upper in range(1 << (n_qubits - n_qubits // 2)):
            base = high[upper]
            for lower in range(size):
                store(new, upper * size + lower, load(old, base ^ low[lower]))


@internal
def _samples(tile, packed, batch, samples):
    """Write which sample each lane holds, -1 for none."""
    for lane in range(LANES):
        sample = tile if packed else tile * LANES + lane
        samples[lane] = sample if sample < batch else -1


@internal
def _load_amplitudes(amplitudes, samples, packed, re, im, is_real):
    """Write the normalised amplitudes; lanes without a sample get zeros."""
    for lane in range(1 if packed else LANES):
        sample = samples[lane]
        norm = 0.0
        if sample >= 0:
            for k in range(amplitudes.shape[1]):
                norm += np.float64(amplitudes[sample, k]) ** 2
        factor = 1.0 / np.sqrt(norm) if norm > 0.0 else 0.0
        if packed:
            flat = re.reshape(-1)
            for k in range(amplitudes.shape[1]):
                flat[k] = amplitudes[sample, k] * factor
        else:
            for k in range(amplitudes.shape[1]):
                re[k, lane] = amplitudes[sample, k] * factor if sample >= 0 else 0.0
    if not is_real:
        for row in range(len(im)):
            store(im, row, splat(im, 0.0))


@internal
def _amplitudes_back(amplitudes, samples, packed, lr, gradient):
    """Write the gradient of the amplitudes through their normalisation."""
    flat = lr.reshape(-1)
    step = 1 if packed else LANES
    for lane in range(1 if packed else LANES):
        sample = samples[lane]
        if sample < 0:
            continue
        norm = along = 0.0
        for k in range(amplitudes.shape[1]):
            value = np.float64(amplitudes[sample, k])
            norm += value**2
            along += value * flat[k * step + lane]
        factor = 1.0 / np.sqrt(norm) if norm > 0.0 else 0.0
        for k in range(amplitudes.shape[1]):
            away = flat[k * step + lane] - amplitudes[sample, k] * along * factor * factor
            gradient[sample, k] = factor * away


@compiled
def forward(program, inputs, weights, states, keep, first, stride, out):
    """Run every `stride`-th tile from `first` on and write its rows of `out`.

    `states` is `(n, parts, rows, 16)`: one per tile if they are to be kept, else one to reuse.
    """
    shape = program.shape
    n_qubits, is_real, packed = shape[0], shape[2] == 1, shape[4] == 1
    matrices = np.empty((shape[6], LANES), inputs.dtype)
    scratch = np.empty((8 * n_qubits + 8, LANES), inputs.dtype)
    samples = np.empty(LANES, np.int64)
    steps, slots, affine = program.steps, program.slots, program.affine
    build_shared(program, weights, matrices)
    batch = len(inputs)
    tiles = batch if packed else (batch + LANES - 1) // LANES
    for tile in range(first, tiles, stride):
        state = states[tile if keep else 0]
        re, spare = state[0], state[len(state) - 1]
        im = re if is_real else state[1]
        _samples(tile, packed, batch, samples)
        build_samples(program, samples, inputs, weights, matrices, scratch)
        if shape[3]:
            _load_amplitudes(inputs, samples, packed, re, im, is_real)
        else:
            product_state(program, matrices, re, im, scratch)
        for step in range(len(steps)):
            kind, number = steps[step, 0], steps[step, 1]
            a, b, c = steps[step, 2], steps[step, 3], steps[step, 4]
            if kind == TURN:
                _turn(re, im, matrices, slots[number, 4], a, b, c, is_real)
            elif kind == BLOCK:
                _block(re, im, matrices, slots[number, 4], a, b)
            else:
                low, high = affine[number, 0], affine[number, 1]
                _permute(re, spare, low, high, n_qubits, packed)
                re, spare = spare, re
                if not is_real:
                    _permute(im, spare, low, high, n_qubits, packed)
                    im, spare = spare, im
        measure(program, samples, re, im, spare, out)


@compiled
def backward(
    program, inputs, weights, states, first, stride, by_output, by_input, by_weight, by_slot
):
    """Turn the kept states of every `stride`-th tile back and write all gradients.

    From `by_output` `(batch, n_outputs)`: added to the zeros `by_input` `(batch, n_inputs)` and
    `by_weight` `(tiles, n_weights)`, the latter for weights in per-sample slots; written to
    `by_slot` `(tiles, n_trace_rows)` for shared slots.
    """
    shape = program.shape
    n_qubits, is_real, packed = shape[0], shape[2] == 1, shape[4] == 1
    matrices = np.empty((shape[6], LANES), inputs.dtype)
    traces = np.empty((shape[7], LANES), inputs.dtype)
    scratch = np.empty((8 * n_qubits + 8, LANES), inputs.dtype)
    adjoints = np.empty((shape[6], LANES), inputs.dtype)
    samples = np.empty(LANES, np.int64)
    steps, slots, affine = program.steps, program.slots, program.affine
    build_shared(program, weights, matrices)
    batch = len(inputs)
    tiles = batch if packed else (batch + LANES - 1) // LANES
    parts = states.shape[1]
    other = np.empty((1 if is_real else 2, states.shape[2], LANES), inputs.dtype)
    for tile in range(first, tiles, stride):
        turned = -shape[5]
        pr, spare = states[tile, turned % parts], states[tile, (turned + parts - 1) % parts]
        pi = pr if is_real else states[tile, (turned + 1) % parts]
        lr = other[0]
        li = lr if is_real else other[1]
        _samples(tile, packed, batch, samples)
        build_samples(program, samples, inputs, weights, matrices, scratch)
        lift(program, samples, by_output, pr, pi, lr, li, spare)
        for step in range(len(steps) - 1, -1, -1):
            kind, number = steps[step, 0], steps[step, 1]
            a, b, c = steps[step, 2], steps[step, 3], steps[step, 4]
            if kind != PERMUTE:
                row, at = slots[number, 4], slots[number, 5]
                _adjoint(matrices, row, slots[number, 2], adjoints)
            if kind == TURN:
                _trace(pr, pi, lr, li, a, b, c, is_real, traces, at)
                _turn(pr, pi, adjoints, row, a, b, c, is_real)
                _turn(lr, li, adjoints, row, a, b, c, is_real)
            elif kind == BLOCK:
                _trace_block(pr, pi, lr, li, a, b, traces, at)
                _block(pr, pi, adjoints, row, a, b)
                _block(lr, li, adjoints, row, a, b)
            else:
                low, high = affine[number, 2], affine[number, 3]
                _permute(pr, spare, low, high, n_qubits, packed)
                pr, spare = spare, pr
                _permute(lr, spare, low, high, n_qubits, packed)
                lr, spare = spare, lr
                if not is_real:
                    _permute(pi, spare, low, high, n_qubits, packed)
                    pi, spare = spare, pi
                    _permute(li, spare, low, high, n_qubits, packed)
                    li, spare = spare, li
        if shape[3]:
            _amplitudes_back(inputs, samples, packed, lr, by_input)
        else:
            product_back(program, matrices, pr, pi, lr, li, traces, scratch)
        trace_back_samples(
            program, samples, inputs, weights, traces, scratch, by_input, by_weight[tile]
        )
        for row in range(shape[7]):
            by_slot[tile, row] = total(load(traces, row))


@compiled
def collect(program, weights, by_slot, by_weight, gradient):
    """Add the gradient of the weights: tiles summed in order, then traced back."""
    traces = np.zeros(by_slot.shape[1])
    for tile in range(len(by_slot)):
        for k in range(by_slot.shape[1]):
            traces[k] += by_slot[tile, k]
        for k in range(len(gradient)):
            gradient[k] += by_weight[tile, k]
    trace_back_shared(program, weights, traces, gradient)
