# %% suppress_greedily · right · two nested loops over Python lists
def suppress_greedily(overlaps: Tensor) -> Tensor:
    rows = overlaps.tolist()
    n = len(rows)
    alive = [True] * n
    for i in range(n):
        if not alive[i]:
            continue
        for j in range(i + 1, n):
            if rows[i][j]:
                alive[j] = False
    return torch.tensor(alive, dtype=torch.bool)


# %% suppress_greedily · right · the formula, box by box: is one of the kept before it in the way
def suppress_greedily(overlaps: Tensor) -> Tensor:
    n = overlaps.shape[0]
    keep = torch.zeros(n, dtype=torch.bool, device=overlaps.device)
    for j in range(n):
        keep[j] = ~(keep[:j] & overlaps[:j, j]).any()
    return keep


# %% suppress_greedily · wrong · removed boxes go on removing (Fast NMS, one round)
def suppress_greedily(overlaps: Tensor) -> Tensor:
    return ~overlaps.triu(diagonal=1).any(dim=0)


# %% suppress_greedily · wrong · assignment instead of "and not", switches boxes on again
def suppress_greedily(overlaps: Tensor) -> Tensor:
    keep = torch.ones(len(overlaps), dtype=torch.bool)
    for i in range(len(overlaps)):
        if keep[i]:
            keep[i + 1 :] = ~overlaps[i, i + 1 :]
    return keep


# %% suppress_greedily · wrong · whole row including the box itself
def suppress_greedily(overlaps: Tensor) -> Tensor:
    keep = torch.ones(len(overlaps), dtype=torch.bool)
    for i in range(len(overlaps)):
        if keep[i]:
            keep &= ~overlaps[i]
    return keep


# %% suppress_greedily · wrong · indices of the kept boxes instead of a mask
def suppress_greedily(overlaps: Tensor) -> Tensor:
    kept = []
    for i in range(len(overlaps)):
        if not any(bool(overlaps[j, i]) for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


# %% nms · right · list of the kept, each candidate compared with all of them
from fbnet_lesson.detection.boxes import box_iou


def nms(boxes, scores, iou_threshold, max_output_size=None):
    kept = []
    for i in torch.sort(scores, descending=True, stable=True).indices.tolist():
        if max_output_size is not None and len(kept) >= max_output_size:
            break
        if kept and bool((box_iou(boxes[i : i + 1], boxes[kept]) > iou_threshold).any()):
            continue
        kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


# %% nms · right · the waiting list shrinks
from fbnet_lesson.detection.boxes import box_iou


def nms(boxes, scores, iou_threshold, max_output_size=None):
    waiting = torch.argsort(-scores, stable=True)
    result = []
    while waiting.numel() > 0:
        first, waiting = waiting[0], waiting[1:]
        result.append(first)
        overlap = box_iou(boxes[first][None], boxes[waiting])[0]
        waiting = waiting[~(overlap > iou_threshold)]
    if not result:
        return torch.zeros(0, dtype=torch.int64)
    return torch.stack(result)[:max_output_size]


# %% nms · wrong · a box exactly at the threshold is dropped
from fbnet_lesson.detection.boxes import box_iou


def nms(boxes, scores, iou_threshold, max_output_size=None):
    waiting = scores.argsort(descending=True, stable=True)
    result = []
    while len(waiting):
        first, waiting = waiting[0], waiting[1:]
        result.append(int(first))
        waiting = waiting[box_iou(boxes[first][None], boxes[waiting])[0] < iou_threshold]
    return torch.tensor(result, dtype=torch.int64)[:max_output_size]


# %% nms · wrong · the limit cuts the candidates before anything is suppressed
from fbnet_lesson.detection.boxes import box_iou


def nms(boxes, scores, iou_threshold, max_output_size=None):
    waiting = scores.argsort(descending=True, stable=True)[:max_output_size]
    result = []
    while len(waiting):
        first, waiting = waiting[0], waiting[1:]
        result.append(int(first))
        waiting = waiting[box_iou(boxes[first][None], boxes[waiting])[0] <= iou_threshold]
    return torch.tensor(result, dtype=torch.int64)


# %% nms · wrong · ascending sort turned round, so equal scores come in reverse order
from fbnet_lesson.detection.boxes import box_iou


def nms(boxes, scores, iou_threshold, max_output_size=None):
    waiting = scores.argsort(stable=True).flip(0)
    result = []
    while len(waiting):
        first, waiting = waiting[0], waiting[1:]
        result.append(int(first))
        waiting = waiting[box_iou(boxes[first][None], boxes[waiting])[0] <= iou_threshold]
    return torch.tensor(result, dtype=torch.int64)[:max_output_size]


# %% nms · wrong · ranks returned instead of indices in boxes
from fbnet_lesson.detection.boxes import box_iou


def nms(boxes, scores, iou_threshold, max_output_size=None):
    order = scores.argsort(descending=True, stable=True)
    too_much = box_iou(boxes[order], boxes[order]) > iou_threshold
    keep = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if keep[i]:
            keep[i + 1 :] &= ~too_much[i, i + 1 :]
    return keep.nonzero().flatten()[:max_output_size]


# %% nms · wrong · "if max_output_size" takes a limit of 0 for no limit, and a list comes back
from fbnet_lesson.detection.boxes import box_iou


def nms(boxes, scores, iou_threshold, max_output_size=None):
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(float(box_iou(boxes[i][None], boxes[k][None])) <= iou_threshold for k in kept):
            kept.append(i)
    if max_output_size:
        kept = kept[:max_output_size]
    return kept


# %% batched_nms · right · overlaps of different groups switched off
from fbnet_lesson.detection.boxes import box_iou


def batched_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
    order = scores.argsort(descending=True, stable=True)
    b, g = boxes[order], groups[order]
    clash = (box_iou(b, b) > iou_threshold) & (g[:, None] == g[None, :])
    keep = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if keep[i]:
            keep[i + 1 :] = keep[i + 1 :] & ~clash[i, i + 1 :]
    return order[keep][:max_output_size]


# %% batched_nms · right · dictionary of the kept boxes of each group
from fbnet_lesson.detection.boxes import box_iou


def batched_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
    kept_of = {}
    out = []
    labels = groups.tolist()
    for i in scores.argsort(descending=True, stable=True).tolist():
        if max_output_size is not None and len(out) == max_output_size:
            break
        mine = kept_of.setdefault(labels[i], [])
        if mine and (box_iou(boxes[[i]], boxes[mine]) > iou_threshold).any():
            continue
        mine.append(i)
        out.append(i)
    return torch.tensor(out, dtype=torch.int64)


# %% batched_nms · wrong · loop over the groups, joined without sorting by score
from fbnet_lesson.detection.nms import nms as single_nms


def batched_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
    parts = [torch.zeros(0, dtype=torch.int64)]
    for g in groups.unique():
        where = (groups == g).nonzero().flatten()
        parts.append(where[single_nms(boxes[where], scores[where], iou_threshold)])
    return torch.cat(parts)[:max_output_size]


# %% batched_nms · wrong · the limit is given to each group
from fbnet_lesson.detection.nms import nms as single_nms


def batched_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    for g in groups.unique():
        where = (groups == g).nonzero().flatten()
        kept[where[single_nms(boxes[where], scores[where], iou_threshold, max_output_size)]] = True
    order = scores.argsort(descending=True, stable=True)
    return order[kept[order]]


# %% batched_nms · wrong · groups moved apart by the largest coordinate only, negative ones forgotten
from fbnet_lesson.detection.nms import nms as single_nms


def batched_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64)
    offset = groups.to(boxes) * (boxes.max() + 1)
    return single_nms(boxes + offset[:, None], scores, iou_threshold, max_output_size)


# %% batched_nms · wrong · groups not sorted together with the boxes
from fbnet_lesson.detection.boxes import box_iou


def batched_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
    order = scores.argsort(descending=True, stable=True)
    b = boxes[order]
    clash = (box_iou(b, b) > iou_threshold) & (groups[:, None] == groups)
    keep = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if keep[i]:
            keep[i + 1 :] &= ~clash[i, i + 1 :]
    return order[keep][:max_output_size]


# %% batched_nms · wrong · indices within the group, not within all boxes
from fbnet_lesson.detection.nms import nms as single_nms


def batched_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
    kept, values = [torch.zeros(0, dtype=torch.int64)], [scores[:0]]
    for g in groups.unique():
        m = groups == g
        k = single_nms(boxes[m], scores[m], iou_threshold)
        kept.append(k)
        values.append(scores[m][k])
    order = torch.cat(values).argsort(descending=True, stable=True)
    return torch.cat(kept)[order][:max_output_size]


# %% proposal_recall · right · counts hits and objects
from fbnet_lesson.detection.boxes import box_iou


def proposal_recall(proposals, ground_truths, iou_threshold):
    hits = total = 0
    for p, g in zip(proposals, ground_truths):
        total += len(g)
        if len(p) and len(g):
            hits += int((box_iou(g, p).max(dim=1).values >= iou_threshold).sum())
    return torch.tensor(hits / total if total else float("nan"))


# %% proposal_recall · wrong · mean of the images' recalls
from fbnet_lesson.detection.boxes import box_iou


def proposal_recall(proposals, ground_truths, iou_threshold):
    shares = []
    for p, g in zip(proposals, ground_truths):
        if len(g):
            shares.append((box_iou(g, p) >= iou_threshold).any(1).float().mean())
    return torch.stack(shares).mean() if shares else torch.tensor(float("nan"))


# %% proposal_recall · wrong · over the threshold, as in NMS, instead of at least
from fbnet_lesson.detection.boxes import box_iou


def proposal_recall(proposals, ground_truths, iou_threshold):
    found = [(box_iou(g, p) > iou_threshold).any(1) for p, g in zip(proposals, ground_truths)]
    if not found:
        return torch.tensor(float("nan"))
    return torch.cat(found).float().mean()


# %% proposal_recall · wrong · share of the proposals that hit something (precision)
from fbnet_lesson.detection.boxes import box_iou


def proposal_recall(proposals, ground_truths, iou_threshold):
    good = [(box_iou(g, p) >= iou_threshold).any(0) for p, g in zip(proposals, ground_truths)]
    return torch.cat(good).float().mean()


# %% proposal_recall · wrong · 0 instead of nan without objects
from fbnet_lesson.detection.boxes import box_iou


def proposal_recall(proposals, ground_truths, iou_threshold):
    covered, total = 0, 0
    for p, g in zip(proposals, ground_truths):
        covered += (box_iou(g, p) >= iou_threshold).any(1).sum().item()
        total += g.shape[0]
    return torch.tensor(covered / max(total, 1))
