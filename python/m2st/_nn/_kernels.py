"""The loops of the attention layer, compiled by numba: arrays in, arrays out.

Edges are those of `m2st._nn._attention.Edges`; rows of features are flat, in the layout that
`m2st._nn._attention` gives them.
"""

from __future__ import annotations

import numpy as np

from m2st._nn._compile import compiled, inlined
from m2st._nn._simd import (
    LANES,
    add,
    divide,
    exp,
    fold,
    join,
    load,
    maximum,
    multiply,
    number,
    spread,
    store,
    subtract,
    where_positive,
)

# Rows are padded to whole groups of vectors, as many as have their sums in registers at a time.
GROUP = 4 * LANES


@compiled
def reverse(indptr, source, n_rows):  # type: ignore[no-untyped-def]
    """Edges by source, in order of their targets."""
    starts = np.zeros(n_rows + 1, np.int32)
    for j in source:
        starts[j + 1] += 1
    starts = np.cumsum(starts).astype(np.int32)
    reverse, target = np.empty_like(source), np.empty_like(source)
    filled = starts[:-1].copy()
    for t in range(len(indptr) - 1):
        for e in range(indptr[t], indptr[t + 1]):
            j = number(source, e)
            place = filled[j]
            reverse[place], target[place] = e, t
            filled[j] += 1
    return starts, reverse, target


@compiled
def mask(indptr, source, masked, targets):  # type: ignore[no-untyped-def]
    """Arrays of `Edges.mask`."""
    n_obs = len(masked)
    rows = np.empty(n_obs, np.int32)
    n_visible = 0
    for j in range(n_obs):
        rows[j] = n_visible
        n_visible += not masked[j]
    for j in range(n_obs):
        if masked[j]:
            rows[j] = n_visible
    n_targets = targets.sum()
    row, starts = np.empty(n_targets, np.int32), np.zeros(n_targets + 1, np.int32)
    sources, counts = np.empty_like(source), np.ones(len(source), np.float32)
    t, n_edges = 0, 0
    for i in range(n_obs):
        if not targets[i]:
            continue
        count = 0
        for e in range(indptr[i], indptr[i + 1]):
            j = number(rows, number(source, e))
            if j == n_visible:
                count += 1
            else:
                sources[n_edges] = j
                n_edges += 1
        if count:
            sources[n_edges], counts[n_edges] = n_visible, count
            n_edges += 1
        row[t], starts[t + 1] = rows[i], n_edges
        t += 1
    return row, starts, sources[:n_edges].copy(), counts[:n_edges].copy()


# A vector of heads is read, and written in ascending order, wherever its first head stands: where
# the number of heads is no multiple of 8 it has numbers in it that belong elsewhere and that nobody
# looks at. Arrays by head therefore end in as many unused numbers.


@inlined
def _four(head, f):  # type: ignore[no-untyped-def]
    """Heads of the vectors of a group."""
    v = f // LANES
    return head[v], head[v + 1], head[v + 2], head[v + 3]


@inlined
def _add_joined(sums, place, folded, zero):  # type: ignore[no-untyped-def]
    """Add the sums of what was folded twice; where there are less than four, zeros follow."""
    store(sums, place, add(load(sums, place), join(folded, zero)))


@inlined
def _add_totals(sums, to, heads, v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    """Add the numbers in the vectors of a group to the sums of their heads."""
    k, k1, k2, k3 = heads
    zero = spread(sums, 0)
    if k == k3:
        _add_joined(sums, to + k, fold(fold(add(add(v0, v1), add(v2, v3)), zero), zero), zero)
    elif k == k1 and k2 == k3:
        _add_joined(sums, to + k, fold(fold(add(v0, v1), add(v2, v3)), zero), zero)
    elif k3 == k + 3:
        _add_joined(sums, to + k, fold(fold(v0, v1), fold(v2, v3)), zero)
    else:
        _add_joined(sums, to + k, fold(fold(v0, zero), zero), zero)
        _add_joined(sums, to + k1, fold(fold(v1, zero), zero), zero)
        _add_joined(sums, to + k2, fold(fold(v2, zero), zero), zero)
        _add_joined(sums, to + k3, fold(fold(v3, zero), zero), zero)


@compiled
def score(h, vectors, layout, logits):  # type: ignore[no-untyped-def]
    """Logits of all rows: scalar products of their heads and the attention vectors."""
    width, _, head, padded, _ = layout
    logits[:] = 0
    for j in range(len(h) // width):
        for f in range(0, width, GROUP):
            heads, at = _four(head, f), j * width + f
            h0, h1 = load(h, at), load(h, at + LANES)
            h2, h3 = load(h, at + 2 * LANES), load(h, at + 3 * LANES)
            for side in range(2):
                of = side * width + f
                v0 = multiply(h0, load(vectors, of))
                v1 = multiply(h1, load(vectors, of + LANES))
                v2 = multiply(h2, load(vectors, of + 2 * LANES))
                v3 = multiply(h3, load(vectors, of + 3 * LANES))
                _add_totals(logits, (2 * j + side) * padded, heads, v0, v1, v2, v3)


@compiled
def weigh(  # type: ignore[no-untyped-def]
    logits, layout, slope, target_row, indptr, source, edge_weight, first, last, attention
):
    """Softmax over the edges of the targets from `first` to before `last`."""
    _, n_heads, _, padded, pitch = layout
    largest_degree = 0
    for t in range(first, last):
        largest_degree = max(largest_degree, indptr[t + 1] - indptr[t])
    weights = np.empty(largest_degree * LANES, logits.dtype)
    one, slopes = spread(logits, 1), spread(logits, slope)
    for t in range(first, last):
        start, end = np.int64(indptr[t]), np.int64(indptr[t + 1])
        to = (start - indptr[first]) * pitch
        for k in range(0, n_heads, LANES):
            own = load(logits, (2 * np.int64(target_row[t]) + 1) * padded + k)
            # LeakyReLU never decreases: the largest logit is that of the largest source.
            largest = load(logits, 2 * np.int64(number(source, start)) * padded + k)
            for e in range(start + 1, end):
                largest = maximum(
                    largest, load(logits, 2 * np.int64(number(source, e)) * padded + k)
                )
            largest = add(largest, own)
            largest = maximum(largest, multiply(slopes, largest))
            summed = spread(logits, 0)
            for e in range(start, end):
                logit = add(load(logits, 2 * np.int64(number(source, e)) * padded + k), own)
                logit = maximum(logit, multiply(slopes, logit))
                weight = multiply(
                    spread(logits, number(edge_weight, e)), exp(subtract(logit, largest))
                )
                summed = add(summed, weight)
                store(weights, (e - start) * LANES, weight)
            share = divide(one, summed)
            for e in range(end - start):
                weight = multiply(share, load(weights, e * LANES))
                store(attention, to + e * pitch + k, weight)


@inlined
def _add_scaled(vector, weights, place, rows, start):  # type: ignore[no-untyped-def]
    return add(vector, multiply(spread(weights, number(weights, place)), load(rows, start)))


@compiled
def aggregate(  # type: ignore[no-untyped-def]
    h, layout, weights, bias, indptr, source, first, last, out
):
    """Weighted sums of the sources of the targets from `first` to before `last`."""
    width, _, head, _, pitch = layout
    for t in range(first, last):
        start, end = np.int64(indptr[t]), np.int64(indptr[t + 1])
        for f in range(0, width, GROUP):
            f1, f2, f3 = f + LANES, f + 2 * LANES, f + 3 * LANES
            k, k1, k2, k3 = _four(head, f)
            sum0, sum1, sum2, sum3 = load(bias, f), load(bias, f1), load(bias, f2), load(bias, f3)
            for e in range(start, end):
                at, of = np.int64(number(source, e)) * width, (e - indptr[first]) * pitch
                sum0 = _add_scaled(sum0, weights, of + k, h, at + f)
                sum1 = _add_scaled(sum1, weights, of + k1, h, at + f1)
                sum2 = _add_scaled(sum2, weights, of + k2, h, at + f2)
                sum3 = _add_scaled(sum3, weights, of + k3, h, at + f3)
            place = t * width
            store(out, place + f, sum0)
            store(out, place + f1, sum1)
            store(out, place + f2, sum2)
            store(out, place + f3, sum3)


@compiled
def backward(  # type: ignore[no-untyped-def]
    grad,
    out,
    h,
    vectors,
    logits,
    layout,
    slope,
    attention,
    weights,
    target_row,
    reverse_indptr,
    reverse,
    target,
):
    """Gradients of `h` and of `vectors` in one pass over the edges, by source."""
    width, n_heads, head, padded, pitch = layout
    n_rows = len(reverse_indptr) - 1
    grad_h, grad_logits = np.empty_like(h), np.zeros_like(logits)
    zero, slopes = spread(h, 0), spread(h, slope)
    grad_vectors = np.empty_like(vectors)
    mean = _means(grad, out, vectors, layout, grad_vectors)
    largest_degree = 0
    for j in range(n_rows):
        largest_degree = max(largest_degree, reverse_indptr[j + 1] - reverse_indptr[j])
    dots = np.empty(largest_degree * padded + LANES, h.dtype)
    for j in range(n_rows):
        start, end = np.int64(reverse_indptr[j]), np.int64(reverse_indptr[j + 1])
        own = j * width
        dots[: (end - start) * padded] = 0
        for f in range(0, width, GROUP):
            f1, f2, f3 = f + LANES, f + 2 * LANES, f + 3 * LANES
            heads = _four(head, f)
            k, k1, k2, k3 = heads
            h0, h1 = load(h, own + f), load(h, own + f1)
            h2, h3 = load(h, own + f2), load(h, own + f3)
            sum0, sum1, sum2, sum3 = zero, zero, zero, zero
            for p in range(start, end):
                at, of = np.int64(number(target, p)) * width, np.int64(number(reverse, p)) * pitch
                sum0 = _add_scaled(sum0, weights, of + k, grad, at + f)
                sum1 = _add_scaled(sum1, weights, of + k1, grad, at + f1)
                sum2 = _add_scaled(sum2, weights, of + k2, grad, at + f2)
                sum3 = _add_scaled(sum3, weights, of + k3, grad, at + f3)
                v0, v1 = multiply(h0, load(grad, at + f)), multiply(h1, load(grad, at + f1))
                v2, v3 = multiply(h2, load(grad, at + f2)), multiply(h3, load(grad, at + f3))
                _add_totals(dots, (p - start) * padded, heads, v0, v1, v2, v3)
            store(grad_h, own + f, sum0)
            store(grad_h, own + f1, sum1)
            store(grad_h, own + f2, sum2)
            store(grad_h, own + f3, sum3)
        for k in range(0, n_heads, LANES):
            from_source, summed = load(logits, 2 * j * padded + k), zero
            for p in range(start, end):
                to, e = np.int64(number(target, p)), np.int64(number(reverse, p)) * pitch + k
                place = (2 * np.int64(number(target_row, to)) + 1) * padded + k
                derivative = subtract(
                    multiply(load(weights, e), load(dots, (p - start) * padded + k)),
                    multiply(load(attention, e), load(mean, to * padded + k)),
                )
                logit = add(from_source, load(logits, place))
                derivative = where_positive(logit, derivative, multiply(slopes, derivative))
                summed = add(summed, derivative)
                store(grad_logits, place, add(load(grad_logits, place), derivative))
            store(grad_logits, 2 * j * padded + k, summed)
    _through_logits(grad_logits, h, vectors, layout, grad_h, grad_vectors)
    return grad_h, grad_vectors


@compiled
def _means(grad, out, vectors, layout, grad_vectors):  # type: ignore[no-untyped-def]
    """Per target the mean of the derivatives by its weights; also the gradient of the bias.

    The derivative of a softmax needs this mean. It is the scalar product of the target's output,
    without bias, and its gradient.
    """
    width, _, head, padded, _ = layout
    n_targets = len(grad) // width
    mean = np.zeros(n_targets * padded + LANES, grad.dtype)
    zero, bias = spread(grad, 0), 2 * width
    for f in range(0, width, GROUP):
        f1, f2, f3 = f + LANES, f + 2 * LANES, f + 3 * LANES
        heads = _four(head, f)
        b0, b1 = load(vectors, bias + f), load(vectors, bias + f1)
        b2, b3 = load(vectors, bias + f2), load(vectors, bias + f3)
        sum0, sum1, sum2, sum3 = zero, zero, zero, zero
        for t in range(n_targets):
            at = t * width
            g0, g1 = load(grad, at + f), load(grad, at + f1)
            g2, g3 = load(grad, at + f2), load(grad, at + f3)
            sum0, sum1, sum2, sum3 = add(sum0, g0), add(sum1, g1), add(sum2, g2), add(sum3, g3)
            v0 = multiply(g0, subtract(load(out, at + f), b0))
            v1 = multiply(g1, subtract(load(out, at + f1), b1))
            v2 = multiply(g2, subtract(load(out, at + f2), b2))
            v3 = multiply(g3, subtract(load(out, at + f3), b3))
            _add_totals(mean, t * padded, heads, v0, v1, v2, v3)
        store(grad_vectors, bias + f, sum0)
        store(grad_vectors, bias + f1, sum1)
        store(grad_vectors, bias + f2, sum2)
        store(grad_vectors, bias + f3, sum3)
    return mean


@compiled
def _through_logits(  # type: ignore[no-untyped-def]
    grad_logits, h, vectors, layout, grad_h, grad_vectors
):
    """Add what comes through the logits to the gradient of `h`; also that of their vectors."""
    width, _, head, padded, _ = layout
    n_rows = len(h) // width
    zero = spread(h, 0)
    for f in range(0, width, 2 * LANES):  # a line of the cache
        f1, k, k1 = f + LANES, head[f // LANES], head[f // LANES + 1]
        s0, s1 = load(vectors, f), load(vectors, f1)
        t0, t1 = load(vectors, width + f), load(vectors, width + f1)
        of_s0, of_s1, of_t0, of_t1 = zero, zero, zero, zero
        for j in range(n_rows):
            at, of = j * width, 2 * j * padded
            from_s0, from_s1 = (
                spread(h, number(grad_logits, of + k)),
                spread(h, number(grad_logits, of + k1)),
            )
            of += padded
            from_t0, from_t1 = (
                spread(h, number(grad_logits, of + k)),
                spread(h, number(grad_logits, of + k1)),
            )
            h0, h1 = load(h, at + f), load(h, at + f1)
            of_s0, of_s1 = add(of_s0, multiply(from_s0, h0)), add(of_s1, multiply(from_s1, h1))
            of_t0, of_t1 = add(of_t0, multiply(from_t0, h0)), add(of_t1, multiply(from_t1, h1))
            g0 = add(multiply(from_s0, s0), multiply(from_t0, t0))
            g1 = add(multiply(from_s1, s1), multiply(from_t1, t1))
            store(grad_h, at + f, add(load(grad_h, at + f), g0))
            store(grad_h, at + f1, add(load(grad_h, at + f1), g1))
        store(grad_vectors, f, of_s0)
        store(grad_vectors, f1, of_s1)
        store(grad_vectors, width + f, of_t0)
        store(grad_vectors, width + f1, of_t1)
