"""Matrices of the native kernels: built from the parameters, and traced back to them.

A slot is a product of rotations. Its matrix lies as complex rows of sixteen lanes (re, then im);
equal lanes when it is the same for all samples. On the way back the kernels leave the
anti-Hermitian part of `R = sum psi lambda^dagger` over everything outside the slot's qubits: for a
rotation `exp(-i t sigma / 2)` that acts last, `dL/dt = Re tr(-i/2 sigma R)`, and undoing the
rotation turns R into `g^dagger R g` for the one before it.
"""

from __future__ import annotations

import numpy as np

from qgraft.simulate.compiled import internal
from qgraft.simulate.lanes import LANES, cosine_sine, load, splat, store
from qgraft.simulate.lowering import CONSTANT, PHASE, RX, RY, RZ

WIDEST = 1e4  # beyond, angles are reduced by whole turns first


@internal
def _columns(table, row):
    return table[row, 0], table[row, 1], table[row, 2], table[row, 3], table[row, 4], table[row, 5]


@internal
def _shared_angle(gates, numbers, gate, weights):
    scale, offset = numbers[gate, 0], numbers[gate, 1]
    if gates[gate, 3] == 1:
        return scale * np.float64(weights[gates[gate, 4]]) + offset
    return offset


@internal
def _gate_matrix(gates, constants, gate, angle, out):
    """Write the 2x2 matrix of a gate, `out[row, column, re or im]`."""
    kind = gates[gate, 0]
    if kind == CONSTANT:
        for k in range(8):
            out[k >> 2, k >> 1 & 1, k & 1] = constants[gates[gate, 4], k >> 2, k >> 1 & 1, k & 1]
        return
    for k in range(8):
        out[k >> 2, k >> 1 & 1, k & 1] = 0.0
    half = angle if kind == PHASE else angle / 2
    c, s = np.cos(half), np.sin(half)
    if kind == RX:
        out[0, 0, 0] = out[1, 1, 0] = c
        out[0, 1, 1] = out[1, 0, 1] = -s
    elif kind == RY:
        out[0, 0, 0] = out[1, 1, 0] = c
        out[0, 1, 0], out[1, 0, 0] = -s, s
    else:
        out[1, 1, 0], out[1, 1, 1] = c, s
        out[0, 0, 0] = 1.0 if kind == PHASE else c
        out[0, 0, 1] = 0.0 if kind == PHASE else -s


@internal
def _act(gate, target, control, size, table):
    """Multiply a gate onto the rows of `table[row, column, re or im]`."""
    for low in range(size):
        if low >> target & 1 or (control >= 0 and not low >> control & 1):
            continue
        high = low | 1 << target
        for column in range(size):
            xr, xi = table[low, column, 0], table[low, column, 1]
            yr, yi = table[high, column, 0], table[high, column, 1]
            for row, at in ((0, low), (1, high)):
                ar, ai = gate[row, 0, 0], gate[row, 0, 1]
                br, bi = gate[row, 1, 0], gate[row, 1, 1]
                table[at, column, 0] = ar * xr - ai * xi + br * yr - bi * yi
                table[at, column, 1] = ar * xi + ai * xr + br * yi + bi * yr


@internal
def build_shared(program, weights, matrices):
    """Write the matrices that all samples share; products are formed in float64."""
    gates, numbers, slots = program.gates, program.numbers, program.slots
    constants = program.constants
    gate, table = np.empty((2, 2, 2)), np.empty((4, 4, 2))
    for slot in range(len(slots)):
        first, end, size, per_sample, row, _ = _columns(slots, slot)
        if per_sample:
            continue
        for k in range(size * size):
            table[k // size, k % size, 0] = 1.0 if k // size == k % size else 0.0
            table[k // size, k % size, 1] = 0.0
        for number in range(first, end):
            _gate_matrix(
                gates, constants, number, _shared_angle(gates, numbers, number, weights), gate
            )
            target, control = gates[number, 1], gates[number, 2]
            _act(gate, target, control, size, table)
        for k in range(size * size):
            store(matrices, row + 2 * k, splat(matrices, table[k // size, k % size, 0]))
            store(matrices, row + 2 * k + 1, splat(matrices, table[k // size, k % size, 1]))


@internal
def trace_back_shared(program, weights, traces, gradient):
    """Add to `gradient` what the traces `(n_trace_rows,)` of the shared slots say."""
    gates, numbers, slots = program.gates, program.numbers, program.slots
    constants = program.constants
    gate, inverse = np.empty((2, 2, 2)), np.empty((2, 2, 2))
    table, turned = np.empty((4, 4, 2)), np.empty((4, 4, 2))
    for slot in range(len(slots)):
        first, end, size, per_sample, _, at = _columns(slots, slot)
        if per_sample:
            continue
        if size == 2 and not _has_constant(gates, first, end):
            _trace_back_turn(gates, numbers, first, end, weights, traces, at, gradient)
            continue
        _fill(traces, at, size, table)
        for number in range(end - 1, first - 1, -1):
            angle = _shared_angle(gates, numbers, number, weights)
            target, control = gates[number, 1], gates[number, 2]
            if gates[number, 3] == 1:
                scale, index = numbers[number, 0], gates[number, 4]
                kind = gates[number, 0]
                gradient[index] += scale * _slope(kind, target, control, size, table)
            if number > first:
                _gate_matrix(gates, constants, number, angle, gate)
                for r in range(2):
                    for c in range(2):
                        inverse[r, c, 0], inverse[r, c, 1] = gate[c, r, 0], -gate[c, r, 1]
                _conjugate_by(inverse, target, control, size, table, turned)


@internal
def _has_constant(gates, first, end):
    found = False
    for gate in range(first, end):
        found |= gates[gate, 0] == CONSTANT
    return found


@internal
def _trace_back_turn(gates, numbers, first, end, weights, traces, at, gradient):
    """Trace one qubit's rotations back with `K_a = Im tr(sigma_a R)`, which they only turn."""
    whole, kz = traces[at] + traces[at + 1], traces[at] - traces[at + 1]
    ky, kx = traces[at + 2], traces[at + 3]
    for gate in range(end - 1, first - 1, -1):
        kind = gates[gate, 0]
        if gates[gate, 3] == 1:
            if kind == PHASE:
                slope = (kz - whole) / 2
            else:
                slope = (kx if kind == RX else ky if kind == RY else kz) / 2
            gradient[gates[gate, 4]] += numbers[gate, 0] * slope
        if gate > first:
            angle = _shared_angle(gates, numbers, gate, weights)
            c, s = np.cos(angle), np.sin(angle)
            if kind == RX:
                ky, kz = c * ky + s * kz, c * kz - s * ky
            elif kind == RY:
                kz, kx = c * kz + s * kx, c * kx - s * kz
            else:
                kx, ky = c * kx + s * ky, c * ky - s * kx


@internal
def _fill(traces, at, size, table):
    """Write the anti-Hermitian matrix from its diagonal and upper triangle."""
    for k in range(size):
        table[k, k, 0], table[k, k, 1] = 0.0, traces[at + k]
    at += size
    for r in range(size):
        for c in range(r + 1, size):
            re, im = traces[at] / 2, traces[at + 1] / 2
            table[r, c, 0], table[r, c, 1] = re, im
            table[c, r, 0], table[c, r, 1] = -re, im
            at += 2


@internal
def _conjugate_by(inverse, target, control, size, table, turned):
    """Replace R by `g^dagger R g`: act on the rows, take the adjoint, act again."""
    for _ in range(2):
        _act(inverse, target, control, size, table)
        for r in range(size):
            for c in range(size):
                turned[r, c, 0], turned[r, c, 1] = table[c, r, 0], -table[c, r, 1]
        for r in range(size):
            for c in range(size):
                table[r, c, 0], table[r, c, 1] = turned[r, c, 0], turned[r, c, 1]


@internal
def _slope(kind, target, control, size, table):
    """Return `Re tr(A R)`, with `A = -i/2 sigma` or `i |1><1|`, where a control is set."""
    slope = 0.0
    for low in range(size):
        if low >> target & 1 or (control >= 0 and not low >> control & 1):
            continue
        high = low | 1 << target
        if kind == RX:
            slope += 0.5 * (table[low, high, 1] + table[high, low, 1])
        elif kind == RY:
            slope += 0.5 * (table[low, high, 0] - table[high, low, 0])
        elif kind == RZ:
            slope += 0.5 * (table[low, low, 1] - table[high, high, 1])
        else:
            slope -= table[high, high, 1]
    return slope


@internal
def _sample_angle(gates, numbers, gate, samples, angles, weights, out):
    """Write a gate's angle for every lane; lanes without a sample get zero."""
    scale, offset = numbers[gate, 0], numbers[gate, 1]
    source, index = gates[gate, 3], gates[gate, 4]
    for lane in range(LANES):
        sample = samples[lane]
        if source == 2:
            angle = scale * angles[sample, index] + offset if sample >= 0 else 0.0
        else:
            angle = scale * weights[index] + offset if source == 1 else offset
        out[0, lane] = np.fmod(angle, 4 * np.pi) if abs(angle) > WIDEST else angle


@internal
def build_samples(program, samples, angles, weights, matrices, scratch):
    """Write the 2x2 matrices that differ between the samples of the lanes."""
    gates, numbers, slots = program.gates, program.numbers, program.slots
    one, zero = splat(matrices, 1.0), splat(matrices, 0.0)
    half = splat(matrices, 0.5)
    for slot in range(len(slots)):
        first, end, _, per_sample, row, _ = _columns(slots, slot)
        if not per_sample:
            continue
        for k in range(8):
            store(matrices, row + k, one if k == 0 or k == 6 else zero)
        for gate in range(first, end):
            _sample_angle(gates, numbers, gate, samples, angles, weights, scratch)
            kind = gates[gate, 0]
            t = load(scratch, 0)
            c, s = cosine_sine(scratch, t if kind == PHASE else t * half)
            for column in range(2):
                x, y = row + 2 * column, row + 4 + 2 * column
                xr, xi = load(matrices, x), load(matrices, x + 1)
                yr, yi = load(matrices, y), load(matrices, y + 1)
                if kind == RX:
                    xr, xi, yr, yi = (
                        c * xr + s * yi,
                        c * xi - s * yr,
                        c * yr + s * xi,
                        c * yi - s * xr,
                    )
                elif kind == RY:
                    xr, xi, yr, yi = (
                        c * xr - s * yr,
                        c * xi - s * yi,
                        c * yr + s * xr,
                        c * yi + s * xi,
                    )
                else:
                    yr, yi = c * yr - s * yi, c * yi + s * yr
                    if kind == RZ:
                        xr, xi = c * xr + s * xi, c * xi - s * xr
                store(matrices, x, xr)
                store(matrices, x + 1, xi)
                store(matrices, y, yr)
                store(matrices, y + 1, yi)


@internal
def trace_back_samples(program, samples, angles, weights, traces, scratch, by_angle, by_weight):
    """Add the gradients of the per-sample slots of one tile.

    A 2x2 trace is kept as `K_a = Im tr(sigma_a R)`; undoing a rotation turns that vector.
    """
    gates, numbers, slots = program.gates, program.numbers, program.slots
    half = splat(traces, 0.5)
    for slot in range(len(slots)):
        first, end, _, per_sample, _, at = _columns(slots, slot)
        if not per_sample:
            continue
        upper, lower = load(traces, at), load(traces, at + 1)
        ky, kx, kz = load(traces, at + 2), load(traces, at + 3), upper - lower
        for gate in range(end - 1, first - 1, -1):
            _sample_angle(gates, numbers, gate, samples, angles, weights, scratch)
            c, s = cosine_sine(scratch, load(scratch, 0))
            kind = gates[gate, 0]
            if kind == RX:
                store(scratch, 1, kx * half)
                ky, kz = c * ky + s * kz, c * kz - s * ky
            elif kind == RY:
                store(scratch, 1, ky * half)
                kz, kx = c * kz + s * kx, c * kx - s * kz
            else:
                store(scratch, 1, kz * half if kind == RZ else (kz - upper - lower) * half)
                kx, ky = c * kx + s * ky, c * ky - s * kx
            scale, index = numbers[gate, 0], gates[gate, 4]
            for lane in range(LANES):
                if samples[lane] >= 0:
                    if gates[gate, 3] == 2:
                        by_angle[samples[lane], index] += scale * scratch[1, lane]
                    elif gates[gate, 3] == 1:
                        by_weight[index] += scale * scratch[1, lane]
