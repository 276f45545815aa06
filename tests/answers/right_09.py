# %% precision_recall · running counts
def precision_recall(correct, objects):
    hits, precision, recall = 0, [], []
    for k in range(len(correct)):
        hits += int(correct[k])
        precision.append(hits / (k + 1))
        recall.append(hits / objects)
    return torch.tensor(precision, dtype=torch.double), torch.tensor(recall, dtype=torch.double)


# %% precision_recall · NumPy round trip
def precision_recall(correct, objects):
    hits = correct.numpy().cumsum().astype(np.float64)
    k = np.arange(len(hits)) + 1.0
    return torch.from_numpy(hits / k), torch.from_numpy(hits / objects)


# %% precision_recall · cumulative sum of ones as the rank
def precision_recall(correct, objects):
    rank = torch.ones_like(correct, dtype=torch.int64).cumsum(0)
    hits = torch.cumsum(correct.long(), dim=0)
    return hits.double() / rank, hits.double() / objects


# %% precision_recall · one einsum with a lower triangle
def precision_recall(correct, objects):
    flags = correct.to(torch.float64)
    lower = torch.tril(torch.ones(len(flags), len(flags), dtype=torch.float64))
    hits = torch.einsum("kd,d->k", lower, flags)
    return hits / lower.sum(dim=1), hits / objects


# %% precision_recall · right and wrong counted apart
def precision_recall(correct, objects):
    right = correct.cumsum(0)
    wrong = (~correct).cumsum(0)
    missed = objects - right
    right = right.double()
    return right / (right + wrong), right / (right + missed)


# %% match_detections · two loops
def match_detections(ious, ignored, crowd, iou_threshold):
    taken, answer = [False] * ious.shape[1], []
    for d in range(ious.shape[0]):
        best, best_iou = -1, 0.0
        for g in range(ious.shape[1]):
            iou = float(ious[d, g])
            if iou < iou_threshold or (taken[g] and not crowd[g]):
                continue
            better_kind = best >= 0 and bool(ignored[best]) and not ignored[g]
            same_kind = best < 0 or bool(ignored[best]) == bool(ignored[g])
            if better_kind or (same_kind and iou > best_iou):
                best, best_iou = g, iou
        if best >= 0:
            taken[best] = True
        answer.append(best)
    return torch.tensor(answer, dtype=torch.int64)


# %% match_detections · pycocotools' order: those that count first, a stop at the first ignored
def match_detections(ious, ignored, crowd, iou_threshold):
    order = torch.argsort(ignored.int(), stable=True).tolist()
    result = torch.full((len(ious),), -1, dtype=torch.int64)
    taken = set()
    for d in range(len(ious)):
        bar, best = iou_threshold, -1
        for g in order:
            if g in taken and not crowd[g]:
                continue
            if best > -1 and not ignored[best] and ignored[g]:
                break
            if ious[d, g] < bar:
                continue
            bar, best = ious[d, g], g
        if best > -1:
            result[d] = best
            taken.add(best)
    return result


# %% match_detections · NumPy round trip
def match_detections(ious, ignored, crowd, iou_threshold):
    table = np.array(ious.numpy(), copy=True)
    table[table < iou_threshold] = -np.inf
    skip, many = ignored.numpy(), crowd.numpy()
    answer = np.full(len(table), -1)
    if table.shape[1] == 0:
        return torch.from_numpy(answer)
    for d in range(len(table)):
        row = table[d]
        if (row[~skip] > -np.inf).any():
            row = np.where(skip, -np.inf, row)
        g = row.argmax()
        if row[g] > -np.inf:
            answer[d] = g
            if not many[g]:
                table[:, g] = -np.inf
    return torch.from_numpy(answer)


# %% match_detections · indices of those possible, in single precision
def match_detections(ious, ignored, crowd, iou_threshold):
    left = torch.ones_like(ignored)
    answer = []
    for row in ious:
        found = torch.tensor(-1)
        for kind in (ignored.logical_not(), ignored):
            places = torch.nonzero(kind & (left | crowd) & (row >= iou_threshold)).flatten()
            if len(places):
                found = places[row[places].float().argmax()]
                left[found] = False
                break
        answer.append(found)
    return torch.stack(answer) if answer else torch.zeros(0, dtype=torch.int64)


# %% match_detections · topk over ranks, with a column for nothing
def match_detections(ious, ignored, crowd, iou_threshold):
    worth = torch.where(ious >= iou_threshold, ious - 2.0 * ignored, -9.0)
    nothing = F.pad(worth, (0, 1), value=-5.0)
    for d in range(len(nothing)):
        g = nothing[d].topk(1).indices
        if g < ious.shape[1] and not crowd[g]:
            nothing[d + 1 :, g] = -9.0
    best = nothing.max(1).indices
    return torch.where(best == ious.shape[1], -1, best)


# %% which_count · a loop
def which_count(matched, ignored, areas, low, high):
    answer = []
    for g, area in zip(matched.tolist(), areas.tolist(), strict=True):
        answer.append(low <= area <= high if g < 0 else not ignored[g])
    return torch.tensor(answer, dtype=torch.bool)


# %% which_count · NumPy round trip
def which_count(matched, ignored, areas, low, high):
    index, area = matched.numpy(), areas.numpy()
    flags = np.append(ignored.numpy(), False)
    good = np.where(index < 0, (low <= area) & (area <= high), ~flags[index])
    return torch.from_numpy(good)


# %% which_count · a mask that is filled in
def which_count(matched, ignored, areas, low, high):
    count = areas.ge(low).logical_and(areas.le(high))
    found = matched != -1
    count[found] = ~ignored[matched[found]]
    return count


# %% which_count · F.one_hot of the objects, and a product
def which_count(matched, ignored, areas, low, high):
    took = F.one_hot(matched + 1, len(ignored) + 1)[:, 1:].double()
    of_ignored = (took @ ignored.double()) > 0
    of_none = took.sum(1) == 0
    outside = (areas < low) | (areas > high)
    return ~(of_ignored | (of_none & outside))


# %% which_count · a bool padded in front, looked up one further
def which_count(matched, ignored, areas, low, high):
    skipped = F.pad(ignored.int(), (1, 0)).bool().index_select(0, matched + 1)
    nothing_of_size = (areas - areas.clamp(low, high)).abs() == 0
    return ~skipped & ((matched >= 0) | nothing_of_size)


# %% average_precision · loop over levels
def average_precision(precision, recall, points):
    total = 0.0
    for level in points:
        there = precision[recall >= level]
        total += float(there.max()) if len(there) else 0.0
    return torch.tensor(total / len(points), dtype=torch.float64)


# %% average_precision · NumPy, maximum.accumulate and searchsorted
def average_precision(precision, recall, points):
    best = np.maximum.accumulate(precision.numpy()[::-1])[::-1]
    first = np.searchsorted(recall.numpy(), points.numpy(), side="left")
    values = np.zeros(len(points))
    values[first < len(best)] = best[first[first < len(best)]]
    return torch.tensor(values.mean())


# %% average_precision · table of levels by detections
def average_precision(precision, recall, points):
    had = (recall[None, :] >= points[:, None]) * precision
    return F.pad(had, (0, 1)).amax(dim=1).mean()


# %% average_precision · envelope in a loop from behind
def average_precision(precision, recall, points):
    best = precision.clone()
    for k in range(len(best) - 2, -1, -1):
        best[k] = torch.maximum(best[k], best[k + 1])
    ends = torch.cat([recall, recall.new_tensor([math.inf])])
    values = torch.cat([best, best.new_zeros(1)])
    return torch.stack([values[(ends >= p).int().argmax()] for p in points]).mean()


# %% average_precision · levels counted by how many each detection is the first to reach
def average_precision(precision, recall, points):
    place = (recall < points[:, None]).sum(1)
    share = torch.bincount(place, minlength=len(recall) + 1).to(torch.float64) / len(points)
    best = [max(precision[k:].tolist()) for k in range(len(precision))]
    return torch.einsum("d,d->", share[:-1], torch.tensor(best, dtype=torch.float64))


# %% class_ap · lists and sorted pairs
def class_ap(images, iou_threshold, low, high, points):
    pairs, objects = [], 0
    for image in images:
        matched = match_detections(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        count = which_count(matched, image["ignored"], image["areas"], low, high)
        for d in range(len(matched)):
            if count[d]:
                pairs.append((float(image["scores"][d]), bool(matched[d] >= 0)))
        objects += len(image["ignored"]) - int(image["ignored"].sum())
    if not objects:
        return torch.tensor(float("nan"), dtype=torch.float64)
    pairs.sort(key=lambda pair: pair[0], reverse=True)
    correct = torch.tensor([flag for _, flag in pairs], dtype=torch.bool)
    precision, recall = precision_recall(correct, objects)
    return average_precision(precision, recall, points)


# %% class_ap · NumPy, argsort of the negative
def class_ap(images, iou_threshold, low, high, points):
    flags, scores = [np.zeros(0, bool)], [np.zeros(0)]
    for i in images:
        m = match_detections(i["ious"], i["ignored"], i["crowd"], iou_threshold)
        c = which_count(m, i["ignored"], i["areas"], low, high).numpy()
        flags.append((m.numpy() >= 0)[c])
        scores.append(i["scores"].numpy()[c])
    objects = sum(int(np.count_nonzero(~i["ignored"].numpy())) for i in images)
    if objects == 0:
        return torch.full((), math.nan, dtype=torch.float64)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    correct = torch.from_numpy(np.concatenate(flags)[order])
    return average_precision(*precision_recall(correct, objects), points)


# %% class_ap · torch.sort of all, then those that count
def class_ap(images, iou_threshold, low, high, points):
    matched = [
        match_detections(i["ious"], i["ignored"], i["crowd"], iou_threshold) for i in images
    ]
    count = torch.cat(
        [
            which_count(m, i["ignored"], i["areas"], low, high)
            for m, i in zip(matched, images, strict=True)
        ]
    )
    found = torch.cat(matched) >= 0
    objects = int((~torch.cat([i["ignored"] for i in images])).sum())
    if objects == 0:
        return torch.tensor(math.nan).double()
    _, order = torch.sort(torch.cat([i["scores"] for i in images]), descending=True, stable=True)
    correct = found[order][count[order]]
    return average_precision(*precision_recall(correct, objects), points)


# %% class_ap · one image after the other, inserted where its scores belong
def class_ap(images, iou_threshold, low, high, points):
    scores, flags, objects = [], [], 0
    for image in images:
        objects += (~image["ignored"]).long().sum().item()
        matched = match_detections(
            ious=image["ious"],
            ignored=image["ignored"],
            crowd=image["crowd"],
            iou_threshold=iou_threshold,
        )
        count = which_count(matched, image["ignored"], image["areas"], low=low, high=high)
        for score, g in zip(image["scores"][count].tolist(), matched[count].tolist(), strict=True):
            place = sum(other >= score for other in scores)
            scores.insert(place, score)
            flags.insert(place, g >= 0)
    if objects == 0:
        return torch.tensor(math.nan, dtype=torch.double)
    correct = torch.tensor(flags, dtype=torch.bool)
    return average_precision(*precision_recall(correct, objects), points)


# %% class_ap · ranks by comparing all with all, then a scatter
def class_ap(images, iou_threshold, low, high, points):
    table = []
    for image in images:
        m = match_detections(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        c = which_count(m, image["ignored"], image["areas"], low, high)
        table.append(torch.stack([image["scores"][c], (m[c] >= 0).double()], 1))
    rows = torch.cat(table)
    objects = sum(int(image["ignored"].logical_not().sum()) for image in images)
    if objects == 0:
        return torch.tensor([math.nan], dtype=torch.float64).squeeze()
    above = rows[None, :, 0] > rows[:, None, 0]
    earlier = (rows[None, :, 0] == rows[:, None, 0]).tril(-1)
    rank = (above | earlier).sum(1)
    correct = torch.zeros(len(rows), dtype=torch.bool).scatter(0, rank, rows[:, 1] > 0)
    return average_precision(*precision_recall(correct, objects), points)
