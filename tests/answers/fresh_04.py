# %% box_iou · right · two loops in NumPy, leading dimensions flattened first
def box_iou(a, b):
    lead, n, m = a.shape[:-2], a.shape[-2], b.shape[-2]
    left = a.reshape(-1, n, 4).numpy().astype(np.float64) if n else np.zeros((0, 0, 4))
    right = b.reshape(-1, m, 4).numpy().astype(np.float64) if m else np.zeros((0, 0, 4))
    table = np.zeros((math.prod(lead), n, m))
    for p in range(table.shape[0]):
        for i in range(n):
            for j in range(m):
                w = min(left[p, i, 2], right[p, j, 2]) - max(left[p, i, 0], right[p, j, 0])
                h = min(left[p, i, 3], right[p, j, 3]) - max(left[p, i, 1], right[p, j, 1])
                if w <= 0 or h <= 0:
                    continue
                s = w * h
                first = (left[p, i, 2] - left[p, i, 0]) * (left[p, i, 3] - left[p, i, 1])
                second = (right[p, j, 2] - right[p, j, 0]) * (right[p, j, 3] - right[p, j, 1])
                table[p, i, j] = s / (first + second - s)
    return torch.from_numpy(table).to(a.dtype).reshape(*lead, n, m)


# %% box_iou · right · column by column, widths through relu
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    ax1, ay1, ax2, ay2 = a.unsqueeze(-2).unbind(-1)
    bx1, by1, bx2, by2 = b.unsqueeze(-3).unbind(-1)
    w = F.relu(torch.min(ax2, bx2) - torch.max(ax1, bx1))
    h = F.relu(torch.min(ay2, by2) - torch.max(ay1, by1))
    inter = w * h
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    iou = inter / union
    return iou.masked_fill(inter == 0, 0)


# %% box_iou · right · in double precision, the denominator made 1 where nothing is shared
def box_iou(a, b):
    A, B = a.double(), b.double()
    corner1 = torch.maximum(A[..., None, :2], B[..., None, :, :2])
    corner2 = torch.minimum(A[..., None, 2:], B[..., None, :, 2:])
    sides = torch.clamp(corner2 - corner1, min=0)
    common = torch.einsum("...i,...i->...", sides[..., :1], sides[..., 1:])
    both = box_area(A).unsqueeze(-1) + box_area(B).unsqueeze(-2)
    denominator = torch.where(common > 0, both - common, torch.ones_like(common))
    return (common / denominator).to(a.dtype)


# %% box_iou · wrong · width and height with the + 1 of old code
def box_iou(a, b):
    tl = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    br = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    wh = (br - tl + 1).clamp(min=0)
    inter = wh[..., 0] * wh[..., 1]
    area_a = (a[..., 2] - a[..., 0] + 1) * (a[..., 3] - a[..., 1] + 1)
    area_b = (b[..., 2] - b[..., 0] + 1) * (b[..., 3] - b[..., 1] + 1)
    return inter / (area_a[..., :, None] + area_b[..., None, :] - inter)


# %% box_iou · wrong · negative sides only removed after width and height were multiplied
def box_iou(a, b):
    tl = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    br = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    inter = (br - tl).prod(-1).clamp(min=0)
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - inter
    return torch.where(inter > 0, inter / union, torch.zeros_like(inter))


# %% box_iou · wrong · union is the plain sum of the areas
def box_iou(a, b):
    lo = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    hi = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    overlap = (hi - lo).clamp(0).prod(-1)
    total = box_area(a)[..., :, None] + box_area(b)[..., None, :]
    return torch.where(total > 0, overlap / total, 0.0)


# %% box_iou · wrong · two points give 0 / 0, nobody looked
def box_iou(a, b):
    x1 = torch.maximum(a[..., :, None, 0], b[..., None, :, 0])
    y1 = torch.maximum(a[..., :, None, 1], b[..., None, :, 1])
    x2 = torch.minimum(a[..., :, None, 2], b[..., None, :, 2])
    y2 = torch.minimum(a[..., :, None, 3], b[..., None, :, 3])
    inter = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)
    return inter / (box_area(a)[..., :, None] + box_area(b)[..., None, :] - inter)


# %% box_iou · wrong · union held at 1 or more so that nothing divides by zero
def box_iou(a, b):
    lo = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    hi = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    overlap = (hi - lo).clamp(min=0).prod(-1)
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - overlap
    return overlap / union.clamp(min=1)


# %% box_iou · wrong · rows are the boxes of b
def box_iou(a, b):
    lo = torch.maximum(b[..., :, None, :2], a[..., None, :, :2])
    hi = torch.minimum(b[..., :, None, 2:], a[..., None, :, 2:])
    overlap = (hi - lo).clamp(min=0).prod(-1)
    union = box_area(b)[..., :, None] + box_area(a)[..., None, :] - overlap
    return torch.where(overlap > 0, overlap / union, 0.0)


# %% box_iou · wrong · two dimensions only, no batch in front
def box_iou(a, b):
    lo = torch.maximum(a[:, None, :2], b[None, :, :2])
    hi = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = (hi - lo).clamp(min=0).prod(-1)
    union = box_area(a)[:, None] + box_area(b)[None, :] - overlap
    return torch.where(overlap > 0, overlap / union, 0.0)


# %% box_iou · wrong · divided by the smaller of the two boxes
def box_iou(a, b):
    lo = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    hi = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    overlap = (hi - lo).clamp(min=0).prod(-1)
    smaller = torch.minimum(box_area(a)[..., :, None], box_area(b)[..., None, :])
    return torch.where(overlap > 0, overlap / smaller, 0.0)


# %% box_iou · wrong · divided by the box around both
def box_iou(a, b):
    A, B = a[..., :, None, :], b[..., None, :, :]
    sides = torch.minimum(A[..., 2:], B[..., 2:]) - torch.maximum(A[..., :2], B[..., :2])
    around = torch.maximum(A[..., 2:], B[..., 2:]) - torch.minimum(A[..., :2], B[..., :2])
    shared = sides.clamp(min=0).prod(-1)
    return torch.where(shared > 0, shared / around.prod(-1), 0.0)


# %% cell_anchors · right · all at once with broadcasting
def cell_anchors(sizes, ratios):
    s = torch.tensor(sizes, dtype=torch.float64)[:, None]
    r = torch.tensor(ratios, dtype=torch.float64)[None, :].sqrt()
    half_w, half_h = s / r / 2, s * r / 2
    corners = torch.stack([-half_w, -half_h, half_w, half_h], dim=2)
    return corners.flatten(0, 1).float()


# %% cell_anchors · right · itertools.product and NumPy
def cell_anchors(sizes, ratios):
    from itertools import product

    rows = np.empty((len(sizes) * len(ratios), 4), dtype=np.float32)
    for k, (s, r) in enumerate(product(sizes, ratios)):
        h = math.sqrt(s * s * r)
        w = h / r
        rows[k] = np.array([-w, -h, w, h]) / 2
    return torch.from_numpy(rows)


# %% cell_anchors · right · a unit square stretched by an outer product
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    unit = torch.tensor([-0.5, -0.5, 0.5, 0.5])
    shapes = torch.tensor([[1 / math.sqrt(r), math.sqrt(r)] * 2 for r in ratios]) * unit
    return torch.einsum("s,rc->src", torch.tensor([float(s) for s in sizes]), shapes).reshape(-1, 4)


# %% cell_anchors · wrong · ratios in the outer loop
def cell_anchors(sizes, ratios):
    out = []
    for r in ratios:
        for s in sizes:
            w, h = s / math.sqrt(r), s * math.sqrt(r)
            out.append([-w / 2, -h / 2, w / 2, h / 2])
    return torch.tensor(out)


# %% cell_anchors · wrong · ratio read as width over height
def cell_anchors(sizes, ratios):
    out = []
    for s in sizes:
        for r in ratios:
            w = s * r**0.5
            h = s / r**0.5
            out.append([-w / 2, -h / 2, w / 2, h / 2])
    return torch.tensor(out)


# %% cell_anchors · wrong · size is the width, so the area grows with the ratio
def cell_anchors(sizes, ratios):
    anchors = [[-s / 2, -s * r / 2, s / 2, s * r / 2] for s in sizes for r in ratios]
    return torch.tensor(anchors)


# %% cell_anchors · wrong · square root forgotten
def cell_anchors(sizes, ratios):
    anchors = []
    for size in sizes:
        for ratio in ratios:
            w = size / ratio
            h = size * ratio
            anchors.append([-w / 2, -h / 2, w / 2, h / 2])
    return torch.tensor(anchors)


# %% cell_anchors · wrong · left upper corner at (0, 0)
def cell_anchors(sizes, ratios):
    anchors = []
    for size in sizes:
        for ratio in ratios:
            w = size / math.sqrt(ratio)
            anchors.append([0.0, 0.0, w, w * ratio])
    return torch.tensor(anchors)


# %% cell_anchors · wrong · the halves forgotten, twice as large
def cell_anchors(sizes, ratios):
    anchors = []
    for size in sizes:
        for ratio in ratios:
            w = size / math.sqrt(ratio)
            h = w * ratio
            anchors.append([-w, -h, w, h])
    return torch.tensor(anchors)


# %% cell_anchors · wrong · rounded to whole pixels as in the first Faster R-CNN
def cell_anchors(sizes, ratios):
    anchors = []
    for size in sizes:
        for ratio in ratios:
            w = round(math.sqrt(size * size / ratio))
            h = round(w * ratio)
            anchors.append([-w / 2, -h / 2, w / 2, h / 2])
    return torch.tensor(anchors)


# %% cell_anchors · wrong · keeps sizes and ratios as two dimensions
def cell_anchors(sizes, ratios):
    s, r = torch.tensor(sizes)[:, None] / 2, torch.tensor(ratios).sqrt()[None, :]
    return torch.stack([-s / r, -s * r, s / r, s * r], -1)


# %% grid_anchors · right · three loops
def grid_anchors(cells, grid, stride):
    rows = []
    for i in range(grid[0]):
        for j in range(grid[1]):
            for x1, y1, x2, y2 in cells.tolist():
                dx, dy = j * stride, i * stride
                rows.append([x1 + dx, y1 + dy, x2 + dx, y2 + dy])
    return torch.tensor(rows, dtype=cells.dtype).reshape(-1, 4)


# %% grid_anchors · right · numbers of the cells split by // and %
def grid_anchors(cells, grid, stride):
    h, w = grid
    k = torch.arange(h * w)
    xy = torch.stack([k % w, k // w], 1) * stride
    moved = cells[None] + xy.repeat(1, 2)[:, None].to(cells)
    return moved.flatten(0, 1)


# %% grid_anchors · right · np.mgrid, then repeat and tile
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    shift = np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float64) * stride
    shift = np.repeat(np.concatenate([shift, shift], 1), len(cells), axis=0)
    laid = shift + np.tile(cells.numpy(), (grid[0] * grid[1], 1))
    return torch.from_numpy(laid).to(cells.dtype)


# %% grid_anchors · wrong · centres in the middle of the cells
def grid_anchors(cells, grid, stride):
    h, w = grid
    ys = (torch.arange(h) + 0.5) * stride
    xs = (torch.arange(w) + 0.5) * stride
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    centre = torch.stack([x, y, x, y], -1).view(-1, 1, 4)
    return (centre + cells).view(-1, 4)


# %% grid_anchors · wrong · meshgrid of x and y, so columns come first
def grid_anchors(cells, grid, stride):
    h, w = grid
    xs = torch.arange(w) * stride
    ys = torch.arange(h) * stride
    x, y = torch.meshgrid(xs, ys, indexing="ij")
    centre = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (centre + cells).reshape(-1, 4)


# %% grid_anchors · wrong · first anchor on all cells, then the second
def grid_anchors(cells, grid, stride):
    h, w = grid
    y, x = torch.meshgrid(torch.arange(h) * stride, torch.arange(w) * stride, indexing="ij")
    centre = torch.stack([x, y, x, y], -1).reshape(1, -1, 4)
    return (cells[:, None] + centre).reshape(-1, 4)


# %% grid_anchors · wrong · only the first corner is moved
def grid_anchors(cells, grid, stride):
    h, w = grid
    y, x = torch.meshgrid(torch.arange(h) * stride, torch.arange(w) * stride, indexing="ij")
    zero = torch.zeros_like(x)
    shift = torch.stack([x, y, zero, zero], -1).reshape(-1, 1, 4)
    return (shift + cells).reshape(-1, 4)


# %% grid_anchors · wrong · grid unpacked as width, height
def grid_anchors(cells, grid, stride):
    width, height = grid
    y, x = torch.meshgrid(
        torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij"
    )
    shift = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shift + cells).reshape(-1, 4)


# %% grid_anchors · wrong · steps of one pixel, stride not used
def grid_anchors(cells, grid, stride):
    h, w = grid
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    shift = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shift + cells).reshape(-1, 4)


# %% grid_anchors · wrong · y before x in the four numbers of a shift
def grid_anchors(cells, grid, stride):
    h, w = grid
    y, x = torch.meshgrid(torch.arange(h) * stride, torch.arange(w) * stride, indexing="ij")
    shift = torch.stack([y, x, y, x], -1).reshape(-1, 1, 4)
    return (shift + cells).reshape(-1, 4)


# %% grid_anchors · wrong · grid taken for pixels: arange up to it in steps of the stride
def grid_anchors(cells, grid, stride):
    ys = torch.arange(0, grid[0], stride)
    xs = torch.arange(0, grid[1], stride)
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    shift = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shift + cells).reshape(-1, 4)


# %% decode_boxes · right · coordinate by coordinate, clamped with torch.minimum
def decode_boxes(deltas, anchors, weights):
    wx, wy, ww, wh = weights
    x1, y1, x2, y2 = (anchors[..., i] for i in range(4))
    w, h = x2 - x1, y2 - y1
    limit = torch.tensor(math.log(1000 / 16), dtype=deltas.dtype)
    cx = x1 + 0.5 * w + deltas[..., 0] / wx * w
    cy = y1 + 0.5 * h + deltas[..., 1] / wy * h
    new_w = w * torch.exp(torch.minimum(deltas[..., 2] / ww, limit))
    new_h = h * torch.exp(torch.minimum(deltas[..., 3] / wh, limit))
    return torch.stack(
        [cx - new_w / 2, cy - new_h / 2, cx + new_w / 2, cy + new_h / 2], dim=-1
    )


# %% decode_boxes · right · NumPy in double precision
def decode_boxes(deltas, anchors, weights):
    d = deltas.detach().numpy().astype(np.float64) / np.array(weights)
    a = anchors.detach().numpy().astype(np.float64)
    size = a[..., 2:] - a[..., :2]
    centre = (a[..., :2] + a[..., 2:]) / 2 + d[..., :2] * size
    size = size * np.exp(np.minimum(d[..., 2:], np.log(1000.0 / 16)))
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=-1)
    return torch.from_numpy(corners).to(deltas.dtype)


# %% decode_boxes · right · the growth is held at 62.5 after the exponential
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    d = deltas / torch.tensor(weights, dtype=deltas.dtype)
    centre, size = centre_form(anchors)
    grown = size * torch.clamp(torch.exp(d[..., 2:]), max=1000 / 16)
    centre = torch.addcmul(centre, d[..., :2], size)
    return torch.cat((centre - grown / 2, centre + grown / 2), dim=-1)


# %% decode_boxes · wrong · weights multiplied instead of divided by
def decode_boxes(deltas, anchors, weights):
    d = deltas * torch.tensor(weights)
    centre, size = centre_form(anchors)
    centre = centre + d[..., :2] * size
    size = size * torch.exp(d[..., 2:].clamp(max=SCALE_CLAMP))
    return torch.cat([centre - size / 2, centre + size / 2], -1)


# %% decode_boxes · wrong · forgets the weights
def decode_boxes(deltas, anchors, weights):
    centre, size = centre_form(anchors)
    centre = centre + deltas[..., :2] * size
    size = size * torch.exp(deltas[..., 2:].clamp(max=SCALE_CLAMP))
    return torch.cat([centre - size / 2, centre + size / 2], -1)


# %% decode_boxes · wrong · nothing is clamped
def decode_boxes(deltas, anchors, weights):
    d = deltas / torch.tensor(weights)
    centre, size = centre_form(anchors)
    c = centre + d[..., :2] * size
    s = d[..., 2:].exp() * size
    return torch.cat([c - 0.5 * s, c + 0.5 * s], -1)


# %% decode_boxes · wrong · clamped on both sides
def decode_boxes(deltas, anchors, weights):
    d = deltas / torch.tensor(weights)
    centre, size = centre_form(anchors)
    c = centre + d[..., :2] * size
    s = d[..., 2:].clamp(-SCALE_CLAMP, SCALE_CLAMP).exp() * size
    return torch.cat([c - 0.5 * s, c + 0.5 * s], -1)


# %% decode_boxes · wrong · clamped before the weights are divided out
def decode_boxes(deltas, anchors, weights):
    offsets, logs = deltas[..., :2], deltas[..., 2:].clamp(max=SCALE_CLAMP)
    centre, size = centre_form(anchors)
    c = centre + offsets / torch.tensor(weights[:2]) * size
    s = torch.exp(logs / torch.tensor(weights[2:])) * size
    return torch.cat([c - 0.5 * s, c + 0.5 * s], -1)


# %% decode_boxes · wrong · all four deltas clamped, so boxes cannot go far right
def decode_boxes(deltas, anchors, weights):
    d = (deltas / torch.tensor(weights)).clamp(max=SCALE_CLAMP)
    centre, size = centre_form(anchors)
    c = centre + d[..., :2] * size
    s = d[..., 2:].exp() * size
    return torch.cat([c - 0.5 * s, c + 0.5 * s], -1)


# %% decode_boxes · wrong · offsets in pixels instead of anchor sizes
def decode_boxes(deltas, anchors, weights):
    d = deltas / torch.tensor(weights)
    centre, size = centre_form(anchors)
    c = centre + d[..., :2]
    s = size * d[..., 2:].clamp(max=SCALE_CLAMP).exp()
    return torch.cat([c - s / 2, c + s / 2], -1)


# %% decode_boxes · wrong · gives back centre and size
def decode_boxes(deltas, anchors, weights):
    d = deltas / torch.tensor(weights)
    centre, size = centre_form(anchors)
    return torch.cat(
        [centre + d[..., :2] * size, size * d[..., 2:].clamp(max=SCALE_CLAMP).exp()], -1
    )


# %% decode_boxes · wrong · the whole size on each side of the centre
def decode_boxes(deltas, anchors, weights):
    d = deltas / torch.tensor(weights)
    centre, size = centre_form(anchors)
    c = centre + d[..., :2] * size
    s = size * d[..., 2:].clamp(max=SCALE_CLAMP).exp()
    return torch.cat([c - s, c + s], -1)


# %% decode_boxes · wrong · the moved centre starts from the corner x1, y1
def decode_boxes(deltas, anchors, weights):
    d = deltas / torch.tensor(weights)
    x1, y1, x2, y2 = anchors.unbind(-1)
    w, h = x2 - x1, y2 - y1
    x = x1 + d[..., 0] * w
    y = y1 + d[..., 1] * h
    w = w * d[..., 2].clamp(max=SCALE_CLAMP).exp()
    h = h * d[..., 3].clamp(max=SCALE_CLAMP).exp()
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
