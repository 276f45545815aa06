# %% match_detections · right · Python lists and sets, no tensors in the loop
def match_detections(ious, ignored, crowd, iou_threshold):
    table, skip, many = ious.tolist(), ignored.tolist(), crowd.tolist()
    used, answer = set(), []
    for row in table:
        choices = [
            (not skip[g], iou, g)
            for g, iou in enumerate(row)
            if iou >= iou_threshold and (g not in used or many[g])
        ]
        g = max(choices)[2] if choices else -1
        used.add(g)
        answer.append(g)
    return torch.tensor(answer, dtype=torch.int64)


# %% match_detections · right · what counts gets a bonus of ten, what is gone minus infinity
def match_detections(ious: Tensor, ignored: Tensor, crowd: Tensor, iou_threshold: float) -> Tensor:
    D, G = ious.shape
    result = torch.full((D,), -1, dtype=torch.long)
    if G == 0:
        return result
    worth = ious.double() + 10 * (~ignored)
    worth[ious < iou_threshold] = -math.inf
    for d in range(D):
        value, g = worth[d].max(0)
        if value > -math.inf:
            result[d] = g
            if not crowd[g]:
                worth[d + 1 :, g] = -math.inf
    return result


# %% match_detections · right · NumPy, two passes: first what counts, then the ignored
def match_detections(ious, ignored, crowd, iou_threshold):
    iou, ign, many = ious.numpy(), ignored.numpy(), crowd.numpy()
    taken = np.zeros(iou.shape[1], dtype=bool)
    out = np.full(iou.shape[0], -1, dtype=np.int64)
    for d in range(iou.shape[0]):
        for group in (~ign, ign):
            open_ = group & (iou[d] >= iou_threshold) & (many | ~taken)
            if open_.any():
                out[d] = np.where(open_, iou[d], -1).argmax()
                taken[out[d]] = True
                break
    return torch.from_numpy(out)


# %% match_detections · wrong · IoU has to be over the threshold
def match_detections(ious, ignored, crowd, iou_threshold):
    taken = torch.zeros(ious.shape[1], dtype=torch.bool)
    result = []
    for row in ious:
        ok = (row > iou_threshold) & (~taken | crowd)
        if (ok & ~ignored).any():
            ok = ok & ~ignored
        if ok.any():
            g = int(torch.where(ok, row, torch.tensor(-1.0)).argmax())
            taken[g] = True
            result.append(g)
        else:
            result.append(-1)
    return torch.tensor(result, dtype=torch.int64)


# %% match_detections · wrong · nobody remembers which objects are taken
def match_detections(ious, ignored, crowd, iou_threshold):
    result = torch.full((len(ious),), -1)
    for d, row in enumerate(ious):
        ok = row >= iou_threshold
        if (ok & ~ignored).any():
            ok = ok & ~ignored
        if ok.any():
            result[d] = row.masked_fill(~ok, -1).argmax()
    return result


# %% match_detections · wrong · the best object is fixed first, if it is gone the detection is lost
def match_detections(ious, ignored, crowd, iou_threshold):
    taken = set()
    result = torch.full((ious.shape[0],), -1, dtype=torch.int64)
    if ious.shape[1] == 0:
        return result
    for d in range(ious.shape[0]):
        ok = ious[d] >= iou_threshold
        if (ok & ~ignored).any():
            ok = ok & ~ignored
        g = int(ious[d].masked_fill(~ok, -1).argmax())
        if ok[g] and (g not in taken or crowd[g]):
            taken.add(g)
            result[d] = g
    return result


# %% match_detections · wrong · ignored objects compete like the others
def match_detections(ious, ignored, crowd, iou_threshold):
    free = torch.ones(ious.shape[1], dtype=torch.bool)
    result = torch.full((len(ious),), -1)
    for d, row in enumerate(ious):
        ok = (row >= iou_threshold) & (free | crowd)
        if ok.any():
            g = row.masked_fill(~ok, -1).argmax()
            result[d] = g
            free[g] = False
    return result


# %% match_detections · wrong · a crowd is used up by its first detection
def match_detections(ious, ignored, crowd, iou_threshold):
    free = torch.ones(ious.shape[1], dtype=torch.bool)
    result = torch.full((len(ious),), -1)
    for d, row in enumerate(ious):
        for which in (~ignored, ignored):
            ok = which & free & (row >= iou_threshold)
            if ok.any():
                result[d] = row.masked_fill(~ok, -1).argmax()
                free[result[d]] = False
                break
    return result


# %% match_detections · wrong · the first object that fits is taken, not the best
def match_detections(ious, ignored, crowd, iou_threshold):
    D, G = ious.shape
    result = torch.full((D,), -1, dtype=torch.int64)
    used = [False] * G
    order = [g for g in range(G) if not ignored[g]] + [g for g in range(G) if ignored[g]]
    for d in range(D):
        for g in order:
            if ious[d, g] >= iou_threshold and (not used[g] or crowd[g]):
                result[d] = g
                used[g] = True
                break
    return result


# %% match_detections · wrong · ignored objects are thrown out at the start
def match_detections(ious, ignored, crowd, iou_threshold):
    free = ~ignored
    result = torch.full((len(ious),), -1)
    for d, row in enumerate(ious):
        ok = free & (row >= iou_threshold)
        if ok.any():
            g = int(row.masked_fill(~ok, -1).argmax())
            result[d] = g
            free[g] = False
    return result


# %% match_detections · wrong · every ignored object can be taken again, as if it were a crowd
def match_detections(ious, ignored, crowd, iou_threshold):
    free = torch.ones(ious.shape[1], dtype=torch.bool)
    result = torch.full((len(ious),), -1)
    for d, row in enumerate(ious):
        possible = (free | ignored) & (row >= iou_threshold)
        if (possible & ~ignored).any():
            possible &= ~ignored
        if possible.any():
            g = row.masked_fill(~possible, -1).argmax()
            result[d] = g
            free[g] = False
    return result


# %% match_detections · wrong · the pairs take turns by IoU instead of the detections by score
def match_detections(ious, ignored, crowd, iou_threshold):
    result = torch.full((len(ious),), -1)
    used = set()
    pairs = [
        (bool(ignored[g]), -float(ious[d, g]), d, g)
        for d in range(ious.shape[0])
        for g in range(ious.shape[1])
        if ious[d, g] >= iou_threshold
    ]
    for _, _, d, g in sorted(pairs):
        if result[d] < 0 and (g not in used or crowd[g]):
            result[d] = g
            used.add(g)
    return result


# %% match_detections · wrong · right or wrong instead of which object
def match_detections(ious, ignored, crowd, iou_threshold):
    free = torch.ones(ious.shape[1], dtype=torch.bool)
    found = torch.zeros(len(ious), dtype=torch.bool)
    for d, row in enumerate(ious):
        possible = (free | crowd) & (row >= iou_threshold)
        if (possible & ~ignored).any():
            possible &= ~ignored
        if possible.any():
            free[row.masked_fill(~possible, -1).argmax()] = False
            found[d] = True
    return found


# %% match_detections · wrong · place in the shortened list of candidates
def match_detections(ious, ignored, crowd, iou_threshold):
    free = torch.ones(ious.shape[1], dtype=torch.bool)
    result = torch.full((len(ious),), -1)
    for d, row in enumerate(ious):
        possible = (free | crowd) & (row >= iou_threshold)
        if (possible & ~ignored).any():
            possible &= ~ignored
        if possible.any():
            result[d] = row[possible].argmax()
            free[result[d]] = False
    return result


# %% which_count · right · a loop with an if for each rule
def which_count(matched, ignored, areas, low, high):
    answer = torch.zeros(len(matched), dtype=torch.bool)
    for d in range(len(matched)):
        g = int(matched[d])
        if g == -1:
            answer[d] = bool(low <= areas[d] <= high)
        else:
            answer[d] = not ignored[g]
    return answer


# %% which_count · right · sets of numbers in NumPy
def which_count(matched, ignored, areas, low, high):
    skipped = np.flatnonzero(ignored.numpy())
    m, a = matched.numpy(), areas.numpy()
    nothing = m == -1
    out_of_range = (a < low) | (a > high)
    return torch.from_numpy(~np.isin(m, skipped) & ~(nothing & out_of_range))


# %% which_count · right · written into the places one after the other
def which_count(matched: Tensor, ignored: Tensor, areas: Tensor, low: float, high: float) -> Tensor:
    count = torch.empty_like(matched, dtype=torch.bool)
    hit = matched >= 0
    count[hit] = ignored[matched[hit]].logical_not()
    count[~hit] = areas[~hit].clamp(low, high) == areas[~hit]
    return count


# %% which_count · wrong · all detections have to have the right size
def which_count(matched, ignored, areas, low, high):
    inside = (areas >= low) & (areas <= high)
    took_ignored = torch.zeros_like(inside)
    took_ignored[matched >= 0] = ignored[matched[matched >= 0]]
    return inside & ~took_ignored


# %% which_count · wrong · false alarms of every size count
def which_count(matched, ignored, areas, low, high):
    keep = torch.ones(len(matched), dtype=torch.bool)
    for d, g in enumerate(matched.tolist()):
        if g >= 0 and ignored[g]:
            keep[d] = False
    return keep


# %% which_count · wrong · false alarms never count
def which_count(matched, ignored, areas, low, high):
    keep = torch.zeros(len(matched), dtype=torch.bool)
    for d, g in enumerate(matched.tolist()):
        if g >= 0:
            keep[d] = not ignored[g]
    return keep


# %% which_count · wrong · the limits themselves are outside
def which_count(matched, ignored, areas, low, high):
    inside = (low < areas) & (areas < high)
    return torch.stack(
        [~ignored[g] if g >= 0 else inside[d] for d, g in enumerate(matched)]
    ) if len(matched) else inside


# %% which_count · wrong · -1 asks the last object, without objects it raises
def which_count(matched, ignored, areas, low, high):
    inside = (areas >= low) & (areas <= high)
    return torch.where(matched < 0, inside, ~ignored[matched])


# %% which_count · wrong · the last object's flag decides for those that found nothing
def which_count(matched, ignored, areas, low, high):
    inside = (areas >= low) & (areas <= high)
    if len(ignored) == 0:
        return inside
    return ~ignored[matched] & (inside | (matched >= 0))


# %% which_count · wrong · object 0 is taken for "nothing found"
def which_count(matched, ignored, areas, low, high):
    inside = (areas >= low) & (areas <= high)
    flags = []
    for d, g in enumerate(matched.tolist()):
        flags.append(not bool(ignored[g]) if g > 0 else bool(inside[d]))
    return torch.tensor(flags, dtype=torch.bool)


# %% which_count · wrong · only the lower limit is looked at
def which_count(matched, ignored, areas, low, high):
    hit = matched >= 0
    result = areas >= low
    result[hit] = ~ignored[matched[hit]]
    return result


# %% which_count · wrong · the answer says which ones do not count
def which_count(matched, ignored, areas, low, high):
    hit = matched >= 0
    dropped = (areas < low) | (areas > high)
    dropped[hit] = ignored[matched[hit]]
    return dropped


# %% which_count · wrong · an ignored object of the right size counts after all
def which_count(matched, ignored, areas, low, high):
    hit = matched >= 0
    inside = (areas >= low) & (areas <= high)
    good = torch.zeros_like(hit)
    good[hit] = ~ignored[matched[hit]]
    return good | inside


# %% precision_recall · right · running counts in plain Python
def precision_recall(correct, objects):
    hits, precision, recall = 0, [], []
    for k, c in enumerate(correct.tolist(), start=1):
        hits += c
        precision.append(hits / k)
        recall.append(hits / objects)
    return torch.tensor(precision, dtype=torch.float64), torch.tensor(recall, dtype=torch.float64)


# %% precision_recall · right · lower triangle times the flags
def precision_recall(correct, objects):
    d = len(correct)
    lower = torch.ones(d, d, dtype=torch.float64).tril()
    hits = lower @ correct.to(torch.float64)
    return hits / lower.sum(1), hits / float(objects)


# %% precision_recall · right · np.cumsum of right and of wrong
def precision_recall(correct: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    c = correct.numpy()
    tp, fp = np.cumsum(c), np.cumsum(~c)
    return torch.from_numpy(tp / (tp + fp)), torch.from_numpy(tp / objects)


# %% precision_recall · wrong · always divided by the number of all detections
def precision_recall(correct, objects):
    hits = correct.double().cumsum(0)
    return hits / len(correct), hits / objects


# %% precision_recall · wrong · ranks begin at 0
def precision_recall(correct, objects):
    hits = correct.double().cumsum(0)
    return hits / torch.arange(len(correct)), hits / objects


# %% precision_recall · wrong · recall of the right ones that there are, ends at 1 always
def precision_recall(correct, objects):
    hits = correct.double().cumsum(0)
    ranks = torch.arange(1, len(correct) + 1)
    return hits / ranks, hits / hits[-1] if len(hits) else hits


# %% precision_recall · wrong · in single precision
def precision_recall(correct, objects):
    hits = correct.float().cumsum(0)
    return hits / torch.arange(1, len(correct) + 1), hits / objects


# %% precision_recall · wrong · recall first
def precision_recall(correct, objects):
    tp = torch.cumsum(correct.double(), 0)
    n = torch.arange(1, len(correct) + 1).double()
    return tp / objects, tp / n


# %% precision_recall · wrong · one number each, for the whole list
def precision_recall(correct, objects):
    tp = correct.double().sum()
    return tp / max(len(correct), 1), tp / objects


# %% precision_recall · wrong · a first point (1, 0) is put in front
def precision_recall(correct, objects):
    tp = correct.double().cumsum(0)
    n = torch.arange(1, len(correct) + 1)
    one = torch.ones(1, dtype=torch.float64)
    return torch.cat([one, tp / n]), torch.cat([one - 1, tp / objects])


# %% precision_recall · wrong · stack over a list, nothing to stack without detections
def precision_recall(correct, objects):
    p = torch.stack([correct[: k + 1].double().mean() for k in range(len(correct))])
    r = torch.stack([correct[: k + 1].double().sum() / objects for k in range(len(correct))])
    return p, r


# %% precision_recall · wrong · the wrong ones are left out of the curve
def precision_recall(correct, objects):
    tp = correct.double().cumsum(0)
    n = torch.arange(1, len(correct) + 1)
    return (tp / n)[correct], (tp / objects)[correct]


# %% average_precision · right · best of a list for each level
def average_precision(precision, recall, points):
    pairs = list(zip(precision.tolist(), recall.tolist()))
    best = [max([p for p, r in pairs if r >= level], default=0.0) for level in points.tolist()]
    return torch.tensor(sum(best) / len(best), dtype=torch.float64)


# %% average_precision · right · a table of levels against detections
def average_precision(precision, recall, points):
    reached = recall[None, :] >= points[:, None]
    table = torch.where(reached, precision[None, :], 0.0)
    table = F.pad(table, (0, 1))
    return table.amax(dim=1).mean()


# %% average_precision · right · pycocotools' own loop, from behind, in NumPy
def average_precision(precision: Tensor, recall: Tensor, points: Tensor) -> Tensor:
    pr = precision.numpy().copy()
    for i in range(len(pr) - 1, 0, -1):
        if pr[i] > pr[i - 1]:
            pr[i - 1] = pr[i]
    q = np.zeros(len(points))
    for ri, pi in enumerate(np.searchsorted(recall.numpy(), points.numpy(), side="left")):
        if pi < len(pr):
            q[ri] = pr[pi]
    return torch.tensor(q.mean())


# %% average_precision · wrong · precision at the first detection that gets there, no envelope
def average_precision(precision, recall, points):
    first = torch.searchsorted(recall, points)
    padded = torch.cat([precision, torch.zeros(1, dtype=torch.float64)])
    return padded[first].mean()


# %% average_precision · wrong · running maximum from the front
def average_precision(precision, recall, points):
    envelope = precision.cummax(0).values if len(precision) else precision
    padded = F.pad(envelope, (0, 1))
    return padded[torch.searchsorted(recall, points)].mean()


# %% average_precision · wrong · recall has to be more than the level
def average_precision(precision, recall, points):
    total = 0.0
    for level in points:
        there = precision[recall > level]
        total += float(there.max()) if len(there) else 0.0
    return torch.tensor(total / len(points), dtype=torch.float64)


# %% average_precision · wrong · mean of the levels that are reached
def average_precision(precision, recall, points):
    best = [precision[recall >= level].max() for level in points if (recall >= level).any()]
    return torch.stack(best).mean() if best else torch.zeros((), dtype=torch.float64)


# %% average_precision · wrong · straight lines between the detections
def average_precision(precision, recall, points):
    if len(recall) == 0:
        return torch.tensor(0.0, dtype=torch.float64)
    read = np.interp(points.numpy(), recall.numpy(), precision.numpy(), right=0.0)
    return torch.tensor(read.mean())


# %% average_precision · wrong · area under the curve by trapezoids, levels not used
def average_precision(precision, recall, points):
    return torch.trapezoid(precision, recall)


# %% average_precision · wrong · levels beyond the end get the last precision
def average_precision(precision, recall, points):
    if len(precision) == 0:
        return torch.zeros((), dtype=torch.float64)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    first = torch.searchsorted(recall, points).clamp(max=len(envelope) - 1)
    return envelope[first].mean()


# %% average_precision · wrong · fails where there is no detection (max of nothing)
def average_precision(precision, recall, points):
    best = torch.zeros(len(points), dtype=torch.float64)
    for i, level in enumerate(points):
        if level <= recall.max():
            best[i] = precision[recall >= level].max()
    return best.mean()


# %% average_precision · wrong · its own 101 levels whatever points says
def average_precision(precision, recall, points):
    levels = torch.linspace(0, 1, 101, dtype=torch.float64)
    best = [precision[recall >= level].max() if (recall >= level).any() else torch.tensor(0.0)
            for level in levels]
    return torch.tensor([float(b) for b in best], dtype=torch.float64).mean()


# %% average_precision · wrong · the best precision up to the level, not from it on
def average_precision(precision, recall, points):
    best = [float(precision[recall <= level].max()) if (recall <= level).any() else 0.0
            for level in points]
    return torch.tensor(best, dtype=torch.float64).mean()


# %% class_ap · right · everything in plain Python, no helper
def class_ap(images, iou_threshold, low, high, points):
    entries, total = [], 0
    for image in images:
        skip, many = image["ignored"].tolist(), image["crowd"].tolist()
        gone = set()
        total += skip.count(False)
        rows = zip(image["ious"].tolist(), image["scores"].tolist(), image["areas"].tolist())
        for row, score, area in rows:
            best = None
            for g, iou in enumerate(row):
                if iou < iou_threshold or (g in gone and not many[g]):
                    continue
                if best is None or (skip[best], -row[best]) > (skip[g], -iou):
                    best = g
            gone.add(best)
            if best is None and low <= area <= high:
                entries.append((score, False))
            elif best is not None and not skip[best]:
                entries.append((score, True))
    if total == 0:
        return torch.tensor(float("nan"), dtype=torch.float64)
    entries.sort(key=lambda e: -e[0])
    hits, curve = 0, []
    for k, (_, good) in enumerate(entries, 1):
        hits += good
        curve.append((hits / k, hits / total))
    best = [max((p for p, r in curve if r >= level), default=0.0) for level in points.tolist()]
    return torch.tensor(best, dtype=torch.float64).mean()


# %% class_ap · right · np.argsort of negative scores, mergesort
def class_ap(images, iou_threshold, low, high, points):
    n_objects = sum((im["ignored"] == False).sum().item() for im in images)  # noqa: E712
    if not n_objects:
        return torch.full((), math.nan, dtype=torch.float64)
    right, score = [np.zeros(0, dtype=bool)], [np.zeros(0)]
    for im in images:
        m = match_detections(im["ious"], im["ignored"], im["crowd"], iou_threshold)
        c = which_count(m, im["ignored"], im["areas"], low, high).numpy()
        right.append((m.numpy() != -1)[c])
        score.append(im["scores"].numpy()[c])
    order = np.argsort(-np.concatenate(score), kind="mergesort")
    p, r = precision_recall(torch.from_numpy(np.concatenate(right)[order]), n_objects)
    return average_precision(p, r, points)


# %% class_ap · right · Python's sorted over (score, flag) pairs
def class_ap(
    images: list[dict[str, Tensor]], iou_threshold: float, low: float, high: float, points: Tensor
) -> Tensor:
    objects, pairs = 0, []
    for image in images:
        ignored = image["ignored"]
        objects += len(ignored) - int(ignored.sum())
        found = match_detections(image["ious"], ignored, image["crowd"], iou_threshold)
        keep = which_count(found, ignored, image["areas"], low, high)
        for d in keep.nonzero().flatten().tolist():
            pairs.append((float(image["scores"][d]), bool(found[d] >= 0)))
    if objects == 0:
        return torch.tensor(math.nan).double()
    pairs = sorted(pairs, key=lambda pair: pair[0], reverse=True)
    flags = torch.tensor([flag for _, flag in pairs], dtype=torch.bool)
    return average_precision(*precision_recall(flags, objects), points)


# %% class_ap · wrong · AP of each image, then the mean
def class_ap(images, iou_threshold, low, high, points):
    aps = []
    for image in images:
        objects = int((~image["ignored"]).sum())
        if objects == 0:
            continue
        m = match_detections(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        c = which_count(m, image["ignored"], image["areas"], low, high)
        aps.append(average_precision(*precision_recall(m[c] >= 0, objects), points))
    if not aps:
        return torch.tensor(math.nan, dtype=torch.float64)
    return torch.stack(aps).mean()


# %% class_ap · wrong · image after image, never sorted
def class_ap(images, iou_threshold, low, high, points):
    flags, objects = [], 0
    for image in images:
        m = match_detections(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        c = which_count(m, image["ignored"], image["areas"], low, high)
        flags.append(m[c] >= 0)
        objects += int((~image["ignored"]).sum())
    if objects == 0:
        return torch.tensor(math.nan, dtype=torch.float64)
    return average_precision(*precision_recall(torch.cat(flags), objects), points)


# %% class_ap · wrong · lowest scores first
def class_ap(images, iou_threshold, low, high, points):
    flags, scores, objects = [], [], 0
    for image in images:
        m = match_detections(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        c = which_count(m, image["ignored"], image["areas"], low, high)
        flags.append(m[c] >= 0)
        scores.append(image["scores"][c])
        objects += int((~image["ignored"]).sum())
    if objects == 0:
        return torch.tensor(math.nan, dtype=torch.float64)
    order = torch.argsort(torch.cat(scores), stable=True)
    return average_precision(*precision_recall(torch.cat(flags)[order], objects), points)


# %% class_ap · wrong · ignored objects are among those to be found
def class_ap(images, iou_threshold, low, high, points):
    flags, scores, objects = [], [], 0
    for image in images:
        m = match_detections(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        c = which_count(m, image["ignored"], image["areas"], low, high)
        flags.append(m[c] >= 0)
        scores.append(image["scores"][c])
        objects += image["ious"].shape[1]
    if objects == 0:
        return torch.tensor(math.nan, dtype=torch.float64)
    order = torch.argsort(torch.cat(scores), descending=True, stable=True)
    return average_precision(*precision_recall(torch.cat(flags)[order], objects), points)


# %% class_ap · wrong · which_count never asked
def class_ap(images, iou_threshold, low, high, points):
    flags, scores, objects = [], [], 0
    for image in images:
        m = match_detections(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        flags.append(m >= 0)
        scores.append(image["scores"])
        objects += int((~image["ignored"]).sum())
    if objects == 0:
        return torch.tensor(math.nan, dtype=torch.float64)
    order = torch.argsort(torch.cat(scores), descending=True, stable=True)
    return average_precision(*precision_recall(torch.cat(flags)[order], objects), points)


# %% class_ap · wrong · 0 where there is nothing to find
def class_ap(images, iou_threshold, low, high, points):
    flags, scores, objects = [], [], 0
    for image in images:
        m = match_detections(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        c = which_count(m, image["ignored"], image["areas"], low, high)
        flags.append(m[c] >= 0)
        scores.append(image["scores"][c])
        objects += int((~image["ignored"]).sum())
    if objects == 0:
        return torch.zeros((), dtype=torch.float64)
    order = torch.argsort(torch.cat(scores), descending=True, stable=True)
    return average_precision(*precision_recall(torch.cat(flags)[order], objects), points)


# %% class_ap · wrong · images without detections are skipped, with their objects
def class_ap(images, iou_threshold, low, high, points):
    flags, scores, objects = [], [], 0
    for image in images:
        if len(image["scores"]) == 0:
            continue
        m = match_detections(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        c = which_count(m, image["ignored"], image["areas"], low, high)
        flags.append(m[c] >= 0)
        scores.append(image["scores"][c])
        objects += int((~image["ignored"]).sum())
    if objects == 0:
        return torch.tensor(math.nan, dtype=torch.float64)
    order = torch.argsort(torch.cat(scores), descending=True, stable=True)
    return average_precision(*precision_recall(torch.cat(flags)[order], objects), points)


# %% class_ap · wrong · nan as well where nothing was detected
def class_ap(images, iou_threshold, low, high, points):
    flags, scores, objects = [], [], 0
    for image in images:
        m = match_detections(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        c = which_count(m, image["ignored"], image["areas"], low, high)
        flags += (m[c] >= 0).tolist()
        scores += image["scores"][c].tolist()
        objects += int((~image["ignored"]).sum())
    if objects == 0 or not flags:
        return torch.tensor(math.nan, dtype=torch.float64)
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    flags = torch.tensor([flags[i] for i in order])
    return average_precision(*precision_recall(flags, objects), points)


# %% class_ap · wrong · flags turned round after sorting upwards, equal scores change places
def class_ap(images, iou_threshold, low, high, points):
    flags, scores, objects = [], [], 0
    for image in images:
        m = match_detections(image["ious"], image["ignored"], image["crowd"], iou_threshold)
        c = which_count(m, image["ignored"], image["areas"], low, high)
        flags.append(m[c] >= 0)
        scores.append(image["scores"][c])
        objects += int((~image["ignored"]).sum())
    if objects == 0:
        return torch.tensor(math.nan, dtype=torch.float64)
    order = torch.argsort(torch.cat(scores), stable=True).flip(0)
    return average_precision(*precision_recall(torch.cat(flags)[order], objects), points)


# %% class_ap · wrong · crowds handed over as all that is ignored
def class_ap(images, iou_threshold, low, high, points):
    flags, scores, objects = [], [], 0
    for image in images:
        ignored = image["ignored"]
        m = match_detections(image["ious"], ignored, ignored, iou_threshold)
        c = which_count(m, ignored, image["areas"], low, high)
        flags.append(m[c] >= 0)
        scores.append(image["scores"][c])
        objects += int((~ignored).sum())
    if objects == 0:
        return torch.tensor(math.nan, dtype=torch.float64)
    order = torch.argsort(torch.cat(scores), descending=True, stable=True)
    return average_precision(*precision_recall(torch.cat(flags)[order], objects), points)
