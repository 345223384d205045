"""Product states in the native kernels: where a circuit starts, and the way back from there.

The first gates of every qubit act on |0>, so they cost two numbers per qubit instead of a pass
over the state. Qubits join from the lowest bit up; the way back contracts them from the top.
"""

from __future__ import annotations

from qgraft.simulate.compiled import internal
from qgraft.simulate.lanes import LANES, load, splat, store
from qgraft.simulate.lowering import LANE_BITS


@internal
def _start(chains, slots, matrices, begin, stop, out, at):
    """Write the state (two complex numbers, four rows) of a qubit after its first slots."""
    a, c = splat(matrices, 1.0), splat(matrices, 0.0)
    b = d = c
    for k in range(begin, stop):
        row = slots[chains[k], 4]
        ur, ui = load(matrices, row), load(matrices, row + 1)
        vr, vi = load(matrices, row + 2), load(matrices, row + 3)
        wr, wi = load(matrices, row + 4), load(matrices, row + 5)
        xr, xi = load(matrices, row + 6), load(matrices, row + 7)
        a, b, c, d = (
            ur * a - ui * b + vr * c - vi * d,
            ur * b + ui * a + vr * d + vi * c,
            wr * a - wi * b + xr * c - xi * d,
            wr * b + wi * a + xr * d + xi * c,
        )
    store(out, at, a)
    store(out, at + 1, b)
    store(out, at + 2, c)
    store(out, at + 3, d)


@internal
def _lane_row(scratch, skip, re, im, row):
    """Write the product of the qubits in the lanes, all but `skip`."""
    for lane in range(LANES):
        x, y = 1.0, 0.0
        for bit in range(LANE_BITS):
            if bit != skip:
                at = 4 * bit + 2 * (lane >> bit & 1)
                c, d = scratch[at, 0], scratch[at + 1, 0]
                x, y = x * c - y * d, x * d + y * c
        re[row, lane], im[row, lane] = x, y


@internal
def _first_row(program, scratch, re, im, row):
    if program.shape[4]:
        _lane_row(scratch, -1, re, im, row)
    else:
        store(re, row, splat(re, 1.0))
        store(im, row, splat(im, 0.0))


@internal
def _join(scratch, at, re, im, source, target, size, is_real):
    """Write `|1> x rows` behind `|0> x rows`; the latter may overwrite its source."""
    a, b, c, d = (
        load(scratch, at),
        load(scratch, at + 1),
        load(scratch, at + 2),
        load(scratch, at + 3),
    )
    for k in range(size):
        x = load(re, source + k)
        if is_real:
            store(re, target + size + k, c * x)
            store(re, target + k, a * x)
        else:
            y = load(im, source + k)
            store(re, target + size + k, c * x - d * y)
            store(im, target + size + k, c * y + d * x)
            store(re, target + k, a * x - b * y)
            store(im, target + k, a * y + b * x)


@internal
def product_state(program, matrices, re, im, scratch):
    """Write the state after every qubit's first slots."""
    shape = program.shape
    n_qubits, is_real = shape[0], shape[2] == 1
    for bit in range(n_qubits):
        begin, stop = program.starts[bit], program.starts[bit + 1]
        _start(program.chains, program.slots, matrices, begin, stop, scratch, 4 * bit)
    lane_bits = n_qubits - shape[1]
    _first_row(program, scratch, re, scratch[4 * n_qubits :] if is_real else im, 0)
    for k in range(shape[1]):
        _join(scratch, 4 * (lane_bits + k), re, im, 0, 0, 1 << k, is_real)


@internal
def _contract(scratch, at, pr, pi, lr, li, size, is_real):
    """Take the top qubit out of lambda; return its part `(re, im)` for |0> and |1>."""
    a, b, c, d = (
        load(scratch, at),
        load(scratch, at + 1),
        load(scratch, at + 2),
        load(scratch, at + 3),
    )
    x0 = y0 = x1 = y1 = splat(scratch, 0.0)
    for k in range(size):
        p, u, v = load(pr, size + k), load(lr, k), load(lr, size + k)
        if is_real:
            x0, x1 = x0 + u * p, x1 + v * p
            store(lr, k, a * u + c * v)
        else:
            q, w, z = load(pi, size + k), load(li, k), load(li, size + k)
            x0, y0 = x0 + u * p + w * q, y0 + w * p - u * q
            x1, y1 = x1 + v * p + z * q, y1 + z * p - v * q
            store(lr, k, a * u + b * w + c * v + d * z)
            store(li, k, a * w - b * u + c * z - d * v)
    return x0, y0, x1, y1


@internal
def _slots_back(chains, slots, begin, stop, matrices, x0, y0, x1, y1, traces, scratch, at):
    """Write the traces of a qubit's first slots, last one first."""
    for k in range(stop - 1, begin - 1, -1):
        slot = chains[k]
        _start(chains, slots, matrices, begin, k + 1, scratch, at)
        a, b, c, d = (
            load(scratch, at),
            load(scratch, at + 1),
            load(scratch, at + 2),
            load(scratch, at + 3),
        )
        row, trace = slots[slot, 4], slots[slot, 5]
        store(traces, trace, b * x0 - a * y0)
        store(traces, trace + 1, d * x1 - c * y1)
        store(traces, trace + 2, a * x1 + b * y1 - c * x0 - d * y0)
        store(traces, trace + 3, b * x1 - a * y1 + d * x0 - c * y0)
        ur, ui = load(matrices, row), load(matrices, row + 1)
        vr, vi = load(matrices, row + 2), load(matrices, row + 3)
        wr, wi = load(matrices, row + 4), load(matrices, row + 5)
        xr, xi = load(matrices, row + 6), load(matrices, row + 7)
        x0, y0, x1, y1 = (
            ur * x0 + ui * y0 + wr * x1 + wi * y1,
            ur * y0 - ui * x0 + wr * y1 - wi * x1,
            vr * x0 + vi * y0 + xr * x1 + xi * y1,
            vr * y0 - vi * x0 + xr * y1 - xi * x1,
        )


@internal
def product_back(program, matrices, pr, pi, lr, li, traces, scratch):
    """Write the traces of every qubit's first slots; psi and lambda are used up.

    The product of the lower qubits, needed when a qubit leaves, is kept for every qubit in the
    rows that psi no longer needs: `2**k` rows from row `2**k` on.
    """
    shape = program.shape
    n_qubits, is_real = shape[0], shape[2] == 1
    lane_bits, at = n_qubits - shape[1], 4 * n_qubits
    for bit in range(n_qubits):
        begin, stop = program.starts[bit], program.starts[bit + 1]
        _start(program.chains, program.slots, matrices, begin, stop, scratch, 4 * bit)
    _first_row(program, scratch, pr, scratch[at:] if is_real else pi, 1)
    for k in range(shape[1] - 1):
        _join(scratch, 4 * (lane_bits + k), pr, pi, 1 << k, 2 << k, 1 << k, is_real)
    for k in range(shape[1] - 1, -1, -1):
        bit = lane_bits + k
        x0, y0, x1, y1 = _contract(scratch, 4 * bit, pr, pi, lr, li, 1 << k, is_real)
        begin, stop = program.starts[bit], program.starts[bit + 1]
        _slots_back(
            program.chains,
            program.slots,
            begin,
            stop,
            matrices,
            x0,
            y0,
            x1,
            y1,
            traces,
            scratch,
            at,
        )
    if lane_bits:
        _lanes_back(program, matrices, lr, li, traces, scratch, is_real)


@internal
def _lanes_back(program, matrices, lr, li, traces, scratch, is_real):
    """Take the qubits in the lanes out of the one row that is left."""
    at = 4 * program.shape[0]
    rest_re, rest_im = scratch[at + 4 :], scratch[at + 5 :]
    for bit in range(LANE_BITS):
        _lane_row(scratch, bit, rest_re, rest_im, 0)
        for k in range(4):
            store(scratch, at + k, splat(scratch, 0.0))
        for lane in range(LANES):
            p, q = rest_re[0, lane], rest_im[0, lane]
            u, w = lr[0, lane], (0.0 if is_real else li[0, lane])
            row = at + 2 * (lane >> bit & 1)
            scratch[row, 0] += u * p + w * q
            scratch[row + 1, 0] += w * p - u * q
        _slots_back(
            program.chains,
            program.slots,
            program.starts[bit],
            program.starts[bit + 1],
            matrices,
            load(scratch, at),
            load(scratch, at + 1),
            load(scratch, at + 2),
            load(scratch, at + 3),
            traces,
            scratch,
            at,
        )
