"""One epoch of a dressed head on cached features as a single compiled call, Adam included.

All parameters of a head lie in one vector, padded to whole lanes: pre-net weights and bias, circuit
weights, post-net weights and bias. The pre-net reads the rows of a batch where they lie, in blocks
that stay in the first cache.
"""

from __future__ import annotations

import numpy as np

from qgraft.simulate.compiled import compiled, internal
from qgraft.simulate.kernels import backward, collect, forward
from qgraft.simulate.lanes import LANES, load, load_from, root, splat, store, store_to, total

FEATURE_BLOCK = 1024


@internal
def _pre_net(features, rows, weight, bias, n_angles, sums, out):
    """Write `features[rows] @ weight.T + bias`, four samples and two angles at a time."""
    n_features, batch = features.shape[1], len(rows)
    whole = n_features - n_features % LANES
    for k in range(batch * n_angles):
        store(sums, k, splat(sums, 0.0))
    for start in range(0, whole, FEATURE_BLOCK):
        end = min(start + FEATURE_BLOCK, whole)
        for b in range(0, batch, 4):
            b1, b2, b3 = min(b + 1, batch - 1), min(b + 2, batch - 1), min(b + 3, batch - 1)
            x0, x1 = rows[b] * n_features, rows[b1] * n_features
            x2, x3 = rows[b2] * n_features, rows[b3] * n_features
            for q in range(0, n_angles, 2):
                r = min(q + 1, n_angles - 1)
                s00, s01 = load(sums, b * n_angles + q), load(sums, b * n_angles + r)
                s10, s11 = load(sums, b1 * n_angles + q), load(sums, b1 * n_angles + r)
                s20, s21 = load(sums, b2 * n_angles + q), load(sums, b2 * n_angles + r)
                s30, s31 = load(sums, b3 * n_angles + q), load(sums, b3 * n_angles + r)
                for f in range(start, end, LANES):
                    v = load_from(weight, q * n_features + f)
                    w = load_from(weight, r * n_features + f)
                    x = load_from(features, x0 + f)
                    s00, s01 = s00 + x * v, s01 + x * w
                    x = load_from(features, x1 + f)
                    s10, s11 = s10 + x * v, s11 + x * w
                    x = load_from(features, x2 + f)
                    s20, s21 = s20 + x * v, s21 + x * w
                    x = load_from(features, x3 + f)
                    s30, s31 = s30 + x * v, s31 + x * w
                # the last sample and angle may stand in for missing ones: written last, once right
                store(sums, b3 * n_angles + r, s31)
                store(sums, b3 * n_angles + q, s30)
                store(sums, b2 * n_angles + r, s21)
                store(sums, b2 * n_angles + q, s20)
                store(sums, b1 * n_angles + r, s11)
                store(sums, b1 * n_angles + q, s10)
                store(sums, b * n_angles + r, s01)
                store(sums, b * n_angles + q, s00)
    for b in range(batch):
        for q in range(n_angles):
            value = total(load(sums, b * n_angles + q)) + bias[q]
            for f in range(whole, n_features):
                value += features[rows[b], f] * weight[q * n_features + f]
            out[b, q] = value


@internal
def _pre_net_back(features, rows, by_angle, gradient):
    """Write `by_angle.T @ features[rows]` to the start of `gradient`."""
    n_features, batch, n_angles = features.shape[1], len(rows), by_angle.shape[1]
    whole = n_features - n_features % LANES
    for start in range(0, whole, FEATURE_BLOCK):
        end = min(start + FEATURE_BLOCK, whole)
        for b in range(0, batch, 4):
            b1, b2, b3 = min(b + 1, batch - 1), min(b + 2, batch - 1), min(b + 3, batch - 1)
            x0, x1 = rows[b] * n_features, rows[b1] * n_features
            x2, x3 = rows[b2] * n_features, rows[b3] * n_features
            for q in range(n_angles):
                d0 = splat(features, by_angle[b, q])
                d1 = splat(features, by_angle[b1, q] if b + 1 < batch else 0.0)
                d2 = splat(features, by_angle[b2, q] if b + 2 < batch else 0.0)
                d3 = splat(features, by_angle[b3, q] if b + 3 < batch else 0.0)
                for f in range(start, end, LANES):
                    at = q * n_features + f
                    value = d0 * load_from(features, x0 + f) + d1 * load_from(features, x1 + f)
                    value = value + d2 * load_from(features, x2 + f)
                    value = value + d3 * load_from(features, x3 + f)
                    store_to(gradient, at, value if b == 0 else value + load_from(gradient, at))
    for q in range(n_angles):
        for f in range(whole, n_features):
            value = 0.0
            for b in range(batch):
                value += by_angle[b, q] * features[rows[b], f]
            gradient[q * n_features + f] = value


@internal
def _post_net(outputs, weight, bias, logits):
    for b in range(len(outputs)):
        for c in range(logits.shape[1]):
            value = np.float64(bias[c])
            for k in range(outputs.shape[1]):
                value += outputs[b, k] * weight[c * outputs.shape[1] + k]
            logits[b, c] = value


@internal
def _cross_entropy(logits, labels, rows, slopes):
    """Return summed loss and hits; write the gradient of the mean loss to `slopes`."""
    loss, hits = 0.0, 0
    batch, n_classes = logits.shape
    for b in range(batch):
        best = 0
        for c in range(1, n_classes):
            if logits[b, c] > logits[b, best]:
                best = c
        norm = 0.0
        for c in range(n_classes):
            slopes[b, c] = np.exp(logits[b, c] - logits[b, best])
            norm += slopes[b, c]
        label = labels[rows[b]]
        loss += np.log(norm) + logits[b, best] - logits[b, label]
        hits += best == label
        for c in range(n_classes):
            slopes[b, c] = (slopes[b, c] / norm - (c == label)) / batch
    return loss, hits


@internal
def _angles(features, rows, parameters, n_angles, scale, sums, tanh, angles):
    at = n_angles * features.shape[1]
    _pre_net(features, rows, parameters, parameters[at:], n_angles, sums, tanh)
    for b in range(len(rows)):
        for q in range(n_angles):
            tanh[b, q] = np.tanh(tanh[b, q])
            angles[b, q] = tanh[b, q] * scale


@internal
def _relu(outputs):
    for b in range(outputs.shape[0]):
        for k in range(outputs.shape[1]):
            outputs[b, k] = max(outputs[b, k], 0.0)


@internal
def _post_net_back(slopes, outputs, weight, relu, by_output, gradient, at):
    """Write the gradients of the post-net from `gradient[at]` on, and of its inputs."""
    n_classes, n_outputs = slopes.shape[1], outputs.shape[1]
    for k in range(n_classes * n_outputs + n_classes):
        gradient[at + k] = 0.0
    bias = at + n_classes * n_outputs
    for b in range(len(slopes)):
        for k in range(n_outputs):
            value = 0.0
            for c in range(n_classes):
                value += slopes[b, c] * weight[c * n_outputs + k]
                gradient[at + c * n_outputs + k] += slopes[b, c] * outputs[b, k]
            by_output[b, k] = 0.0 if relu and outputs[b, k] <= 0.0 else value
        for c in range(n_classes):
            gradient[bias + c] += slopes[b, c]


@internal
def _adam(parameters, gradient, first, second, rate, step):
    """Take Adam's step number `step` (Kingma and Ba, arXiv 1412.6980, with its defaults)."""
    size = splat(parameters, rate / (1.0 - 0.9**step))
    norm = splat(parameters, np.sqrt(1.0 - 0.999**step))
    slow, slower = splat(parameters, 0.1), splat(parameters, 0.999)
    rest, tiny = splat(parameters, 0.001), splat(parameters, 1e-8)
    for at in range(0, len(parameters), LANES):
        g, m, v = load_from(gradient, at), load_from(first, at), load_from(second, at)
        m = m + slow * (g - m)
        v = slower * v + rest * g * g
        store_to(first, at, m)
        store_to(second, at, v)
        store_to(parameters, at, load_from(parameters, at) - size * m / (root(v) / norm + tiny))


@internal
def _pre_net_slopes(by_angle, tanh, scale, gradient, at):
    """Take the angles' gradient back through the tanh and write that of the bias."""
    for q in range(by_angle.shape[1]):
        value = 0.0
        for b in range(len(by_angle)):
            by_angle[b, q] *= scale * (1.0 - tanh[b, q] * tanh[b, q])
            value += by_angle[b, q]
        gradient[at + q] = value


@compiled
def run_epoch(
    program,
    features,
    labels,
    order,
    batch_size,
    head,
    parameters,
    first,
    second,
    rate,
    step,
    record,
):
    """Run the samples at `order` through a head and add loss and hits to `record`.

    With a learning `rate` above zero every batch is followed by a step of Adam, whose moments are
    `first` and `second` and which has taken `step` steps before. `head` is `(scale, whether ReLU,
    n_classes, n_weights, whether the circuit weights learn)`.
    """
    scale, relu = head[0], head[1] > 0.0
    n_classes, n_weights, circuit_learns = int(head[2]), int(head[3]), head[4] > 0.0
    n_angles, n_outputs = program.shape[8], len(program.outputs)
    at_weights = n_angles * (features.shape[1] + 1)
    at_post = at_weights + n_weights
    weights = parameters[at_weights:at_post]
    post, post_bias = parameters[at_post:], parameters[at_post + n_classes * n_outputs :]
    kind, learn, parts = features.dtype, rate > 0.0, 2 if program.shape[2] else 3
    gradient = np.zeros(len(parameters), kind)
    sums = np.empty((batch_size * n_angles, LANES), kind)
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        batch = len(rows)
        tiles = batch if program.shape[4] else (batch + LANES - 1) // LANES
        tanh, angles = np.empty((batch, n_angles), kind), np.empty((batch, n_angles), kind)
        _angles(features, rows, parameters, n_angles, scale, sums, tanh, angles)
        kept = tiles if learn else 1
        states = np.empty((kept, parts, 1 << program.shape[1], LANES), kind)
        outputs, by_output = np.empty((batch, n_outputs), kind), np.empty((batch, n_outputs), kind)
        forward(program, angles, weights, states, learn, 0, 1, outputs)
        if relu:
            _relu(outputs)
        logits, slopes = np.empty((batch, n_classes)), np.empty((batch, n_classes))
        _post_net(outputs, post, post_bias, logits)
        loss, hits = _cross_entropy(logits, labels, rows, slopes)
        record[0] += loss
        record[1] += hits
        if not learn:
            continue
        _post_net_back(slopes, outputs, post, relu, by_output, gradient, at_post)
        by_angle, circuit = np.zeros((batch, n_angles), kind), np.zeros(n_weights)
        by_weight, by_slot = np.zeros((tiles, n_weights)), np.empty((tiles, program.shape[7]))
        backward(program, angles, weights, states, 0, 1, by_output, by_angle, by_weight, by_slot)
        collect(program, weights, by_slot, by_weight, circuit)
        for k in range(n_weights):  # Adam leaves a weight without gradient where it is
            gradient[at_weights + k] = circuit[k] if circuit_learns else 0.0
        _pre_net_slopes(by_angle, tanh, scale, gradient, at_weights - n_angles)
        _pre_net_back(features, rows, by_angle, gradient)
        step += 1
        _adam(parameters, gradient, first, second, rate, step)
