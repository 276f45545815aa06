# %% suppress_greedily · loops over pairs
def suppress_greedily(overlaps):
    keep = []
    for j in range(len(overlaps)):
        keep.append(not any(keep[i] and bool(overlaps[i, j]) for i in range(j)))
    return torch.tensor(keep, dtype=torch.bool)


# %% suppress_greedily · round trip through NumPy
def suppress_greedily(overlaps):
    table = overlaps.numpy()
    keep = np.ones(len(table), dtype=bool)
    for i in np.arange(len(table)):
        if keep[i]:
            keep[i + 1 :] = keep[i + 1 :] & ~table[i, i + 1 :]
    return torch.from_numpy(keep)


# %% suppress_greedily · in rounds, a vector times a matrix
def suppress_greedily(overlaps):
    before = overlaps.triu(1).float()
    keep = torch.ones(len(before))
    while True:
        better = (torch.einsum("i,ij->j", keep, before) == 0).float()
        if torch.equal(better, keep):
            return keep.bool()
        keep = better


# %% suppress_greedily · a list of those that wait
def suppress_greedily(overlaps):
    waiting, kept = list(range(len(overlaps))), []
    while waiting:
        best = waiting.pop(0)
        kept.append(best)
        waiting = [other for other in waiting if not overlaps[best, other]]
    keep = torch.zeros(len(overlaps)).bool()
    keep[kept] = True
    return keep


# %% suppress_greedily · removed counted in whole numbers, columns instead of rows
def suppress_greedily(overlaps):
    pairs = overlaps.to(torch.int64).tril(-1)
    keep = torch.ones(len(pairs), dtype=torch.int64)
    for j in range(len(pairs)):
        keep[j] = int((pairs[j] * keep).sum() == 0)
    return keep.to(torch.bool)


# %% nms · loop over the boxes kept
def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def nms(boxes, scores, iou_threshold, max_output_size=None):
    rows, values = boxes.tolist(), scores.tolist()
    kept = []
    for i in sorted(range(len(rows)), key=lambda i: -values[i]):
        if all(overlap(rows[i], rows[k]) <= iou_threshold for k in kept):
            kept.append(i)
    return torch.tensor(kept[:max_output_size], dtype=torch.int64)


# %% nms · round trip through NumPy
def nms(boxes, scores, iou_threshold, max_output_size=None):
    b = boxes.numpy().astype(np.float64)
    order = np.argsort(-scores.numpy(), kind="stable")
    area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        w = np.clip(
            np.minimum(b[best, 2], b[rest, 2]) - np.maximum(b[best, 0], b[rest, 0]), 0, None
        )
        h = np.clip(
            np.minimum(b[best, 3], b[rest, 3]) - np.maximum(b[best, 1], b[rest, 1]), 0, None
        )
        shared = w * h
        union = area[best] + area[rest] - shared
        order = rest[~(shared > iou_threshold * union)]
    return torch.as_tensor(np.array(kept, dtype=np.int64)[:max_output_size])


# %% nms · a mask of those that are left
def nms(boxes, scores, iou_threshold, max_output_size=None):
    order = torch.sort(scores, descending=True, stable=True).indices
    left = torch.ones(len(boxes), dtype=torch.bool)
    kept = []
    for i in order.tolist():
        if not left[i]:
            continue
        kept.append(i)
        left &= box_iou(boxes[i : i + 1], boxes)[0] <= iou_threshold
        left[i] = False
    result = torch.tensor(kept, dtype=torch.int64)
    return result if max_output_size is None else result[:max_output_size]


# %% nms · stops at the limit, in double precision
def nms(boxes, scores, iou_threshold, max_output_size=None):
    limit = len(boxes) if max_output_size is None else max_output_size
    order = scores.double().argsort(dim=0, descending=True, stable=True)
    kept = order.new_empty(0)
    for i in order:
        if len(kept) >= limit:
            break
        if (
            not len(kept)
            or box_iou(boxes[i][None].double(), boxes[kept].double()).max() <= iou_threshold
        ):
            kept = torch.cat([kept, i[None]])
    return kept


# %% nms · in rounds, ranks from comparing scores
def nms(boxes, scores, iou_threshold, max_output_size=None):
    n = len(boxes)
    place = torch.arange(n)
    earlier = (scores[:, None] > scores[None]) | (
        (scores[:, None] == scores[None]) & (place[:, None] < place[None])
    )  # (N, N): the row comes before the column
    removes = (earlier & (box_iou(boxes, boxes) > iou_threshold)).float()
    keep = torch.ones(n)
    for _ in range(n):
        keep = (keep @ removes == 0).float()
    rank = earlier.sum(0)
    kept = keep.nonzero().squeeze(1)
    return kept[rank[kept].argsort()][:max_output_size]


# %% batched_nms · group by group
def batched_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
    kept = [torch.zeros(0, dtype=torch.int64)]
    for group in groups.unique().tolist():
        members = (groups == group).nonzero().flatten()
        kept.append(members[nms(boxes[members], scores[members], iou_threshold)])
    kept = torch.cat(kept).sort().values
    return kept[scores[kept].argsort(descending=True, stable=True)][:max_output_size]


# %% batched_nms · groups numbered anew and moved apart
def batched_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
    if boxes.shape[0] == 0:
        return torch.zeros(0, dtype=torch.int64)
    number = groups.unique(return_inverse=True)[1].double()
    spread = boxes.max().double() - boxes.min().double() + 1
    return nms(boxes.double() + (number * spread)[:, None], scores, iou_threshold, max_output_size)


# %% batched_nms · loop over the boxes kept
def batched_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        rivals = [k for k in kept if groups[k] == groups[i]]
        if not rivals or (box_iou(boxes[[i]], boxes[rivals]) <= iou_threshold).all():
            kept.append(i)
    return torch.tensor(kept[:max_output_size], dtype=torch.int64)


# %% batched_nms · round trip through NumPy
def batched_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
    iou, group = box_iou(boxes, boxes).numpy(), groups.numpy()
    kept = []
    for i in np.argsort(-scores.numpy(), kind="stable"):
        if not any(group[k] == group[i] and iou[k, i] > iou_threshold for k in kept):
            kept.append(i)
    return torch.from_numpy(np.array(kept, dtype=np.int64))[:max_output_size]


# %% batched_nms · one matrix, other groups weigh nothing
def batched_nms(boxes, scores, groups, iou_threshold, max_output_size=None):
    order = torch.sort(scores, stable=True, descending=True)[1]
    same = torch.eq(groups[order].unsqueeze(1), groups[order].unsqueeze(0)).float()
    iou = torch.einsum("ij,ij->ij", box_iou(boxes[order], boxes[order]), same)
    over = torch.where(same.bool(), iou > iou_threshold, False)
    kept = order[suppress_greedily(over)]
    return kept if max_output_size is None else kept[:max_output_size]


# %% proposal_recall · loops
def proposal_recall(proposals, ground_truths, iou_threshold):
    covered = objects = 0
    for boxes, truth in zip(proposals, ground_truths, strict=True):
        for one in truth:
            objects += 1
            covered += any(box_iou(one[None], box[None]).item() >= iou_threshold for box in boxes)
    return torch.tensor(covered / objects if objects else math.nan)


# %% proposal_recall · round trip through NumPy
def proposal_recall(proposals, ground_truths, iou_threshold):
    hits = [np.zeros(0, dtype=bool)]
    for boxes, truth in zip(proposals, ground_truths, strict=True):
        hits.append((box_iou(truth, boxes).numpy() >= iou_threshold).any(axis=1))
    hits = np.concatenate(hits)
    return torch.tensor(np.float32(hits.sum() / hits.size) if hits.size else float("nan"))


# %% proposal_recall · best IoU of each object
def proposal_recall(proposals, ground_truths, iou_threshold):
    best = []
    for boxes, truth in zip(proposals, ground_truths, strict=True):
        iou = box_iou(truth, boxes)
        best.append(F.pad(iou, (0, 1)).amax(1))  # a column of zeros: without proposals nothing
    return (torch.cat(best) >= iou_threshold).float().mean()


# %% proposal_recall · one matrix, images kept apart
def proposal_recall(proposals, ground_truths, iou_threshold):
    def image_of(parts):
        return torch.cat([torch.full((len(part),), i) for i, part in enumerate(parts)])

    iou = box_iou(torch.cat(ground_truths), torch.cat(proposals))
    own = image_of(ground_truths)[:, None] == image_of(proposals)
    return ((iou >= iou_threshold) & own).any(1).float().mean()


# %% proposal_recall · sums and a quotient, in double precision
def proposal_recall(proposals, ground_truths, iou_threshold):
    covered, count = torch.zeros((), dtype=torch.float64), 0
    for boxes, truth in zip(proposals, ground_truths, strict=True):
        over = torch.ge(box_iou(truth, boxes), iou_threshold).sum(1)
        covered += torch.clamp(over, max=1).sum()
        count += truth.shape[0]
    return (covered / count).float()
