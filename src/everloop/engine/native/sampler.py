"""The next token of many requests at once, each row by its own rules and its own noise.

A row's result depends on its logits, its settings and its draw alone. Sums that decide a draw run
in a fixed order in float64 (`cumsum`), so they don't depend on the batch either.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from everloop.engine.native.backend import Choice

CANDIDATES = (64, 512)
"""Most likely tokens that top_k, top_p and min_p look at, first a few, then more; a distribution
flatter than that is sorted whole."""

_ALL = 2**40


def sample(logits: Tensor, choices: Sequence[Choice], draws: Sequence[float]) -> list[int]:
    """One token id per row of finite `logits` (rows, V); `draws` are uniform in [0, 1).

    Order: bias and penalties, temperature, top_k, top_p, min_p, draw. Temperature 0 takes the
    largest logit, the lowest id of equal ones. `logits` is left as it was.
    """
    if any(c.penalizes or c.logit_bias for c in choices):
        logits = logits.clone()
        for row, choice in zip(logits, choices, strict=True):
            adjust(row, choice)
    groups: dict[str, list[int]] = {"greedy": [], "plain": [], "cut": []}
    for i, choice in enumerate(choices):
        kind = "greedy" if choice.temperature == 0 else "cut" if choice.filters else "plain"
        groups[kind].append(i)
    out = [0] * len(choices)
    for kind, rows in groups.items():
        if not rows:
            continue
        part = logits if len(rows) == len(choices) else logits[rows]
        if kind == "greedy":
            ids = part.argmax(-1)
        else:
            u = torch.tensor([draws[i] for i in rows], dtype=torch.float64).to(part.device)[:, None]
            picked = [choices[i] for i in rows]
            ids = _draw_cut(part, picked, u) if kind == "cut" else _draw(part, picked, u)
        for i, token in zip(rows, ids.tolist(), strict=True):
            out[i] = token
    return out


def adjust(row: Tensor, choice: Choice) -> None:
    """Applies penalties and bias to one row of logits (V,), in place."""
    if choice.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(choice.prompt | choice.output.keys()), device=row.device)
        if len(seen):
            kept = row[seen]
            factor = choice.repetition_penalty
            row[seen] = torch.where(kept > 0, kept / factor, kept * factor)
    if choice.output and (choice.presence_penalty or choice.frequency_penalty):
        ids = torch.tensor(list(choice.output), device=row.device)
        counts = torch.tensor(list(choice.output.values()), dtype=row.dtype, device=row.device)
        row[ids] -= choice.frequency_penalty * counts + choice.presence_penalty
    if choice.logit_bias:
        ids = torch.tensor(list(choice.logit_bias), device=row.device)
        bias = torch.tensor(list(choice.logit_bias.values()), dtype=row.dtype, device=row.device)
        row[ids] += bias


def _weights(logits: Tensor, choices: Sequence[Choice]) -> Tensor:
    """exp((x - max) / temperature): unnormalized probabilities, the largest is 1."""
    # Below 1e-6 float32 would underflow; nothing but the largest logit has weight there anyway.
    heat = torch.tensor([max(c.temperature, 1e-6) for c in choices])
    temperatures = heat.to(logits.device)[:, None]
    return logits.sub(logits.amax(-1, keepdim=True)).div_(temperatures).exp_()


def _draw(logits: Tensor, choices: Sequence[Choice], u: Tensor) -> Tensor:
    return _search(_weights(logits, choices).cumsum(-1, dtype=torch.float64), u)


def _search(sums: Tensor, u: Tensor) -> Tensor:
    """The first index whose running sum exceeds u · (the last one). A token of weight zero adds
    nothing to the sum, so it is never found."""
    return torch.searchsorted(sums, u * sums[:, -1:], right=True)[:, 0]


def _draw_cut(logits: Tensor, choices: Sequence[Choice], u: Tensor) -> Tensor:
    weights = _weights(logits, choices)
    totals = weights.cumsum(-1, dtype=torch.float64)[:, -1:]
    size = logits.shape[-1]
    tokens = torch.zeros(len(choices), dtype=torch.int64, device=logits.device)
    rows = list(range(len(choices)))
    for level in (*CANDIDATES, size):
        if level < size:
            best, ids = weights[rows].topk(level, dim=-1)
        else:
            best, ids = weights[rows].sort(dim=-1, descending=True, stable=True)
        kept, known = _cut(best, totals[rows], [choices[i] for i in rows], whole=level >= size)
        places = _search(kept.cumsum(-1), u[rows])
        found = ids.gather(1, places[:, None])[:, 0]
        tokens[[i for i, k in zip(rows, known, strict=True) if k]] = found[known]
        rows = [i for i, k in zip(rows, known, strict=True) if not k]
        if not rows:
            break
    return tokens


def _cut(
    best: Tensor, totals: Tensor, choices: Sequence[Choice], *, whole: bool
) -> tuple[Tensor, list[bool]]:
    """Weights (rows, n), largest first, with those cut off set to zero, in float64; and for each
    row whether these n were enough to know. `totals` are the sums over the whole vocabulary."""
    n = best.shape[1]
    best = best.double()
    ks = torch.tensor([min(c.top_k or _ALL, _ALL) for c in choices]).to(best.device)[:, None]
    ranks = torch.arange(n, device=best.device)
    kept = torch.where(ranks < ks, best, 0.0)
    sums = kept.cumsum(-1)
    totals = torch.where(ks <= n, sums[:, -1:], totals)
    limits = torch.tensor([[c.top_p, c.min_p] for c in choices], dtype=torch.float64)
    top_p, min_p = limits.to(best.device).hsplit(2)
    # A token stays while those before it don't reach top_p; the first one always stays.
    stays = ((sums - kept < top_p * totals) | (top_p >= 1.0)) & (kept >= min_p)
    stays[:, 0] = True
    kept = torch.where(stays, kept, 0.0)
    if whole:
        return kept, [True] * len(choices)
    # Enough if the last candidate was cut off: whatever comes after it is smaller still. A top_k
    # beyond the candidates changes the total, so it needs the whole order.
    known = (kept[:, -1] == 0.0) & ((ks[:, 0] <= n) | (ks[:, 0] == _ALL))
    known |= ks[:, 0] == n
    return kept, known.tolist()
