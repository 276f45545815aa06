# %% match · right · masks and where
def match(iou, low, high, allow_low_quality=False):
    if not 0 <= low <= high:
        raise ValueError("need 0 <= low <= high")
    g, a = iou.shape
    if g == 0 or a == 0:
        zeros = torch.zeros(a, dtype=torch.int64, device=iou.device)
        return zeros, zeros.clone()
    best, _ = iou.max(dim=0)
    # first row among equals
    matched = (iou == best).int().argmax(dim=0)
    labels = torch.where(best >= high, 1, torch.where(best < low, 0, -1))
    if allow_low_quality:
        row_best = iou.max(dim=1, keepdim=True).values
        claimed = ((iou == row_best) & (row_best > 0)).any(dim=0)
        labels = torch.where(claimed, 1, labels)
    return matched.long(), labels.long()


# %% match · right · columns in a loop, comparisons left to tensors
def match(iou: Tensor, low: float, high: float, allow_low_quality: bool = False):
    if low < 0 or high < low:
        raise ValueError(f"bad thresholds {low}, {high}")
    rows, cols = iou.shape
    matched = torch.zeros(cols, dtype=torch.long)
    labels = torch.zeros(cols, dtype=torch.long)
    if rows == 0:
        return matched, labels
    for a in range(cols):
        for g in range(1, rows):
            if iou[g, a] > iou[matched[a], a]:
                matched[a] = g
        value = iou[matched[a], a]
        if value >= high:
            labels[a] = 1
        elif value < low:
            labels[a] = 0
        else:
            labels[a] = -1
    if allow_low_quality and cols > 0:
        for g in range(rows):
            top = iou[g].max()
            if top > 0:
                labels[iou[g] == top] = 1
    return matched, labels


# %% match · wrong · strictly over high for a positive
def match(iou, low, high, allow_low_quality=False):
    if not 0 <= low <= high:
        raise ValueError("thresholds")
    if iou.numel() == 0:
        z = torch.zeros(iou.shape[1], dtype=torch.int64)
        return z, z.clone()
    best, matched = iou.max(0)
    labels = torch.full_like(matched, -1)
    labels[best < low] = 0
    labels[best > high] = 1
    if allow_low_quality:
        top = iou.amax(1, keepdim=True)
        labels[((iou == top) & (iou > 0)).any(0)] = 1
    return matched, labels


# %% match · wrong · an object that overlaps nothing claims every anchor
def match(iou, low, high, allow_low_quality=False):
    if not 0 <= low <= high:
        raise ValueError("thresholds")
    if iou.numel() == 0:
        z = torch.zeros(iou.shape[1], dtype=torch.int64)
        return z, z.clone()
    best, matched = iou.max(0)
    labels = torch.full_like(matched, -1)
    labels[best < low] = 0
    labels[best >= high] = 1
    if allow_low_quality:
        labels[(iou == iou.amax(1, keepdim=True)).any(0)] = 1
    return matched, labels


# %% match · wrong · only one of an object's equally good anchors is claimed (argmax)
def match(iou, low, high, allow_low_quality=False):
    if not 0 <= low <= high:
        raise ValueError("thresholds")
    if iou.numel() == 0:
        z = torch.zeros(iou.shape[1], dtype=torch.int64)
        return z, z.clone()
    best, matched = iou.max(0)
    labels = torch.full_like(matched, -1)
    labels[best < low] = 0
    labels[best >= high] = 1
    if allow_low_quality:
        value, where = iou.max(1)
        labels[where[value > 0]] = 1
    return matched, labels


# %% match · wrong · claimed anchors are also made to answer for their claimant
def match(iou, low, high, allow_low_quality=False):
    if not 0 <= low <= high:
        raise ValueError("thresholds")
    if iou.numel() == 0:
        z = torch.zeros(iou.shape[1], dtype=torch.int64)
        return z, z.clone()
    best, matched = iou.max(0)
    labels = torch.full_like(matched, -1)
    labels[best < low] = 0
    labels[best >= high] = 1
    if allow_low_quality:
        for g in range(iou.shape[0]):
            top = iou[g].max()
            if top > 0:
                mine = iou[g] == top
                labels[mine] = 1
                matched[mine] = g
    return matched, labels


# %% match · wrong · without ground truth everything is ignored instead of background
def match(iou, low, high, allow_low_quality=False):
    if not 0 <= low <= high:
        raise ValueError("thresholds")
    labels = torch.full((iou.shape[1],), -1, dtype=torch.int64)
    matched = torch.zeros(iou.shape[1], dtype=torch.int64)
    if iou.numel() == 0:
        return matched, labels
    best, matched = iou.max(0)
    labels[best < low] = 0
    labels[best >= high] = 1
    if allow_low_quality:
        top = iou.amax(1, keepdim=True)
        labels[((iou == top) & (top > 0)).any(0)] = 1
    return matched, labels


# %% match · wrong · thresholds not validated, and labels are floats
def match(iou, low, high, allow_low_quality=False):
    if iou.numel() == 0:
        return torch.zeros(iou.shape[1], dtype=torch.int64), torch.zeros(iou.shape[1])
    best, matched = iou.max(0)
    labels = -torch.ones(iou.shape[1])
    labels[best < low] = 0
    labels[best >= high] = 1
    if allow_low_quality:
        top = iou.amax(1, keepdim=True)
        labels[((iou == top) & (top > 0)).any(0)] = 1
    return matched, labels


# %% sample_by_keys · right · nonzero and topk of the negated keys
def sample_by_keys(labels, keys, batch_size, positive_fraction):
    def smallest(value, count):
        places = torch.nonzero(labels == value).flatten()
        count = min(count, len(places))
        chosen = keys[places].topk(count, largest=False).indices
        return places[chosen].sort().values

    positives = smallest(1, math.floor(batch_size * positive_fraction))
    return positives, smallest(0, batch_size - len(positives))


# %% sample_by_keys · right · Python lists sorted by key
def sample_by_keys(labels: Tensor, keys: Tensor, batch_size: int, positive_fraction: float):
    values = labels.tolist()
    ranked = sorted(range(len(values)), key=keys.tolist().__getitem__)
    pos = [i for i in ranked if values[i] == 1][: int(batch_size * positive_fraction)]
    neg = [i for i in ranked if values[i] == 0][: batch_size - len(pos)]
    return (
        torch.tensor(sorted(pos), dtype=torch.int64),
        torch.tensor(sorted(neg), dtype=torch.int64),
    )


# %% sample_by_keys · wrong · indices come in the order of the keys, not ascending
def sample_by_keys(labels, keys, batch_size, positive_fraction):
    order = keys.argsort()
    pos = order[labels[order] == 1][: int(batch_size * positive_fraction)]
    neg = order[labels[order] == 0][: batch_size - len(pos)]
    return pos, neg


# %% sample_by_keys · wrong · background limited to the other share of the batch
def sample_by_keys(labels, keys, batch_size, positive_fraction):
    order = keys.argsort()
    n_pos = int(batch_size * positive_fraction)
    pos = order[labels[order] == 1][:n_pos]
    neg = order[labels[order] == 0][: batch_size - n_pos]
    return pos.sort()[0], neg.sort()[0]


# %% sample_by_keys · wrong · everything that is not positive counts as background
def sample_by_keys(labels, keys, batch_size, positive_fraction):
    order = keys.argsort()
    pos = order[labels[order] == 1][: int(batch_size * positive_fraction)]
    neg = order[labels[order] != 1][: batch_size - len(pos)]
    return pos.sort().values, neg.sort().values


# %% sample_by_keys · wrong · the largest keys
def sample_by_keys(labels, keys, batch_size, positive_fraction):
    order = keys.argsort(descending=True)
    pos = order[labels[order] == 1][: int(batch_size * positive_fraction)]
    neg = order[labels[order] == 0][: batch_size - len(pos)]
    return pos.sort().values, neg.sort().values


# %% sample_by_keys · wrong · number of positives rounded up
def sample_by_keys(labels, keys, batch_size, positive_fraction):
    order = keys.argsort()
    pos = order[labels[order] == 1][: math.ceil(batch_size * positive_fraction)]
    neg = order[labels[order] == 0][: batch_size - pos.numel()]
    return pos.sort().values, neg.sort().values


# %% encode_boxes · right · columns by hand
def encode_boxes(boxes: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    def split(b):
        w = b[:, 2] - b[:, 0]
        h = b[:, 3] - b[:, 1]
        if not bool(((w > 0) & (h > 0)).all()):
            raise ValueError("a box has no area")
        return b[:, 0] + w / 2, b[:, 1] + h / 2, w, h

    x, y, w, h = split(boxes)
    xa, ya, wa, ha = split(anchors)
    wx, wy, ww, wh = weights
    return torch.stack(
        [
            wx * (x - xa) / wa,
            wy * (y - ya) / ha,
            ww * torch.log(w / wa),
            wh * torch.log(h / ha),
        ],
        dim=1,
    )


# %% encode_boxes · right · both axes at once
def encode_boxes(boxes: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    size, size_a = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    if (size <= 0).any() or (size_a <= 0).any():
        raise ValueError("boxes and anchors need an area")
    shift = ((boxes[:, 2:] + boxes[:, :2]) / 2 - (anchors[:, 2:] + anchors[:, :2]) / 2) / size_a
    scale = size.log() - size_a.log()
    return torch.cat([shift, scale], dim=1) * boxes.new_tensor(weights)


# %% encode_boxes · wrong · divides by the weights, as decoding does
def encode_boxes(boxes, anchors, weights):
    s, sa = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    if (s <= 0).any() or (sa <= 0).any():
        raise ValueError("no area")
    c, ca = boxes[:, :2] + s / 2, anchors[:, :2] + sa / 2
    return torch.cat([(c - ca) / sa, (s / sa).log()], 1) / torch.tensor(weights)


# %% encode_boxes · wrong · shift divided by the box's own size instead of the anchor's
def encode_boxes(boxes, anchors, weights):
    s, sa = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    if (s <= 0).any() or (sa <= 0).any():
        raise ValueError("no area")
    c, ca = boxes[:, :2] + s / 2, anchors[:, :2] + sa / 2
    return torch.cat([(c - ca) / s, (s / sa).log()], 1) * torch.tensor(weights)


# %% encode_boxes · wrong · upper left corners instead of centres
def encode_boxes(boxes, anchors, weights):
    s, sa = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    if (s <= 0).any() or (sa <= 0).any():
        raise ValueError("no area")
    d = (boxes[:, :2] - anchors[:, :2]) / sa
    return torch.cat([d, torch.log(s / sa)], 1) * torch.tensor(weights)


# %% encode_boxes · wrong · checks the boxes for area but not the anchors
def encode_boxes(boxes, anchors, weights):
    s, sa = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    if (s <= 0).any():
        raise ValueError("no area")
    c, ca = boxes[:, :2] + s / 2, anchors[:, :2] + sa / 2
    return torch.cat([(c - ca) / sa, (s / sa).log()], 1) * torch.tensor(weights)


# %% rpn_losses · right · softplus form of the cross-entropy
def rpn_losses(logits, labels, deltas, target_deltas, normalizer):
    y = labels.to(logits.dtype)
    cls = (F.softplus(logits) - logits * y).sum() / normalizer
    loc = (deltas - target_deltas).abs().sum() / normalizer
    return {"loss_rpn_cls": cls, "loss_rpn_loc": loc}


# %% rpn_losses · wrong · sigmoid and log by hand, infinite for sure logits
def rpn_losses(logits, labels, deltas, target_deltas, normalizer):
    p = torch.sigmoid(logits)
    ce = -(labels * torch.log(p) + (1 - labels) * torch.log(1 - p)).sum()
    return {
        "loss_rpn_cls": ce / normalizer,
        "loss_rpn_loc": F.l1_loss(deltas, target_deltas, reduction="sum") / normalizer,
    }


# %% rpn_losses · wrong · the losses' default mean, divided once more
def rpn_losses(logits, labels, deltas, target_deltas, normalizer):
    cls = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    loc = F.l1_loss(deltas, target_deltas)
    return {"loss_rpn_cls": cls / normalizer, "loss_rpn_loc": loc / normalizer}


# %% rpn_losses · wrong · smooth L1 for the deltas
def rpn_losses(logits, labels, deltas, target_deltas, normalizer):
    cls = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum")
    loc = F.smooth_l1_loss(deltas, target_deltas, reduction="sum")
    return {"loss_rpn_cls": cls / normalizer, "loss_rpn_loc": loc / normalizer}


# %% rpn_losses · wrong · Python floats through .item(), nothing to differentiate
def rpn_losses(logits, labels, deltas, target_deltas, normalizer):
    cls = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum")
    loc = F.l1_loss(deltas, target_deltas, reduction="sum")
    return {"loss_rpn_cls": cls.item() / normalizer, "loss_rpn_loc": loc.item() / normalizer}


# %% flatten_predictions · right · permute and reshape
def flatten_predictions(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    n, a, h, w = logits.shape
    flat = logits.permute(0, 2, 3, 1).reshape(n, h * w * a)
    moved = deltas.reshape(n, a, 4, h, w).permute(0, 3, 4, 1, 2).reshape(n, h * w * a, 4)
    return flat, moved


# %% flatten_predictions · right · einsum for the order of the axes
def flatten_predictions(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    split = deltas.unflatten(1, (logits.shape[1], 4))
    return (
        torch.einsum("nahw->nhwa", logits).flatten(1),
        torch.einsum("nakhw->nhwak", split).flatten(1, 3),
    )


# %% flatten_predictions · wrong · channels of the deltas read coordinate by coordinate
def flatten_predictions(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    n, a, h, w = logits.shape
    flat = logits.permute(0, 2, 3, 1).reshape(n, -1)
    d = deltas.reshape(n, 4, a, h, w).permute(0, 3, 4, 2, 1).reshape(n, -1, 4)
    return flat, d


# %% flatten_predictions · wrong · x slowest, then y
def flatten_predictions(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    n, a, h, w = logits.shape
    flat = logits.permute(0, 3, 2, 1).reshape(n, -1)
    d = deltas.reshape(n, a, 4, h, w).permute(0, 4, 3, 1, 2).reshape(n, -1, 4)
    return flat, d


# %% flatten_predictions · wrong · the deltas only reshaped, not permuted
def flatten_predictions(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    n = logits.shape[0]
    return logits.permute(0, 2, 3, 1).flatten(1), deltas.reshape(n, -1, 4)


# %% flatten_predictions · wrong · images of the batch run together
def flatten_predictions(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    n, a, h, w = logits.shape
    flat = logits.permute(0, 2, 3, 1).reshape(-1)
    d = deltas.view(n, a, 4, h, w).permute(0, 3, 4, 1, 2).reshape(-1, 4)
    return flat, d
