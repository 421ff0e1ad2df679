"""Skew attention in one kernel, written in Triton: no logits, no doubled tensors and no retrieval are ever stored.

    L₁ = scale·q kᵀ        T = scale·k qᵀ        L_Γ = c₊∘L₁ + c₋∘T        R = softmax(L + mask)·v

With β = 1 there are three products a block of logits: q̂ kᵀ + k̂ qᵀ, whose rows q̂ᵢ = c₊(i)·scale·qᵢ and k̂ᵢ =
c₋(i)·scale·kᵢ are scaled in float32 and rounded once, and P·v. With other β there are four, two softmaxes, and
ρ·(R₁ + β(R_γ − R₁)) at the end (`blending.py`, `norm_guard.py`). All sums are float32.

The columns are visited in segments, because every row has one γ for all columns of a segment:

    keys without a query    before the first query, where there are more keys than queries; no T there, so γ is 1
    other tokens            before and after the image tokens, where those are a part of the sequence
    image tokens            all tokens where no part is chosen

Importing this file imports Triton. `launch.py` is the only module that does.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)  # exp2 is the exponential that cards have
SMALLEST_NORM = tl.constexpr(1e-6)  # as in norm_guard.py
LARGEST_RATIO = tl.constexpr(4.0)


@triton.jit
def _product(left, right, total, WIDEN: tl.constexpr):
    """total + left·right in float32. Triton's interpreter cannot multiply bfloat16, so there it is widened first."""
    if WIDEN:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def _numbers(source, batch, head, rows, queries, stride_b, stride_h, stride_l, IS_TENSOR: tl.constexpr):
    """A γ or β of every row, `(ROWS,)` in float32, from a number or from a tensor of numbers."""
    if IS_TENSOR:
        start = source + batch.to(tl.int64) * stride_b + head * stride_h
        return tl.load(start + rows * stride_l, mask=rows < queries, other=1.0)
    else:
        return tl.zeros(rows.shape, tl.float32) + source


@triton.jit
def _tokens(start, tokens, stride, last, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr):
    """`(tokens, WIDTH)` numbers of a head, zero where a token lies outside 0 … last or beyond the head dim."""
    dims = tl.arange(0, WIDTH)
    inside = ((tokens >= 0) & (tokens < last))[:, None]
    if WIDTH != HEAD_DIM:
        inside = inside & (dims < HEAD_DIM)[None, :]
    return tl.load(start + tokens[:, None] * stride + dims[None, :], mask=inside, other=0.0)


@triton.jit
def _soften(total, highest, count, logits, values, IS_MASKED: tl.constexpr, WIDEN: tl.constexpr):
    """One step of the softmax over a block of columns: the sums so far, taken on by `logits` and `values`."""
    now = tl.maximum(highest, tl.max(logits, 1))
    # With a mask a row may have met no token yet that it may attend to.
    base = tl.where(now == -float("inf"), 0.0, now) if IS_MASKED else now
    weights = tl.exp2(logits - base[:, None])
    kept = tl.exp2(highest - base)
    total = _product(weights.to(values.dtype), values, total * kept[:, None], WIDEN)
    return total, now, count * kept + tl.sum(weights, 1)


@triton.jit
def _walk(
    total,
    highest,
    count,
    plain_total,
    plain_highest,
    plain_count,
    q,
    k,
    gamma,
    first,
    last,
    rows,
    start_q,
    start_k,
    start_v,
    start_mask,
    q_token,
    k_token,
    v_token,
    mask_row,
    mask_column,
    queries,
    keys,
    scale,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BLENDS: tl.constexpr,
    MASK: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Take the sums on over the columns `first … last`, in which row i has the γ `gamma[i]`."""
    IS_MASKED: tl.constexpr = MASK != "none"
    c_plus = (1.0 + gamma) * 0.5
    c_minus = (1.0 - gamma) * 0.5
    ROWS: tl.constexpr = q.shape[0]
    if not BLENDS:
        q = (q.to(tl.float32) * (c_plus * scale)[:, None]).to(q.dtype)
        k = (k.to(tl.float32) * (c_minus * scale)[:, None]).to(k.dtype)
    nothing = tl.zeros([ROWS, COLUMNS], tl.float32)
    for at in range(first, last, COLUMNS):
        columns = at + tl.arange(0, COLUMNS)
        is_column = (columns < last)[None, :]
        key = _tokens(start_k, columns, k_token, keys, HEAD_DIM, WIDTH)
        value = _tokens(start_v, columns, v_token, keys, HEAD_DIM, WIDTH)
        logits = _product(q, tl.trans(key), nothing, WIDEN)
        if TRANSPOSED:
            query = _tokens(start_q, columns - (keys - queries), q_token, queries, HEAD_DIM, WIDTH)
            if BLENDS:
                swapped = _product(k, tl.trans(query), nothing, WIDEN)
            else:
                logits = _product(k, tl.trans(query), logits, WIDEN)
        if BLENDS:
            logits = logits * scale
        if IS_MASKED:
            place = start_mask + rows.to(tl.int64)[:, None] * mask_row + columns[None, :] * mask_column
            bias = tl.load(place, mask=(rows < queries)[:, None] & is_column, other=0)
            bias = tl.where(bias != 0, 0.0, -float("inf")) if MASK == "bool" else bias.to(tl.float32) * LOG2_E
        if BLENDS:
            skewed = c_plus[:, None] * logits + (c_minus * scale)[:, None] * swapped if TRANSPOSED else logits
            if IS_MASKED:
                skewed = skewed + bias
                logits = logits + bias
            skewed = tl.where(is_column, skewed, -float("inf"))
            logits = tl.where(is_column, logits, -float("inf"))
            total, highest, count = _soften(total, highest, count, skewed, value, IS_MASKED, WIDEN)
            plain_total, plain_highest, plain_count = _soften(
                plain_total, plain_highest, plain_count, logits, value, IS_MASKED, WIDEN
            )
        else:
            if IS_MASKED:
                logits = logits + bias
            logits = tl.where(is_column, logits, -float("inf"))
            total, highest, count = _soften(total, highest, count, logits, value, IS_MASKED, WIDEN)
    return total, highest, count, plain_total, plain_highest, plain_count


@triton.jit
def _retrieved(total, count, IS_MASKED: tl.constexpr):
    """The retrieval of sums; 0 where a row may attend to no token, as in PyTorch's attention."""
    if IS_MASKED:
        count = tl.where(count == 0.0, 1.0, count)
    return total / count[:, None]


@triton.jit
def _length(patterns):
    """The length of every row, at least SMALLEST_NORM."""
    return tl.maximum(tl.sqrt(tl.sum(patterns * patterns, 1)), SMALLEST_NORM)


@triton.jit(do_not_specialize=["heads", "queries", "keys", "image_start", "image_stop"])
def skew_attention_kernel(
    Q,
    K,
    V,
    Out,
    Mask,
    gamma,
    gamma_text,
    gamma_cross,
    beta,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    v_batch,
    v_head,
    v_token,
    out_batch,
    out_head,
    out_token,
    mask_batch,
    mask_head,
    mask_row,
    mask_column,
    gamma_batch,
    gamma_head,
    gamma_row,
    text_batch,
    text_head,
    text_row,
    cross_batch,
    cross_head,
    cross_row,
    beta_batch,
    beta_head,
    beta_row,
    heads,
    queries,
    keys,
    image_start,
    image_stop,
    scale,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLENDS: tl.constexpr,
    GUARDS: tl.constexpr,
    MASK: tl.constexpr,
    HAS_PREFIX: tl.constexpr,
    HAS_GROUPS: tl.constexpr,
    TEXT_IS_PLAIN: tl.constexpr,
    GAMMA_IS_TENSOR: tl.constexpr,
    TEXT_IS_TENSOR: tl.constexpr,
    CROSS_IS_TENSOR: tl.constexpr,
    BETA_IS_TENSOR: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """One block of ROWS queries of one head and sample.

    Q, Out are `(B, H, queries, HEAD_DIM)`, K and V `(B, H, keys, HEAD_DIM)`, each with strides of its own and the head
    dim dense. The queries are the last tokens of the keys' sequence; `image_start … image_stop` counts in it. WIDTH is
    HEAD_DIM rounded up to a power of 2. MASK is "none", "additive" or "bool". `scale` includes log₂e.
    """
    IS_MASKED: tl.constexpr = MASK != "none"
    blocks = tl.cdiv(queries, ROWS)
    batch_head = tl.program_id(0) // blocks
    rows = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)
    batch = (batch_head // heads).to(tl.int64)
    head = (batch_head % heads).to(tl.int64)
    start_q = Q + batch * q_batch + head * q_head
    start_k = K + batch * k_batch + head * k_head
    start_v = V + batch * v_batch + head * v_head
    start_mask = Mask + batch * mask_batch + head * mask_head if IS_MASKED else Mask
    prefix = keys - queries

    q = _tokens(start_q, rows, q_token, queries, HEAD_DIM, WIDTH)
    k = _tokens(start_k, prefix + rows, k_token, keys, HEAD_DIM, WIDTH)
    image = _numbers(gamma, batch, head, rows, queries, gamma_batch, gamma_head, gamma_row, GAMMA_IS_TENSOR)
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    highest = tl.full([ROWS], -float("inf"), tl.float32)
    count = tl.zeros([ROWS], tl.float32)
    plain_total = total
    plain_highest = highest
    plain_count = count

    if HAS_PREFIX:
        total, highest, count, plain_total, plain_highest, plain_count = _walk(
            total, highest, count, plain_total, plain_highest, plain_count, q, k, image * 0.0 + 1.0, 0, prefix,
            rows, start_q, start_k, start_v, start_mask, q_token, k_token, v_token, mask_row, mask_column,
            queries, keys, scale, HEAD_DIM, WIDTH, COLUMNS, False, BLENDS, MASK, WIDEN,
        )  # fmt: skip
    if HAS_GROUPS:
        text = _numbers(gamma_text, batch, head, rows, queries, text_batch, text_head, text_row, TEXT_IS_TENSOR)
        cross = _numbers(gamma_cross, batch, head, rows, queries, cross_batch, cross_head, cross_row, CROSS_IS_TENSOR)
        is_image = (prefix + rows >= image_start) & (prefix + rows < image_stop)
        to_text = tl.where(is_image, cross, text)
        to_image = tl.where(is_image, image, cross)
        start = tl.maximum(image_start, prefix)
        stop = tl.maximum(image_stop, prefix)
        total, highest, count, plain_total, plain_highest, plain_count = _walk(
            total, highest, count, plain_total, plain_highest, plain_count, q, k, to_text, prefix, start,
            rows, start_q, start_k, start_v, start_mask, q_token, k_token, v_token, mask_row, mask_column,
            queries, keys, scale, HEAD_DIM, WIDTH, COLUMNS, not TEXT_IS_PLAIN, BLENDS, MASK, WIDEN,
        )  # fmt: skip
        total, highest, count, plain_total, plain_highest, plain_count = _walk(
            total, highest, count, plain_total, plain_highest, plain_count, q, k, to_image, start, stop,
            rows, start_q, start_k, start_v, start_mask, q_token, k_token, v_token, mask_row, mask_column,
            queries, keys, scale, HEAD_DIM, WIDTH, COLUMNS, True, BLENDS, MASK, WIDEN,
        )  # fmt: skip
        total, highest, count, plain_total, plain_highest, plain_count = _walk(
            total, highest, count, plain_total, plain_highest, plain_count, q, k, to_text, stop, keys,
            rows, start_q, start_k, start_v, start_mask, q_token, k_token, v_token, mask_row, mask_column,
            queries, keys, scale, HEAD_DIM, WIDTH, COLUMNS, not TEXT_IS_PLAIN, BLENDS, MASK, WIDEN,
        )  # fmt: skip
    else:
        total, highest, count, plain_total, plain_highest, plain_count = _walk(
            total, highest, count, plain_total, plain_highest, plain_count, q, k, image, prefix, keys,
            rows, start_q, start_k, start_v, start_mask, q_token, k_token, v_token, mask_row, mask_column,
            queries, keys, scale, HEAD_DIM, WIDTH, COLUMNS, True, BLENDS, MASK, WIDEN,
        )  # fmt: skip

    result = _retrieved(total, count, IS_MASKED)
    if BLENDS:
        strength = _numbers(beta, batch, head, rows, queries, beta_batch, beta_head, beta_row, BETA_IS_TENSOR)
        plain = _retrieved(plain_total, plain_count, IS_MASKED)
        blended = plain + strength[:, None] * (result - plain)
        if GUARDS:
            ratio = _length(result) / _length(blended)
            ratio = tl.minimum(tl.maximum(ratio, 1.0 / LARGEST_RATIO), LARGEST_RATIO)
            ratio = tl.where(strength == 0.0, 1.0, ratio)  # β = 0 is neutral
            blended = blended * ratio[:, None]
        result = blended
    dims = tl.arange(0, WIDTH)
    inside = (rows < queries)[:, None]
    if WIDTH != HEAD_DIM:
        inside = inside & (dims < HEAD_DIM)[None, :]
    place = Out + batch * out_batch + head * out_head + rows[:, None] * out_token + dims[None, :]
    tl.store(place, result.to(Out.dtype.element_ty), mask=inside)


IS_INTERPRETED = not isinstance(skew_attention_kernel, triton.runtime.JITFunction)
"""True if Triton's interpreter runs the kernel, on any device, for tests (TRITON_INTERPRET=1)."""
