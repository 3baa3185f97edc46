"""Row kernels for the CPU, compiled by Numba: one pass per token or per latent over rows that are still in cache.

Every function works on the items ``first`` to ``last`` of its output, so that threads share a batch without sharing an
item: the bits do not depend on their number. Sums may be reordered by the compiler (that is what makes them vector
code), but in the same way at every call.

Pre-activations arrive as the bits of bfloat16 seen as int16. Flipping the lower bits of negative numbers turns those
bits into keys that sort like the numbers, and 32 keys are compared by one instruction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

compiled: Any = njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")

BLOCK = 64
"""Keys that are compared together before single ones are looked at."""

LOWEST = -32_768

LARGEST_ERROR = 1e30
"""An error bound above this comes from numbers that are not finite or about to overflow."""

LOOSE = 12
"""Keys by which a row's first collection lies below what the row before it needed; a second one costs more than some entries too many."""


@compiled
def _to_key(value: Any) -> Any:
    """The largest key whose number is at most ``value``."""
    bits = np.float32(value).view(np.int32)
    high = np.int32(bits >> 16)
    if bits < 0:  # The bits of a negative number grow downwards: any remainder means one step further from zero.
        if bits & 0xFFFF:
            high += 1
        return max((high & 0xFFFF) - 65536 ^ 0x7FFF, -32768) if high < 0 else -32768
    return high


@compiled
def _to_number(key: Any) -> Any:
    """The bfloat16 number of a key, as float32."""
    bits = np.int32(key)
    if bits < 0:
        bits ^= 0x7FFF
    return np.int32(bits << 16).view(np.float32)


@compiled
def _collect(keys: Any, bound: Any, out: Any) -> Any:
    """Write the places of the keys that are at least ``bound`` to ``out``, in order; return their number."""
    least, found = np.int16(bound), 0
    whole = len(keys) // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        hits = np.int16(0)
        for j in range(start, start + BLOCK):
            hits |= np.int16(keys[j] >= least)
        if hits:
            for j in range(start, start + BLOCK):
                out[found] = j
                found += keys[j] >= least
    for j in range(whole, len(keys)):
        if keys[j] >= least:
            out[found] = j
            found += 1
    return found


@compiled
def _products(row: Any, W: Any, places: Any, out: Any, first: Any, last: Any) -> None:
    """out[e] = row . W[places[e]] for e from first to last, four at a time: their rows are fetched together.

    The last four may repeat a row, so that a product has the same bits wherever in a list it stands.
    """
    for e in range(first, last, 4):
        f, g, h = min(e + 1, last - 1), min(e + 2, last - 1), min(e + 3, last - 1)
        a, b, c, d = W[places[e]], W[places[f]], W[places[g]], W[places[h]]
        p = q = r = s = np.float32(0)
        for j in range(len(row)):
            p += row[j] * a[j]
            q += row[j] * b[j]
            r += row[j] * c[j]
            s += row[j] * d[j]
        out[e], out[f], out[g], out[h] = p, q, r, s


@compiled
def _kth_largest(keys: Any, count: Any, k: Any, low: Any, high: Any) -> Any:
    """The k-th largest of the first ``count`` integer keys, all of which lie in [low, high].

    Bisection needs no branch that depends on a key, and comparing all keys once more costs less than one wrong branch.
    """
    while low < high:
        middle = (low + high + 1) >> 1
        reached = np.int32(0)
        for c in range(count):
            reached = np.int32(reached + np.int32(keys[c] >= middle))
        if reached >= k:
            low = middle
        else:
            high = middle - 1
    return low


@compiled
def _kth_largest_number(numbers: Any, keys: Any, count: Any, k: Any) -> Any:
    """The k-th largest of the first ``count`` float32 numbers; ``keys`` is room for them as int32."""
    low, high = np.int32(2**31 - 1), np.int32(-(2**31))
    for c in range(count):
        bits = np.float32(numbers[c]).view(np.int32)
        keys[c] = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        low, high = min(low, keys[c]), max(high, keys[c])
    bits = np.int32(_kth_largest(keys, count, k, np.int64(low), np.int64(high)))
    return np.int32(bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32)


@compiled
def norms_and_errors(x: Any, bits: Any, norms: Any, errors: Any, first: Any, last: Any) -> None:
    """Norms of rows x and of what is lost by rounding them to the bfloat16 numbers with the given bits."""
    for i in range(first, last):
        square, lost = np.float32(0), np.float32(0)
        for j in range(x.shape[1]):
            value = x[i, j]
            difference = value - np.int32(np.int32(bits[i, j]) << 16).view(np.float32)
            square += value * value
            lost += difference * difference
        norms[i] = np.sqrt(square)
        errors[i] = np.sqrt(lost)


@compiled
def _make_keys(bits: Any, keys: Any) -> None:
    for j in range(len(bits)):
        keys[j] = bits[j] ^ ((bits[j] >> np.int16(15)) & np.int16(0x7FFF))


@compiled
def select_topk(pre: Any, x: Any, w: Any, bias: Any, model: Any, k: Any, latents: Any, values: Any, first: Any, last: Any) -> None:
    """Exact top-k of rows from approximate pre-activations, entries by ascending latent; see ``bounds`` for the errors.

    ``x`` and ``w`` are rows with their norms and rounding errors, ``model`` an ``ErrorModel``.

    At least k approximate values reach a first threshold t, so the k-th largest exact value is at least t less its
    error, and an entry whose value plus error stays below that is out. The exact values of those k then raise the
    bar for the others, which are computed only where their own bound reaches it.
    """
    d_sae = pre.shape[1]
    (rows, norms, errors), (W, W_norms, W_errors) = x, w
    keys, places = np.empty(d_sae, np.int16), np.empty(d_sae + BLOCK, np.int64)
    chosen, order = np.empty(d_sae + 1, np.int64), np.empty(d_sae, np.int32)
    exact, value_of = np.empty(d_sae, np.float32), np.empty(d_sae, np.float32)
    steepness, offset, tiny, W_norm, W_error, stored = model
    guess = LOWEST
    for i in range(first, last):
        common = (errors[i] + steepness * norms[i]) * W_norm + norms[i] * W_error + offset + tiny * (1 + norms[i])
        if not common < LARGEST_ERROR:  # A number that is not finite is no one's pre-activation: let the loss say so.
            for c in range(k):
                latents[i, c] = c
                values[i, c] = np.nan
            continue
        _make_keys(pre[i], keys)
        found, wider = _collect(keys, guess, places), 32
        while found < k:
            guess, wider = max(guess - wider, LOWEST), wider * 4
            found = _collect(keys, guess, places)
        for c in range(found):
            order[c] = keys[places[c]]
        low = _kth_largest(order, found, k, np.int64(guess), np.int64(32_767))
        number = _to_number(low)
        reach = number - abs(number) * stored - 2 * common
        least = _to_key(reach - 2 * abs(reach) * stored)
        if least < guess:
            found = _collect(keys, least, places)
        guess = max(least - LOOSE, LOWEST)
        # First those that reach the threshold itself, then whichever of the others reach what these leave open.
        count = 0
        for c in range(found):
            chosen[count] = places[c]
            count += keys[places[c]] >= low
        _products(rows[i], W, chosen, exact, 0, count)
        for c in range(count):
            exact[c] += bias[chosen[c]]
        bar = _kth_largest_number(exact, order, count, k)
        certain = count
        for c in range(found):
            j = places[c]
            if least <= keys[j] < low:
                number = _to_number(keys[j])
                own = (errors[i] + steepness * norms[i]) * W_norms[j] + norms[i] * W_errors[j] + offset + tiny * (1 + norms[i])
                if number + abs(number) * stored + own >= bar:
                    chosen[count] = j
                    count += 1
        _products(rows[i], W, chosen, exact, certain, count)
        for c in range(certain, count):
            exact[c] += bias[chosen[c]]
        bar = _kth_largest_number(exact, order, count, k)
        # By ascending latent, so that neither the order nor the choice between exact ties depends on the two lists.
        for c in range(found):
            value_of[places[c]] = -np.inf
        above = 0
        for c in range(count):
            value_of[chosen[c]] = exact[c]
            above += exact[c] > bar
        ties, kept = k - above, 0
        for c in range(found):
            value = value_of[places[c]]
            if value > bar or (value == bar and ties > 0):
                ties -= value == bar
                latents[i, kept] = places[c]
                values[i, kept] = max(value, np.float32(0))
                kept += 1


@compiled
def select_above(
    pre: Any, x: Any, w: Any, bias: Any, model: Any, threshold: Any, counts: Any, latents: Any, values: Any, first: Any, last: Any
) -> Any:
    """Entries whose exact pre-activation exceeds the threshold, from approximate values of their difference.

    Fills ``latents`` and ``values`` from their beginning. Returns the first row for which there might be no room left.
    """
    d_sae = pre.shape[1]
    (rows, norms, errors), (W, W_norms, W_errors) = x, w
    keys, places = np.empty(d_sae, np.int16), np.empty(d_sae + BLOCK, np.int64)
    steepness, offset, tiny, W_norm, W_error, stored = model
    exact = np.empty(d_sae, np.float32)
    kept = 0
    for i in range(first, last):
        if kept + d_sae > len(latents):
            return i
        common = (errors[i] + steepness * norms[i]) * W_norm + norms[i] * W_error + offset + tiny * (1 + norms[i])
        before = kept
        if common < LARGEST_ERROR:
            _make_keys(pre[i], keys)
            found, count = _collect(keys, _to_key(-common - 2 * common * stored), places), 0
            for c in range(found):
                j = places[c]
                number = _to_number(keys[j])
                own = (errors[i] + steepness * norms[i]) * W_norms[j] + norms[i] * W_errors[j] + offset + tiny * (1 + norms[i])
                places[count] = j
                count += number + abs(number) * stored + own > 0
            _products(rows[i], W, places, exact, 0, count)
            for c in range(count):
                j = places[c]
                latents[kept] = j
                values[kept] = exact[c] + bias[j]
                kept += values[kept] > threshold[j]
        else:
            latents[kept] = 0
            values[kept] = np.nan
            kept += 1
        counts[i] = kept - before
    return last


@compiled
def decode(starts: Any, latents: Any, values: Any, W: Any, out: Any, first: Any, last: Any) -> None:
    """out[i] = sum of value times row of W over the entries of token i."""
    for i in range(first, last):
        _weighted_rows(latents, values, W, out[i], starts[i], starts[i + 1])


@compiled
def _weighted_rows(chosen: Any, weights: Any, rows: Any, total: Any, first: Any, last: Any) -> None:
    """total = sum of weights[e] * rows[chosen[e]] over e from first to last; four rows per pass over ``total``."""
    width = len(total)
    whole = first + (last - first) // 4 * 4
    for j in range(width):
        total[j] = 0
    for e in range(first, whole, 4):
        a, b, c, d = rows[chosen[e]], rows[chosen[e + 1]], rows[chosen[e + 2]], rows[chosen[e + 3]]
        p, q, r, s = weights[e], weights[e + 1], weights[e + 2], weights[e + 3]
        for j in range(width):
            total[j] += p * a[j] + q * b[j] + r * c[j] + s * d[j]
    for e in range(whole, last):
        a, p = rows[chosen[e]], weights[e]
        for j in range(width):
            total[j] += p * a[j]


@compiled
def sampled_product(rows: Any, starts: Any, latents: Any, W: Any, out: Any, first: Any, last: Any) -> None:
    """out[e] = rows[i] . W[latent of e] over the entries e of token i."""
    for i in range(first, last):
        _products(rows[i], W, latents, out, starts[i], starts[i + 1])


@compiled
def reconstruction_error(starts: Any, latents: Any, values: Any, W: Any, target: Any, error: Any, products: Any, first: Any, last: Any) -> None:
    """error[i] = decoded token less target[i], and its products with the rows of W that the token has just read."""
    for i in range(first, last):
        _weighted_rows(latents, values, W, error[i], starts[i], starts[i + 1])
        for j in range(error.shape[1]):
            error[i, j] -= target[i, j]
        _products(error[i], W, latents, products, starts[i], starts[i + 1])


@compiled
def order_by_latent(starts: Any, latents: Any, by_latent: Any, order: Any, tokens: Any) -> None:
    """Stable counting sort: ``order`` lists the entries latent after latent, ``by_latent`` (d_sae + 1,) where each one's begin."""
    by_latent[:] = 0
    for e in range(len(latents)):
        by_latent[latents[e] + 1] += 1
    for j in range(1, len(by_latent)):
        by_latent[j] += by_latent[j - 1]
    place = by_latent.copy()
    for i in range(len(starts) - 1):
        for e in range(starts[i], starts[i + 1]):
            j = place[latents[e]]
            order[j] = e
            tokens[j] = i
            place[latents[e]] = j + 1


@compiled
def sum_by_latent(by_latent: Any, order: Any, weights: Any, out: Any, first: Any, last: Any) -> None:
    """out[j] = sum of the weights of latent j's entries."""
    for j in range(first, last):
        total = np.float32(0)
        for e in range(by_latent[j], by_latent[j + 1]):
            total += weights[order[e]]
        out[j] = total


@compiled
def weighted_sum_by_latent(by_latent: Any, order: Any, tokens: Any, weights: Any, rows: Any, out: Any, first: Any, last: Any) -> None:
    """out[j] = sum of weight times the token's row over latent j's entries."""
    longest = 0
    for j in range(first, last):
        longest = max(longest, by_latent[j + 1] - by_latent[j])
    own = np.empty(longest, np.float32)
    for j in range(first, last):
        start, count = by_latent[j], by_latent[j + 1] - by_latent[j]
        for e in range(count):
            own[e] = weights[order[start + e]]
        _weighted_rows(tokens[start : start + count], own, rows, out[j], 0, count)
