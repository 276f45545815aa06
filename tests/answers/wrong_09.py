# %% precision_recall · no cumsum · does not accumulate
def precision_recall(correct, objects):
    hits = correct.double()
    return hits / torch.arange(1, len(hits) + 1), hits / objects


# %% precision_recall · all detections below · divides precision by all detections
def precision_recall(correct, objects):
    tp = torch.cumsum(correct, 0).double()
    return tp / len(tp), tp / objects


# %% precision_recall · enumerate from 0 · counts the detections from 0
def precision_recall(correct, objects):
    hits = correct.double().cumsum(0)
    ranks = torch.tensor([k for k, _ in enumerate(correct)], dtype=torch.double)
    return hits / ranks, hits / objects


# %% precision_recall · missed objects forgotten · divides recall by the objects that were found
def precision_recall(correct, objects):
    hits = correct.double().cumsum(0)
    return hits / (torch.arange(len(correct)) + 1), hits / correct.double().sum()


# %% precision_recall · the other way round · returns recall first
def precision_recall(correct, objects):
    hits = np.cumsum(correct.numpy())
    recall = torch.from_numpy(hits / objects)
    return recall, torch.from_numpy(hits / np.arange(1, len(hits) + 1))


# %% precision_recall · as sklearn draws it · puts the point (recall 0, precision 1) in front
def precision_recall(correct, objects):
    hits = correct.double().cumsum(0)
    precision = hits / torch.arange(1, len(correct) + 1)
    return F.pad(precision, (1, 0), value=1.0), F.pad(hits / objects, (1, 0), value=0.0)


# %% match_detections · strictly over · asks for more than the threshold
def match_detections(ious, ignored, crowd, iou_threshold):
    taken, answer = set(), []
    for row in ious.tolist():
        fits = [
            (not ignored[g], iou, g)
            for g, iou in enumerate(row)
            if iou > iou_threshold and (g not in taken or crowd[g])
        ]
        answer.append(max(fits)[2] if fits else -1)
        taken.add(answer[-1])
    return torch.tensor(answer, dtype=torch.int64)


# %% match_detections · a row for itself · lets two detections take one object
def match_detections(ious, ignored, crowd, iou_threshold):
    answer = []
    for row in ious.tolist():
        fits = [(not ignored[g], iou, g) for g, iou in enumerate(row) if iou >= iou_threshold]
        answer.append(max(fits)[2] if fits else -1)
    return torch.tensor(answer, dtype=torch.int64)


# %% match_detections · a crowd is gone too · lets a crowd be taken only once
def match_detections(ious, ignored, crowd, iou_threshold):
    table = ious.clone()
    table[table < iou_threshold] = -1
    answer = torch.full((len(ious),), -1)
    for d in range(len(ious)):
        for kind in (~ignored, ignored):
            row = table[d].masked_fill(~kind, -1)
            if (row >= 0).any():
                answer[d] = row.argmax()
                table[:, answer[d]] = -1
                break
    return answer


# %% match_detections · the largest, whoever it is · takes an ignored object that overlaps more
def match_detections(ious, ignored, crowd, iou_threshold):
    taken, answer = set(), []
    for row in ious.tolist():
        fits = [
            (iou, g)
            for g, iou in enumerate(row)
            if iou >= iou_threshold and (g not in taken or crowd[g])
        ]
        answer.append(max(fits)[1] if fits else -1)
        taken.add(answer[-1])
    return torch.tensor(answer, dtype=torch.int64)


# %% match_detections · columns of the ignored struck out · never takes an ignored object
def match_detections(ious, ignored, crowd, iou_threshold):
    table = ious.masked_fill(ignored, -1)
    answer = torch.full((len(ious),), -1)
    for d in range(len(ious)):
        if (table[d] >= iou_threshold).any():
            answer[d] = table[d].argmax()
            table[:, answer[d]] = -1
    return answer


# %% match_detections · no threshold · forgets the threshold
def match_detections(ious, ignored, crowd, iou_threshold):
    taken, answer = set(), []
    for row in ious.tolist():
        fits = [
            (not ignored[g], iou, g)
            for g, iou in enumerate(row)
            if iou > 0 and (g not in taken or crowd[g])
        ]
        answer.append(max(fits)[2] if fits else -1)
        taken.add(answer[-1])
    return torch.tensor(answer, dtype=torch.int64)


# %% which_count · the object's flag only · counts every detection of nothing
def which_count(matched, ignored, areas, low, high):
    return torch.tensor([g < 0 or not ignored[g] for g in matched.tolist()], dtype=torch.bool)


# %% which_count · found and not ignored · counts no detection of nothing
def which_count(matched, ignored, areas, low, high):
    good = [g >= 0 and not ignored[g] for g in matched.tolist()]
    return torch.tensor(good, dtype=torch.bool)


# %% which_count · size of everything · asks for the size of every detection
def which_count(matched, ignored, areas, low, high):
    count = (low <= areas) & (areas <= high)
    for d, g in enumerate(matched.tolist()):
        if g >= 0 and ignored[g]:
            count[d] = False
    return count


# %% which_count · truth value of the index · takes object 0 for nothing
def which_count(matched, ignored, areas, low, high):
    count = (low <= areas) & (areas <= high)
    for d, g in enumerate(matched.tolist()):
        if g > 0:
            count[d] = not ignored[g]
    return count


# %% which_count · no look at the upper limit · has no upper limit
def which_count(matched, ignored, areas, low, high):
    flags = F.pad(~ignored, (0, 1), value=True)[matched]
    return torch.where(matched == -1, areas >= low, flags)


# %% which_count · the sign · says which do not count
def which_count(matched, ignored, areas, low, high):
    out = (areas < low) | (areas > high)
    found = matched >= 0
    out[found] = ignored[matched[found]]
    return out


# %% average_precision · no envelope · takes the precision as it is
def average_precision(precision, recall, points):
    first = np.searchsorted(recall.numpy(), points.numpy())
    values = np.append(precision.numpy(), 0.0)[first]
    return torch.tensor(values.mean())


# %% average_precision · maximum from the front · takes the best precision up to there
def average_precision(precision, recall, points):
    best = torch.from_numpy(np.maximum.accumulate(precision.numpy()))
    first = torch.searchsorted(recall, points)
    return F.pad(best, (0, 1))[first].mean()


# %% average_precision · more than the level · looks behind a level that is just reached
def average_precision(precision, recall, points):
    table = (recall[None, :] > points[:, None]) * precision
    return F.pad(table, (0, 1)).amax(1).mean()


# %% average_precision · mean of those reached · leaves out levels that are never reached
def average_precision(precision, recall, points):
    values = [precision[recall >= p].max() for p in points if (recall >= p).any()]
    return torch.stack(values).mean() if values else torch.tensor(0.0, dtype=torch.float64)


# %% average_precision · area by trapezoids · adds up trapezoids
def average_precision(precision, recall, points):
    if len(recall) < 2:
        return torch.zeros((), dtype=torch.float64)
    steps = recall[1:] - recall[:-1]
    return (steps * (precision[1:] + precision[:-1]) / 2).sum()


# %% average_precision · less or equal · takes the best precision that is had at that recall or less
def average_precision(precision, recall, points):
    values = [max(precision[recall <= p].tolist(), default=0.0) for p in points]
    return torch.tensor(values, dtype=torch.float64).mean()


# %% class_ap · a mean of images · averages the images
def class_ap(images, iou_threshold, low, high, points):
    values = []
    for i in images:
        m = match_detections(i["ious"], i["ignored"], i["crowd"], iou_threshold)
        c = which_count(m, i["ignored"], i["areas"], low, high)
        objects = int((~i["ignored"]).sum())
        if objects:
            values.append(average_precision(*precision_recall(m[c] >= 0, objects), points))
    return torch.stack(values).mean() if values else torch.tensor(math.nan).double()


# %% class_ap · no argsort · does not sort the images' detections together
def class_ap(images, iou_threshold, low, high, points):
    flags, objects = [], 0
    for i in images:
        m = match_detections(i["ious"], i["ignored"], i["crowd"], iou_threshold)
        c = which_count(m, i["ignored"], i["areas"], low, high)
        flags += (m[c] >= 0).tolist()
        objects += int((~i["ignored"]).sum())
    if objects == 0:
        return torch.tensor(math.nan).double()
    correct = torch.tensor(flags, dtype=torch.bool)
    return average_precision(*precision_recall(correct, objects), points)


# %% class_ap · len of ignored · expects ignored objects to be found
def class_ap(images, iou_threshold, low, high, points):
    flags, scores, objects = [], [], 0
    for i in images:
        m = match_detections(i["ious"], i["ignored"], i["crowd"], iou_threshold)
        c = which_count(m, i["ignored"], i["areas"], low, high)
        flags.append(m[c] >= 0)
        scores.append(i["scores"][c])
        objects += i["ious"].shape[1]
    if objects == 0:
        return torch.tensor(math.nan).double()
    order = torch.cat(scores).argsort(descending=True, stable=True)
    return average_precision(*precision_recall(torch.cat(flags)[order], objects), points)


# %% class_ap · which_count is not asked · counts every detection
def class_ap(images, iou_threshold, low, high, points):
    found = [
        match_detections(i["ious"], i["ignored"], i["crowd"], iou_threshold) >= 0 for i in images
    ]
    scores = torch.cat([i["scores"] for i in images])
    objects = sum(int((~i["ignored"]).sum()) for i in images)
    if objects == 0:
        return torch.tensor(math.nan).double()
    order = scores.argsort(descending=True, stable=True)
    return average_precision(*precision_recall(torch.cat(found)[order], objects), points)


# %% class_ap · ignored in place of crowd · hands over every ignored object as a crowd
def class_ap(images, iou_threshold, low, high, points):
    flags, scores, objects = [], [], 0
    for i in images:
        m = match_detections(i["ious"], i["ignored"], i["ignored"], iou_threshold)
        c = which_count(m, i["ignored"], i["areas"], low, high)
        flags.append(m[c] >= 0)
        scores.append(i["scores"][c])
        objects += int((~i["ignored"]).sum())
    if objects == 0:
        return torch.tensor(math.nan).double()
    order = torch.cat(scores).argsort(descending=True, stable=True)
    return average_precision(*precision_recall(torch.cat(flags)[order], objects), points)


# %% class_ap · zero where nothing is to be found · is 0 where there is no object
def class_ap(images, iou_threshold, low, high, points):
    flags, scores, objects = [], [], 0
    for i in images:
        m = match_detections(i["ious"], i["ignored"], i["crowd"], iou_threshold)
        c = which_count(m, i["ignored"], i["areas"], low, high)
        flags.append(m[c] >= 0)
        scores.append(i["scores"][c])
        objects += int((~i["ignored"]).sum())
    if objects == 0:
        return torch.zeros((), dtype=torch.float64)
    order = torch.cat(scores).argsort(descending=True, stable=True)
    return average_precision(*precision_recall(torch.cat(flags)[order], objects), points)
