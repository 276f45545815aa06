"""Wrong answers to the exercises of lesson 04, as a learner would write them from the stub."""

# %% box_iou · the usual snippet: nan without area, and no batch
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    x1 = torch.max(a[:, None, 0], b[None, :, 0])
    y1 = torch.max(a[:, None, 1], b[None, :, 1])
    x2 = torch.min(a[:, None, 2], b[None, :, 2])
    y2 = torch.min(a[:, None, 3], b[None, :, 3])
    inter = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)
    return inter / (box_area(a)[:, None] + box_area(b)[None] - inter)


# %% box_iou · forgot the clamp
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    lt = torch.maximum(a[..., None, :2], b[..., None, :, :2])
    rb = torch.minimum(a[..., None, 2:], b[..., None, :, 2:])
    wh = rb - lt
    inter = wh[..., 0] * wh[..., 1]
    return inter / (box_area(a)[..., None] + box_area(b)[..., None, :] - inter)


# %% box_iou · clamps the product
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    lt = torch.maximum(a[..., None, :2], b[..., None, :, :2])
    rb = torch.minimum(a[..., None, 2:], b[..., None, :, 2:])
    inter = (rb - lt).prod(-1).clamp(min=0)
    union = box_area(a)[..., None] + box_area(b)[..., None, :] - inter
    return torch.where(union > 0, inter / union, torch.zeros_like(inter))


# %% box_iou · inclusive pixels from an old repository
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    area_a = (a[..., 2] - a[..., 0] + 1) * (a[..., 3] - a[..., 1] + 1)
    area_b = (b[..., 2] - b[..., 0] + 1) * (b[..., 3] - b[..., 1] + 1)
    iw = torch.min(a[..., 2][..., None], b[..., 2][..., None, :]) - torch.max(
        a[..., 0][..., None], b[..., 0][..., None, :]
    ) + 1
    ih = torch.min(a[..., 3][..., None], b[..., 3][..., None, :]) - torch.max(
        a[..., 1][..., None], b[..., 1][..., None, :]
    ) + 1
    inter = iw.clamp(min=0) * ih.clamp(min=0)
    return inter / (area_a[..., None] + area_b[..., None, :] - inter)


# %% box_iou · union without taking the intersection off
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    inter = (
        torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
        - torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    ).clamp(min=0).prod(-1)
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :]
    return inter / union.clamp(min=1e-6)


# %% box_iou · over the smaller box
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    inter = (
        torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
        - torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    ).clamp(min=0).prod(-1)
    smaller = torch.minimum(box_area(a)[..., :, None], box_area(b)[..., None, :])
    return inter / smaller.clamp(min=1e-6)


# %% box_iou · pair by pair
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    lt = torch.maximum(a[..., :2], b[..., :2])
    rb = torch.minimum(a[..., 2:], b[..., 2:])
    inter = (rb - lt).clamp(min=0).prod(-1)
    return inter / (box_area(a) + box_area(b) - inter)


# %% box_iou · rows of b
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    lt = torch.maximum(a[..., None, :, :2], b[..., :, None, :2])
    rb = torch.minimum(a[..., None, :, 2:], b[..., :, None, 2:])
    inter = (rb - lt).clamp(min=0).prod(-1)
    union = box_area(a)[..., None, :] + box_area(b)[..., :, None] - inter
    return inter / union.clamp(min=1e-6)


# %% box_iou · maxima and minima mixed up
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    lt = torch.minimum(a[..., :, None, :2], b[..., None, :, :2])
    rb = torch.maximum(a[..., :, None, 2:], b[..., None, :, 2:])
    inter = (rb - lt).clamp(min=0).prod(-1)
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - inter
    return torch.where(inter > 0, inter / union, 0.0)


# %% box_iou · boxes as x, y, w, h
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    ax, ay, aw, ah = a.unsqueeze(-2).unbind(-1)
    bx, by, bw, bh = b.unsqueeze(-3).unbind(-1)
    w = (torch.minimum(ax + aw, bx + bw) - torch.maximum(ax, bx)).clamp(min=0)
    h = (torch.minimum(ay + ah, by + bh) - torch.maximum(ay, by)).clamp(min=0)
    union = aw * ah + bw * bh - w * h
    return (w * h / union).nan_to_num(0)


# %% cell_anchors · width over height
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    rows = []
    for s in sizes:
        for r in ratios:
            w, h = s * math.sqrt(r), s / math.sqrt(r)
            rows.append([-w / 2, -h / 2, w / 2, h / 2])
    return torch.tensor(rows)


# %% cell_anchors · ratio first, as a broadcast
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    s, r = torch.tensor(sizes), torch.tensor(ratios)
    h = (r.sqrt()[:, None] * s).flatten()
    w = (s / r.sqrt()[:, None]).flatten()
    return torch.stack([-w, -h, w, h], 1) / 2


# %% cell_anchors · size as the width
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    rows = [[-s / 2, -s * r / 2, s / 2, s * r / 2] for s in sizes for r in ratios]
    return torch.tensor(rows)


# %% cell_anchors · size as the area
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    rows = []
    for area in sizes:
        for r in ratios:
            w = math.sqrt(area / r)
            h = area / w
            rows.append([-w / 2, -h / 2, w / 2, h / 2])
    return torch.tensor(rows)


# %% cell_anchors · no root
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    s = torch.tensor(sizes).repeat_interleave(len(ratios))
    r = torch.tensor(ratios).repeat(len(sizes))
    w, h = s / r, s * r
    return torch.stack([-w, -h, w, h], 1) * 0.5


# %% cell_anchors · a corner at the origin
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    return torch.tensor(
        [[0, 0, s / math.sqrt(r), s * math.sqrt(r)] for s in sizes for r in ratios]
    )


# %% cell_anchors · without halving
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    boxes = []
    for size in sizes:
        for ratio in ratios:
            w = size / ratio**0.5
            h = size * ratio**0.5
            boxes.append([-w, -h, w, h])
    return torch.tensor(boxes)


# %% cell_anchors · whole pixels
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    rows = []
    for s in sizes:
        for r in ratios:
            w, h = s / r**0.5 / 2, s * r**0.5 / 2
            rows.append([round(-w), round(-h), round(w), round(h)])
    return torch.tensor(rows, dtype=torch.float32)


# %% cell_anchors · each size with its own ratio
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    return torch.tensor(
        [
            [-s / r**0.5 / 2, -s * r**0.5 / 2, s / r**0.5 / 2, s * r**0.5 / 2]
            for s, r in zip(sizes, ratios)
        ]
    )


# %% grid_anchors · the default of np.meshgrid, height and width mixed up
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    w, h = grid
    x, y = np.meshgrid(np.arange(w) * stride, np.arange(h) * stride)
    shifts = torch.from_numpy(np.stack([x, y, x, y], -1).reshape(-1, 1, 4))
    return (shifts + cells).reshape(-1, 4).float()


# %% grid_anchors · x in the outer loop
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    height, width = grid
    rows = []
    for x in range(width):
        for y in range(height):
            for cell in cells:
                rows.append(cell + stride * torch.tensor([x, y, x, y]))
    return torch.stack(rows)


# %% grid_anchors · anchors in the outer loop
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    height, width = grid
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    shift = torch.stack([xs, ys, xs, ys], -1).reshape(-1, 4) * stride
    return torch.cat([shift + cell for cell in cells])


# %% grid_anchors · centres of the cells
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    height, width = grid
    ys = (torch.arange(height) + 0.5) * stride
    xs = (torch.arange(width) + 0.5) * stride
    ys, xs = torch.meshgrid(ys, xs, indexing="ij")
    shift = torch.stack([xs, ys, xs, ys], -1).reshape(-1, 1, 4)
    return (shift + cells).reshape(-1, 4)


# %% grid_anchors · forgot the stride
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    return torch.stack(
        [
            cell + torch.tensor([x, y, x, y])
            for y in range(grid[0])
            for x in range(grid[1])
            for cell in cells
        ]
    )


# %% grid_anchors · scaled after the sum
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    shift = torch.stack([x, y, x, y], -1).view(-1, 1, 4)
    return ((shift + cells) * stride).view(-1, 4)


# %% grid_anchors · shifts with two numbers, padded
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    shift = torch.stack([x, y], -1).reshape(-1, 1, 2) * stride
    return (F.pad(shift, (0, 2)) + cells).reshape(-1, 4)


# %% grid_anchors · y before x in the shift
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    shift = torch.stack([y, x, y, x], -1).reshape(-1, 1, 4) * stride
    return (shift + cells).reshape(-1, 4)


# %% grid_anchors · not flattened
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    shift = torch.stack([x, y, x, y], -1).flatten(0, 1) * stride
    return shift[:, None] + cells


# %% decode_boxes · no weights
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    dx, dy, dw, dh = deltas.unbind(-1)
    x1, y1, x2, y2 = anchors.unbind(-1)
    w, h = x2 - x1, y2 - y1
    cx, cy = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h
    w, h = w * dw.clamp(max=SCALE_CLAMP).exp(), h * dh.clamp(max=SCALE_CLAMP).exp()
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)


# %% decode_boxes · times the weights
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    deltas = deltas * torch.tensor(weights)
    centre, size = centre_form(anchors)
    centre = centre + deltas[..., :2] * size
    size = size * deltas[..., 2:].clamp(max=SCALE_CLAMP).exp()
    return torch.cat([centre - size / 2, centre + size / 2], -1)


# %% decode_boxes · no clamp
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    deltas = deltas / torch.tensor(weights)
    centre, size = centre_form(anchors)
    centre = centre + deltas[..., :2] * size
    size = size * torch.exp(deltas[..., 2:])
    return torch.cat([centre - size / 2, centre + size / 2], -1)


# %% decode_boxes · clamp on everything
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    deltas = (deltas / torch.tensor(weights)).clamp(-SCALE_CLAMP, SCALE_CLAMP)
    centre, size = centre_form(anchors)
    centre = centre + deltas[..., :2] * size
    size = size * torch.exp(deltas[..., 2:])
    return torch.cat([centre - size / 2, centre + size / 2], -1)


# %% decode_boxes · clamp before the weights
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    wx, wy, ww, wh = weights
    dx, dy = deltas[..., 0] / wx, deltas[..., 1] / wy
    dw = deltas[..., 2].clamp(max=SCALE_CLAMP) / ww
    dh = deltas[..., 3].clamp(max=SCALE_CLAMP) / wh
    w, h = anchors[..., 2] - anchors[..., 0], anchors[..., 3] - anchors[..., 1]
    x, y = anchors[..., 0] + w * (0.5 + dx), anchors[..., 1] + h * (0.5 + dy)
    w, h = w * dw.exp(), h * dh.exp()
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)


# %% decode_boxes · pixels
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    d = deltas / torch.tensor(weights)
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2 + d[..., :2]
    half = (anchors[..., 2:] - anchors[..., :2]) / 2 * d[..., 2:].clamp(max=SCALE_CLAMP).exp()
    return torch.cat([centre - half, centre + half], -1)


# %% decode_boxes · from the upper left corner
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    d = deltas / torch.tensor(weights)
    size = anchors[..., 2:] - anchors[..., :2]
    corner = anchors[..., :2] + d[..., :2] * size
    size = size * d[..., 2:].clamp(max=SCALE_CLAMP).exp()
    return torch.cat([corner, corner + size], -1)


# %% decode_boxes · indexing two dimensions
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    wx, wy, ww, wh = weights
    w, h = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    x = anchors[:, 0] + w / 2 + deltas[:, 0] / wx * w
    y = anchors[:, 1] + h / 2 + deltas[:, 1] / wy * h
    w = w * torch.exp(torch.clamp(deltas[:, 2] / ww, max=SCALE_CLAMP))
    h = h * torch.exp(torch.clamp(deltas[:, 3] / wh, max=SCALE_CLAMP))
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)


# %% decode_boxes · centre and size returned
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    d = deltas / torch.tensor(weights)
    centre, size = centre_form(anchors)
    moved = centre + d[..., :2] * size
    return torch.cat([moved, size * d[..., 2:].clamp(max=SCALE_CLAMP).exp()], -1)


# %% kmeans_step · Euclidean
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    nearest = ((shapes[:, None] - chosen[None]) ** 2).sum(-1).argmin(1)
    out = chosen.clone()
    for k in range(len(chosen)):
        mine = shapes[nearest == k]
        if len(mine):
            out[k] = mine.mean(0)
    return out


# %% kmeans_step · mean of an empty set
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    inter = torch.min(shapes[:, None], chosen[None]).prod(-1)
    iou = inter / (shapes.prod(-1)[:, None] + chosen.prod(-1) - inter)
    best = iou.argmax(1)
    return torch.stack([shapes[best == k].mean(0) for k in range(len(chosen))])


# %% kmeans_step · argmin of IoU
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    inter = torch.min(shapes[:, None], chosen[None]).prod(-1)
    iou = inter / (shapes.prod(-1)[:, None] + chosen.prod(-1) - inter)
    best, out = iou.argmin(1), chosen.clone()
    for k in best.unique():
        out[k] = shapes[best == k].mean(0)
    return out


# %% kmeans_step · no division by the union
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    inter = torch.min(shapes[:, None], chosen[None]).prod(-1)
    best, out = inter.argmax(1), chosen.clone()
    for k in best.unique():
        out[k] = shapes[best == k].mean(0)
    return out


# %% kmeans_step · sums over the shapes
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    inter = torch.min(shapes[:, None], chosen[None]).prod(-1)
    iou = inter / (shapes.prod(-1)[:, None] + chosen.prod(-1) - inter)
    member = F.one_hot(iou.argmax(1), len(chosen)).float()
    total = member.T @ shapes
    return torch.where(total > 0, total, chosen)


# %% kmeans_step · zeros where nobody joined
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    inter = torch.min(shapes[:, None], chosen[None]).prod(-1)
    iou = inter / (shapes.prod(-1)[:, None] + chosen.prod(-1) - inter)
    member = F.one_hot(iou.argmax(1), len(chosen)).float()
    return member.T @ shapes / member.sum(0)[:, None].clamp(min=1)


# %% kmeans_step · ties to the last
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    groups = [[] for _ in range(len(chosen))]
    for shape in shapes:
        best, best_iou = None, 0
        for k, c in enumerate(chosen):
            inter = torch.minimum(shape, c).prod()
            iou = inter / (shape.prod() + c.prod() - inter)
            if iou >= best_iou:
                best, best_iou = k, iou
        groups[best].append(shape)
    return torch.stack([torch.stack(g).mean(0) if g else chosen[k] for k, g in enumerate(groups)])


# %% kmeans_step · medians
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    inter = torch.min(shapes[:, None], chosen[None]).prod(-1)
    iou = inter / (shapes.prod(-1)[:, None] + chosen.prod(-1) - inter)
    best, out = iou.argmax(1), chosen.clone()
    for k in best.unique():
        out[k] = shapes[best == k].quantile(0.5, dim=0)
    return out
