"""Read-out in the native kernels: expectation values and probabilities, and their gradient.

All diagonal words come from one table of |amplitude|^2: a bit that no output looks at is summed
over, a bit of a Z word is replaced by sum and difference (a Walsh-Hadamard transform), a bit of an
outcome stays. Sums are pairwise, so float32 stays exact to 1e-7 with a million amplitudes.
"""

from __future__ import annotations

from qgraft.simulate.compiled import internal
from qgraft.simulate.lanes import LANES, load, splat, store


@internal
def _parity(number):
    number ^= number >> 16
    number ^= number >> 8
    number ^= number >> 4
    number ^= number >> 2
    number ^= number >> 1
    return number & 1


@internal
def _transform(table, rows, inner):
    """Replace pairs `inner` rows apart by sum and difference."""
    for outer in range(0, rows, 2 * inner):
        for k in range(outer, outer + inner):
            x, y = load(table, k), load(table, k + inner)
            store(table, k, x + y)
            store(table, k + inner, x - y)


@internal
def _reduce(readout, row_bits, table):
    """Transform, sum or keep every bit of the row number, from the highest down."""
    rows = 1 << row_bits
    lane_bits = len(readout) - row_bits
    for bit in range(row_bits - 1, -1, -1):
        kind, inner = readout[lane_bits + bit], 1 << bit
        if kind == 2:
            _transform(table, rows, inner)
        elif kind == 0:
            for outer in range(rows >> (bit + 1)):
                for k in range(inner):
                    x = load(table, 2 * outer * inner + k)
                    y = load(table, 2 * outer * inner + inner + k)
                    store(table, outer * inner + k, x + y)
            rows >>= 1


@internal
def _kept_rows(readout, row_bits):
    rows = 1
    for bit in range(len(readout) - row_bits, len(readout)):
        if readout[bit]:
            rows *= 2
    return rows


@internal
def _expand(readout, row_bits, table):
    """Apply the transpose of `_reduce`, from the lowest bit up."""
    rows = _kept_rows(readout, row_bits)
    lane_bits = len(readout) - row_bits
    for bit in range(row_bits):
        kind, inner = readout[lane_bits + bit], 1 << bit
        if kind == 2:
            _transform(table, rows, inner)
        elif kind == 0:
            for outer in range((rows >> bit) - 1, -1, -1):
                for k in range(inner):
                    x = load(table, outer * inner + k)
                    store(table, (2 * outer + 1) * inner + k, x)
                    store(table, 2 * outer * inner + k, x)
            rows <<= 1


@internal
def measure(program, samples, re, im, table, out):
    """Write the outputs of one tile; `table` is a buffer of the size of the state."""
    is_real, packed = program.shape[2] == 1, program.shape[4] == 1
    for row in range(len(re)):
        x = load(re, row)
        square = x * x
        if not is_real:
            y = load(im, row)
            square = square + y * y
        store(table, row, square)
    _reduce(program.readout, program.shape[1], table)
    for k in range(len(program.outputs)):
        row, pattern = program.outputs[k, 0], program.outputs[k, 1]
        sign = program.outputs[k, 2]
        if packed:
            value = 0.0
            if row >= 0:
                for lane in range(LANES):
                    value += program.patterns[pattern, lane] * table[row, lane]
            out[samples[0], k] = sign * value
        else:
            for lane in range(LANES):
                if samples[lane] >= 0:
                    out[samples[lane], k] = sign * table[row, lane] if row >= 0 else 0.0
    for word in range(len(program.words)):
        _measure_word(program, word, samples, re, im, out)


@internal
def _measure_word(program, word, samples, re, im, out):
    """Add `<psi| P psi>` of one word that flips bits, `(P psi)_i = (-i)^p (-1)^s psi_(i ^ f)`."""
    is_real, packed = program.shape[2] == 1, program.shape[4] == 1
    lane_bits = program.shape[0] - program.shape[1]
    output, flips = program.words[word, 0], program.words[word, 1]
    signs, power = program.words[word, 2], program.words[word, 3]
    lane_flips = flips & ((1 << lane_bits) - 1)
    for lane in range(LANES):
        other = lane ^ lane_flips
        value = 0.0
        for row in range(len(re)):
            i = row << lane_bits | (lane if packed else 0)
            j = row ^ flips >> lane_bits
            if is_real:
                real, imag = re[row, lane] * re[j, other], 0.0
            else:
                real = re[row, lane] * re[j, other] + im[row, lane] * im[j, other]
                imag = re[row, lane] * im[j, other] - im[row, lane] * re[j, other]
            part = imag if power & 1 else real
            value += -part if _parity(i & signs) else part
        value = -value if power == 2 or power == 3 else value
        if samples[lane] >= 0:
            out[samples[lane], output] += value


@internal
def lift(program, samples, by_output, pr, pi, lr, li, table):
    """Write `lambda = 2 sum_k g_k O_k psi` of one tile."""
    is_real, packed = program.shape[2] == 1, program.shape[4] == 1
    for row in range(_kept_rows(program.readout, program.shape[1])):
        store(table, row, splat(table, 0.0))
    for k in range(len(program.outputs)):
        row, pattern = program.outputs[k, 0], program.outputs[k, 1]
        sign = 2.0 * program.outputs[k, 2]
        if row >= 0:
            for lane in range(LANES):
                if samples[lane] >= 0:
                    weight = program.patterns[pattern, lane] if packed else 1.0
                    table[row, lane] += sign * weight * by_output[samples[lane], k]
    _expand(program.readout, program.shape[1], table)
    for row in range(len(pr)):
        slope = load(table, row)
        store(lr, row, slope * load(pr, row))
        if not is_real:
            store(li, row, slope * load(pi, row))
    for word in range(len(program.words)):
        _lift_word(program, word, samples, by_output, pr, pi, lr, li)


@internal
def _lift_word(program, word, samples, by_output, pr, pi, lr, li):
    is_real, packed = program.shape[2] == 1, program.shape[4] == 1
    lane_bits = program.shape[0] - program.shape[1]
    output, flips = program.words[word, 0], program.words[word, 1]
    signs, power = program.words[word, 2], program.words[word, 3]
    lane_flips = flips & ((1 << lane_bits) - 1)
    for lane in range(LANES):
        if samples[lane] < 0:
            continue
        other = lane ^ lane_flips
        slope = 2.0 * by_output[samples[lane], output]
        for row in range(len(pr)):
            i = row << lane_bits | (lane if packed else 0)
            j = row ^ flips >> lane_bits
            signed = -slope if _parity(i & signs) else slope
            x, y = pr[j, other], 0.0 if is_real else pi[j, other]
            if power == 1 or power == 3:
                x, y = y, -x
            if power >= 2:
                x, y = -x, -y
            lr[row, lane] += signed * x
            if not is_real:
                li[row, lane] += signed * y
