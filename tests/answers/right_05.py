# %% match · loops over anchors
def match(iou, low, high, allow_low_quality=False):
    if low < 0 or high < low:
        raise ValueError("the thresholds need 0 <= low <= high")
    rows, columns = iou.shape
    matched, labels = [0] * columns, [0] * columns
    for a in range(columns):
        best = -1.0
        for g in range(rows):
            if iou[g, a] > best:
                best, matched[a] = iou[g, a].item(), g
        if rows:
            labels[a] = 1 if best >= high else 0 if best < low else -1
    if allow_low_quality:
        for g in range(rows):
            top = max(iou[g].tolist(), default=0)
            for a in range(columns):
                if top > 0 and iou[g, a] == top:
                    labels[a] = 1
    return torch.tensor(matched, dtype=torch.long), torch.tensor(labels, dtype=torch.long)


# %% match · round trip through NumPy
def match(iou, low, high, allow_low_quality=False):
    if not 0 <= low <= high:
        raise ValueError(f"low {low}, high {high}")
    table = iou.numpy()
    if table.size == 0:
        zeros = np.zeros(table.shape[1], dtype=np.int64)
        return torch.from_numpy(zeros), torch.from_numpy(zeros.copy())
    matched, best = table.argmax(0), table.max(0)
    labels = np.select([best >= high, best < low], [1, 0], -1)
    if allow_low_quality:
        top = table.max(1)
        for row, value in zip(table, top, strict=True):
            if value > 0:
                labels[row == value] = 1
    return torch.from_numpy(matched), torch.from_numpy(labels.astype(np.int64))


# %% match · where, and a row of zeros below
def match(iou, low, high, allow_low_quality=False):
    if low > high or low < 0:
        raise ValueError("thresholds")
    if len(iou) == 0:
        return (torch.zeros(iou.shape[1], dtype=torch.int64),) * 2
    padded = torch.cat([iou, torch.zeros(1, iou.shape[1])])
    best, matched = padded.max(0)
    matched = torch.where(best > 0, matched, 0)
    labels = torch.where(best >= high, 1, torch.where(best < low, 0, -1))
    if allow_low_quality and iou.shape[1] > 0:
        top = iou.amax(1, keepdim=True).clamp(min=1e-12)
        labels = torch.where((iou == top).any(0), 1, labels)
    return matched, labels


# %% match · masks and sums, counted in double precision
def match(iou, low, high, allow_low_quality=False):
    if not (low >= 0 and high >= low):
        raise ValueError("0 <= low <= high")
    iou = iou.double()
    if iou.shape[0] == 0:
        nothing = torch.zeros(iou.shape[1]).long()
        return nothing, nothing
    matched = iou.argmax(0)
    best = iou.gather(0, matched[None])[0]
    labels = (best >= high).long() - ((best >= low) & (best < high)).long()
    if allow_low_quality:
        for row in iou:
            if row.any():
                labels = labels.masked_fill(row == row.max(), 1)
    return matched, labels


# %% match · sort of each column
def thresholds_label(best, low, high):
    labels = torch.full(best.shape, -1, dtype=torch.int64)
    labels[best >= high] = 1
    labels[best < low] = 0
    if low == high:
        labels[best >= high] = 1
    return labels


def match(iou, low, high, allow_low_quality=False):
    if low < 0 or low > high:
        raise ValueError
    if iou.numel() == 0:
        return torch.zeros(iou.size(1), dtype=torch.int64), torch.zeros(
            iou.size(1), dtype=torch.int64
        )
    ranked, rows = torch.sort(iou, dim=0, descending=True, stable=True)
    labels = thresholds_label(ranked[0], low, high)
    if allow_low_quality:
        for g in range(iou.size(0)):
            claimed = torch.nonzero(iou[g] == iou[g].max()).flatten()
            if iou[g].max() > 0:
                labels[claimed] = 1
    return rows[0], labels


# %% sample_by_keys · loop over sorted keys
def sample_by_keys(labels, keys, batch_size, positive_fraction):
    limit = int(batch_size * positive_fraction)
    order = sorted(range(len(labels)), key=lambda a: keys[a].item())
    positive = [a for a in order if labels[a] == 1][:limit]
    background = [a for a in order if labels[a] == 0][: batch_size - len(positive)]
    return torch.tensor(sorted(positive), dtype=torch.int64), torch.tensor(
        sorted(background), dtype=torch.int64
    )


# %% sample_by_keys · round trip through NumPy
def sample_by_keys(labels, keys, batch_size, positive_fraction):
    labels, keys = labels.numpy(), keys.numpy()
    positive = np.flatnonzero(labels == 1)
    positive = positive[np.argsort(keys[positive])][: math.floor(batch_size * positive_fraction)]
    background = np.flatnonzero(labels == 0)
    background = background[np.argsort(keys[background])][: batch_size - positive.size]
    return torch.from_numpy(np.sort(positive)), torch.from_numpy(np.sort(background))


# %% sample_by_keys · topk of the negated keys
def sample_by_keys(labels, keys, batch_size, positive_fraction):
    chosen = []
    room = int(batch_size * positive_fraction)
    for label in (1, 0):
        (members,) = torch.where(labels == label)
        smallest = torch.topk(-keys[members], min(room, len(members))).indices
        chosen.append(members[smallest].sort().values)
        room = batch_size - len(chosen[0])
    return tuple(chosen)


# %% sample_by_keys · ranks from comparing every pair
def sample_by_keys(labels, keys, batch_size, positive_fraction):
    def smallest(among, count):
        smaller = (keys[None] < keys[:, None]) & among[None]  # (A, A)
        return (among & (smaller.sum(1) < count)).nonzero().flatten()

    positive = smallest(labels == 1, int(batch_size * positive_fraction))
    return positive, smallest(labels == 0, batch_size - positive.numel())


# %% sample_by_keys · other labels get an infinite key
def sample_by_keys(labels, keys, batch_size, positive_fraction):
    def first(label, count):
        own = torch.where(labels == label, keys.double(), math.inf)
        order = own.argsort()[: min(count, int((labels == label).sum()))]
        return order.sort()[0]

    positive = first(1, int(batch_size * positive_fraction))
    return positive, first(0, batch_size - positive.shape[0])


# %% encode_boxes · loop over pairs
def encode_boxes(boxes, anchors, weights):
    rows = []
    for (x1, y1, x2, y2), (ax1, ay1, ax2, ay2) in zip(
        boxes.tolist(), anchors.tolist(), strict=True
    ):
        w, h, aw, ah = x2 - x1, y2 - y1, ax2 - ax1, ay2 - ay1
        if min(w, h, aw, ah) <= 0:
            raise ValueError("no area")
        deltas = [
            ((x1 + x2) / 2 - (ax1 + ax2) / 2) / aw,
            ((y1 + y2) / 2 - (ay1 + ay2) / 2) / ah,
            math.log(w / aw),
            math.log(h / ah),
        ]
        rows.append([d * weight for d, weight in zip(deltas, weights, strict=True)])
    return torch.tensor(rows, dtype=boxes.dtype).reshape(-1, 4)


# %% encode_boxes · round trip through NumPy, in double precision
def encode_boxes(boxes, anchors, weights):
    b, a = boxes.numpy().astype(float), anchors.numpy().astype(float)
    size, unit = b[:, 2:] - b[:, :2], a[:, 2:] - a[:, :2]
    if (size <= 0).any() or (unit <= 0).any():
        raise ValueError("width and height must be > 0")
    offset = (b[:, :2] + b[:, 2:] - a[:, :2] - a[:, 2:]) / 2 / unit
    deltas = np.concatenate([offset, np.log(size) - np.log(unit)], 1) * np.array(weights)
    return torch.from_numpy(deltas.astype(np.float32))


# %% encode_boxes · column by column, torch.log
def encode_boxes(boxes, anchors, weights):
    x1, y1, x2, y2 = boxes.T
    ax1, ay1, ax2, ay2 = anchors.T
    w, h, aw, ah = x2 - x1, y2 - y1, ax2 - ax1, ay2 - ay1
    for extent in (w, h, aw, ah):
        if not torch.all(extent > 0):
            raise ValueError("a box or an anchor without area")
    dx = weights[0] * (x1 + w / 2 - ax1 - aw / 2) / aw
    dy = weights[1] * (y1 + h / 2 - ay1 - ah / 2) / ah
    return torch.stack([dx, dy, weights[2] * torch.log(w / aw), weights[3] * torch.log(h / ah)], 1)


# %% encode_boxes · einsum with a diagonal of weights
def encode_boxes(boxes, anchors, weights):
    if ((boxes[:, 2:] <= boxes[:, :2]) | (anchors[:, 2:] <= anchors[:, :2])).any():
        raise ValueError("no area")
    to_form = torch.tensor([[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]])
    b, a = torch.einsum("nc,cd->nd", boxes, to_form), torch.einsum("nc,cd->nd", anchors, to_form)
    deltas = torch.hstack([(b[:, :2] - a[:, :2]) / a[:, 2:], torch.log(b[:, 2:] / a[:, 2:])])
    return torch.einsum("nd,de->ne", deltas, torch.diag(torch.tensor(weights)))


# %% encode_boxes · logarithm to base 2, turned back
def sizes_of(rows):
    sizes = rows[..., 2:] - rows[..., :2]
    if sizes.numel() and sizes.min() <= 0:
        raise ValueError(f"no area in {rows.tolist()}")
    return sizes


def encode_boxes(boxes, anchors, weights):
    size, unit = sizes_of(boxes), sizes_of(anchors)
    middle, start = boxes[..., :2] + size / 2, anchors[..., :2] + unit / 2
    result = torch.empty_like(boxes)
    result[..., :2] = (middle - start) / unit
    result[..., 2:] = torch.log2(size / unit) * math.log(2)
    for column, weight in enumerate(weights):
        result[..., column] *= weight
    return result


# %% rpn_losses · softplus and absolute values
def rpn_losses(logits, labels, deltas, target_deltas, normalizer):
    signed = logits * (2 * labels - 1)
    return {
        "loss_rpn_cls": F.softplus(-signed).sum() / normalizer,
        "loss_rpn_loc": (deltas - target_deltas).abs().sum() / normalizer,
    }


# %% rpn_losses · loop over the anchors
def rpn_losses(logits, labels, deltas, target_deltas, normalizer):
    objectness, location = torch.tensor(0.0), torch.tensor(0.0)
    for logit, label in zip(logits, labels, strict=True):
        objectness = objectness - F.logsigmoid(logit if label == 1 else -logit)
    for row, target in zip(deltas, target_deltas, strict=True):
        for value, wanted in zip(row, target, strict=True):
            location = location + torch.abs(value - wanted)
    return {"loss_rpn_cls": objectness / normalizer, "loss_rpn_loc": location / normalizer}


# %% rpn_losses · logaddexp, in double precision
def rpn_losses(logits, labels, deltas, target_deltas, normalizer):
    z = logits.double()
    costs = torch.logaddexp(z, torch.zeros_like(z)) - labels * z
    moved = torch.norm((deltas - target_deltas).double().flatten(), p=1)
    return {
        "loss_rpn_cls": (costs.sum() / normalizer).float(),
        "loss_rpn_loc": (moved / normalizer).float(),
    }


# %% rpn_losses · cross-entropy of two classes
def rpn_losses(logits, labels, deltas, target_deltas, normalizer):
    two = torch.stack([torch.zeros_like(logits), logits], 1)  # background, object
    objectness = F.cross_entropy(two, labels.long(), reduction="none").sum()
    location = F.smooth_l1_loss(deltas, target_deltas, reduction="sum", beta=0.0)
    return dict(loss_rpn_cls=objectness / normalizer, loss_rpn_loc=location / normalizer)


# %% rpn_losses · each term divided before the sum, and the dict in the other order
def rpn_losses(logits, labels, deltas, target_deltas, normalizer):
    each = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    off = F.l1_loss(deltas, target_deltas, reduction="none")
    return {
        "loss_rpn_loc": (off / normalizer).sum(),
        "loss_rpn_cls": (each / normalizer).sum(),
    }


# %% flatten_predictions · movedim and unflatten
def flatten_predictions(logits, deltas):
    deltas = deltas.unflatten(1, (-1, 4)).movedim((3, 4), (1, 2))  # (N, H, W, A, 4)
    return logits.movedim(1, -1).flatten(1), deltas.flatten(1, 3)


# %% flatten_predictions · loops
def flatten_predictions(logits, deltas):
    n, anchors, height, width = logits.shape
    scores = torch.zeros(n, height * width * anchors)
    moves = torch.zeros(n, height * width * anchors, 4)
    row = 0
    for y in range(height):
        for x in range(width):
            for a in range(anchors):
                scores[:, row] = logits[:, a, y, x]
                moves[:, row] = deltas[:, 4 * a : 4 * a + 4, y, x]
                row += 1
    return scores, moves


# %% flatten_predictions · round trip through NumPy
def flatten_predictions(logits, deltas):
    n = len(logits)
    scores = np.transpose(logits.numpy(), (0, 2, 3, 1)).reshape(n, -1)
    moves = np.transpose(deltas.numpy(), (0, 2, 3, 1)).reshape(n, -1, 4)
    return torch.from_numpy(scores.copy()), torch.from_numpy(moves.copy())


# %% flatten_predictions · einsum as a permutation
def flatten_predictions(logits, deltas):
    n, a, h, w = logits.shape
    split = deltas.view(n, a, 4, h, w)
    moves = torch.einsum("nadhw->nhwad", split).reshape(n, -1, 4)
    return torch.einsum("nahw->nhwa", logits).reshape(n, -1), moves


# %% flatten_predictions · anchor by anchor, stacked behind
def flatten_predictions(logits, deltas):
    scores = torch.stack(logits.unbind(1), -1)  # (N, H, W, A)
    moves = [part.permute(0, 2, 3, 1) for part in deltas.split(4, dim=1)]  # (N, H, W, 4) each
    return scores.flatten(1), torch.stack(moves, 3).flatten(1, 3)
