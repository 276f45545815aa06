# %% label_proposals · loops over pairs
def label_proposals(proposals, truth, labels, num_classes, iou_threshold):
    boxes, classes, matched = [*proposals, *truth], [], []
    for box in boxes:
        best, nearest = -1.0, 0
        for g, object_ in enumerate(truth):
            iou = float(box_iou(object_[None], box[None]))
            if iou > best:
                best, nearest = iou, g
        good = len(truth) > 0 and best >= iou_threshold
        classes.append(int(labels[nearest]) if good else num_classes)
        matched.append(nearest)
    boxes = torch.stack(boxes) if boxes else proposals
    return boxes, torch.tensor(classes, dtype=torch.int64), torch.tensor(matched, dtype=torch.int64)


# %% label_proposals · round trip through NumPy
def label_proposals(proposals, truth, labels, num_classes, iou_threshold):
    boxes = np.concatenate([proposals.numpy(), truth.numpy()])
    classes = np.full(len(boxes), num_classes, dtype=np.int64)
    matched = np.zeros(len(boxes), dtype=np.int64)
    if len(truth):
        iou = box_iou(truth, torch.from_numpy(boxes)).numpy()
        matched = iou.argmax(0)
        good = iou.max(0) >= iou_threshold
        classes[good] = labels.numpy()[matched[good]]
    return torch.from_numpy(boxes), torch.from_numpy(classes), torch.from_numpy(matched)


# %% label_proposals · a row for the background, and torch.vstack
def label_proposals(proposals, truth, labels, num_classes, iou_threshold):
    boxes = torch.vstack((proposals, truth))
    if not len(truth):
        return boxes, labels.new_full((len(boxes),), num_classes), labels.new_zeros(len(boxes))
    iou = box_iou(boxes, truth)
    matched = iou.argmax(1)
    best = iou.gather(1, matched[:, None])[:, 0]
    answers = torch.cat([labels, labels.new_tensor([num_classes])])
    return boxes, answers[torch.where(best < iou_threshold, len(truth), matched)], matched


# %% label_proposals · with lesson 05's match
def label_proposals(proposals, truth, labels, num_classes, iou_threshold):
    from fbnet_lesson.detection.matching import match

    boxes = torch.cat((proposals, truth), dim=0)
    matched, good = match(box_iou(truth, boxes), iou_threshold, iou_threshold)
    classes = torch.full_like(good, num_classes)
    classes[good == 1] = labels[matched[good == 1]]
    return boxes, classes, matched


# %% label_proposals · in double precision, masked_fill
def label_proposals(proposals, truth, labels, num_classes, iou_threshold):
    boxes = torch.cat([proposals, truth])
    if truth.numel() == 0:
        zeros = torch.zeros(boxes.shape[0]).long()
        return boxes, zeros + num_classes, zeros
    best, matched = torch.max(box_iou(truth.double(), boxes.double()), dim=0)
    return boxes, labels[matched].masked_fill(best < iou_threshold, num_classes), matched


# %% box_head_losses · loops over proposals
def box_head_losses(class_logits, deltas, labels, target_deltas):
    classes, boxes = torch.tensor(0.0), torch.tensor(0.0)
    for r in range(len(labels)):
        k = int(labels[r])
        classes = classes + class_logits[r].logsumexp(0) - class_logits[r, k]
        if k < deltas.shape[1]:
            boxes = boxes + sum(abs(deltas[r, k, i] - target_deltas[r, i]) for i in range(4))
    count = len(labels) or 1
    return {"loss_cls": classes / count, "loss_box_reg": boxes / count}


# %% box_head_losses · round trip through NumPy
def box_head_losses(class_logits, deltas, labels, target_deltas):
    z, d, t = class_logits.numpy(), deltas.numpy(), target_deltas.numpy()
    c, classes = labels.numpy(), deltas.shape[1]
    count = max(len(c), 1)
    high = z.max(1, keepdims=True, initial=-1e9)
    shares = z - high - np.log(np.exp(z - high).sum(1, keepdims=True))
    rows = np.arange(len(c))
    fg = c < classes
    box = np.abs(d[rows[fg], c[fg]] - t[fg]).sum()
    found = {"loss_cls": -shares[rows, c].sum() / count, "loss_box_reg": box / count}
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in found.items()}


# %% box_head_losses · torch.nn.functional, one hot
def box_head_losses(class_logits, deltas, labels, target_deltas):
    count = max(1, class_logits.shape[0])
    wanted = F.one_hot(labels, class_logits.shape[1]).float()
    classes = -(F.log_softmax(class_logits, dim=1) * wanted).sum()
    apart = (deltas - target_deltas[:, None]).abs().sum(2)
    return {"loss_cls": classes / count, "loss_box_reg": (apart * wanted[:, :-1]).sum() / count}


# %% box_head_losses · einsum
def box_head_losses(class_logits, deltas, labels, target_deltas):
    count = max(len(labels), 1)
    wanted = F.one_hot(labels, class_logits.shape[1]).to(class_logits)
    right = torch.einsum("rk,rk->", class_logits.log_softmax(-1), wanted)
    apart = (deltas - target_deltas[:, None]).abs()
    box = torch.einsum("rki,rk->", apart, wanted[:, :-1])
    return {"loss_cls": -right / count, "loss_box_reg": box / count}


# %% box_head_losses · gather, in double precision, other order of keys
def box_head_losses(class_logits, deltas, labels, target_deltas):
    objects = labels < deltas.shape[1]
    index = labels[objects][:, None, None].expand(-1, 1, 4)
    own = deltas[objects].double().gather(1, index).squeeze(1)
    box = (own - target_deltas[objects].double()).abs().sum()
    classes = F.nll_loss(class_logits.double().log_softmax(1), labels, reduction="sum")
    count = max(len(labels), 1)
    return {"loss_box_reg": (box / count).float(), "loss_cls": (classes / count).float()}


# %% detections_from · loop over proposals and classes
def detections_from(class_logits, deltas, proposals, size, score_threshold, nms_threshold, most):
    height, width = size
    shares = class_logits.softmax(-1)
    rows, scores, labels = [], [], []
    for r in range(len(proposals)):
        x1, y1, x2, y2 = proposals[r].tolist()
        for k in range(deltas.shape[1]):
            if shares[r, k] > score_threshold:
                dx, dy, dw, dh = deltas[r, k].tolist()
                w, h = x2 - x1, y2 - y1
                x, y = x1 + w / 2 + dx / 10 * w, y1 + h / 2 + dy / 10 * h
                w, h = w * math.exp(dw / 5), h * math.exp(dh / 5)
                box = x - w / 2, y - h / 2, x + w / 2, y + h / 2
                limits = width, height, width, height
                rows.append([min(max(v, 0), m) for v, m in zip(box, limits)])
                scores.append(shares[r, k])
                labels.append(k)
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    scores = torch.stack(scores) if scores else torch.zeros(0)
    labels = torch.tensor(labels, dtype=torch.int64)
    keep = batched_nms(boxes, scores, labels, nms_threshold, most)
    return boxes[keep], scores[keep], labels[keep]


# %% detections_from · class by class, joined and sorted
def detections_from(class_logits, deltas, proposals, size, score_threshold, nms_threshold, most):
    shares = F.softmax(class_logits, dim=1)
    boxes, scores, labels, rows = [], [], [], []
    for k in range(deltas.shape[1]):
        moved = clip_boxes(decode_boxes(deltas[:, k], proposals, (10, 10, 5, 5)), size)
        row = torch.where(shares[:, k] > score_threshold)[0]
        one = torch.zeros_like(row)
        row = row[batched_nms(moved[row], shares[row, k], one, nms_threshold)]
        boxes.append(moved[row])
        scores.append(shares[row, k])
        labels.append(torch.full_like(row, k))
        rows.append(row)
    boxes, scores, labels, rows = (torch.cat(part) for part in (boxes, scores, labels, rows))
    first = (rows * deltas.shape[1] + labels).argsort()
    order = first[scores[first].argsort(descending=True, stable=True)][:most]
    return boxes[order], scores[order], labels[order]


# %% detections_from · flattened to one list of R * K pairs
def detections_from(class_logits, deltas, proposals, size, score_threshold, nms_threshold, most):
    count, classes = deltas.shape[:2]
    scores = class_logits.softmax(1)[:, :classes].flatten()
    labels = torch.arange(classes).repeat(count)
    every = proposals.repeat_interleave(classes, 0)
    boxes = clip_boxes(decode_boxes(deltas.reshape(-1, 4), every, WEIGHTS), size)
    over = scores > score_threshold
    boxes, scores, labels = boxes[over], scores[over], labels[over]
    keep = batched_nms(boxes, scores, labels, nms_threshold)[:most]
    return boxes[keep], scores[keep], labels[keep]


# %% detections_from · NumPy for the scores
def detections_from(class_logits, deltas, proposals, size, score_threshold, nms_threshold, most):
    e = np.exp(class_logits.numpy())
    shares = (e / e.sum(1, keepdims=True))[:, :-1]
    row, label = (torch.from_numpy(part) for part in np.nonzero(shares > score_threshold))
    scores = torch.from_numpy(shares)[row, label]
    boxes = decode_boxes(deltas[row, label], proposals[row], WEIGHTS)
    boxes = clip_boxes(boxes, size)
    keep = batched_nms(boxes, scores, label, nms_threshold)
    keep = keep[: min(most, len(keep))]
    return boxes[keep], scores[keep], label[keep]


# %% detections_from · exp of log_softmax, sizes by hand
def detections_from(class_logits, deltas, proposals, size, score_threshold, nms_threshold, most):
    shares = class_logits.log_softmax(-1).exp()[..., :-1]
    corner, edges = proposals[:, None, :2], proposals[:, None, 2:] - proposals[:, None, :2]
    middle = corner + edges / 2 + deltas[..., :2] / 10 * edges
    half = edges * (deltas[..., 2:] / 5).exp() / 2
    boxes = torch.cat([middle - half, middle + half], -1)
    limit = torch.tensor([size[1], size[0]] * 2)
    boxes = boxes.clamp(min=0).minimum(limit)
    pairs = torch.argwhere(shares > score_threshold)
    boxes, scores, label = boxes[pairs[:, 0], pairs[:, 1]], shares[tuple(pairs.T)], pairs[:, 1]
    keep = batched_nms(boxes, scores, label, nms_threshold, most)
    return boxes[keep], scores[keep], label[keep]


# %% assign_levels · loop over boxes
def assign_levels(boxes, first, last):
    levels = []
    for x1, y1, x2, y2 in boxes.tolist():
        area = (x2 - x1) * (y2 - y1)
        level = math.floor(4 + math.log2(math.sqrt(area) / 224)) if area > 0 else first
        levels.append(min(max(level, first), last) - first)
    return torch.tensor(levels, dtype=torch.int64)


# %% assign_levels · NumPy
def assign_levels(boxes, first, last):
    b = boxes.numpy().astype(np.float64)
    edge = np.sqrt((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]))
    with np.errstate(divide="ignore"):
        level = np.floor(4 + np.log2(edge / 224))
    return torch.from_numpy((level.clip(first, last) - first).astype(np.int64))


# %% assign_levels · counts the borders that are passed
def assign_levels(boxes, first, last):
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    borders = torch.tensor([224.0 * 2.0 ** (k - 4) for k in range(first + 1, last + 1)])
    return ((wide * high).sqrt()[:, None] >= borders).sum(1)


# %% assign_levels · half the logarithm of the area
def assign_levels(boxes, first, last):
    wide, high = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    level = 4 + 0.5 * torch.log2(wide * high / 224**2)
    return level.clamp(first, last).floor().long() - first


# %% assign_levels · bucketize, in double precision
def assign_levels(boxes, first, last):
    area = (boxes[:, 2:] - boxes[:, :2]).double().prod(1)
    borders = torch.tensor([(14 * 2**k) ** 2 for k in range(first + 1, last + 1)]).double()
    return torch.bucketize(area, borders, right=True)
