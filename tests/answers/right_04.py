"""Right answers to the exercises of lesson 04, in the styles in which people write them."""

# %% box_iou · broadcast of corners
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).prod(-1)
    union = area_a[..., :, None] + area_b[..., None, :] - inter
    return inter / union.clamp(min=1e-9)


# %% box_iou · loops over pairs
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    result = torch.zeros(*a.shape[:-1], b.shape[-2])
    if a.dim() > 2:
        for i in range(len(a)):
            result[i] = box_iou(a[i], b[i])
        return result
    for i, (ax1, ay1, ax2, ay2) in enumerate(a.tolist()):
        for j, (bx1, by1, bx2, by2) in enumerate(b.tolist()):
            w = min(ax2, bx2) - max(ax1, bx1)
            h = min(ay2, by2) - max(ay1, by1)
            if w <= 0 or h <= 0:
                continue
            shared = w * h
            union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
            result[i, j] = shared / union
    return result


# %% box_iou · NumPy round trip
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    p, q = a.numpy()[..., :, None, :], b.numpy()[..., None, :, :]
    w = np.maximum(0, np.minimum(p[..., 2], q[..., 2]) - np.maximum(p[..., 0], q[..., 0]))
    h = np.maximum(0, np.minimum(p[..., 3], q[..., 3]) - np.maximum(p[..., 1], q[..., 1]))
    shared = w * h
    first = (p[..., 2] - p[..., 0]) * (p[..., 3] - p[..., 1])
    second = (q[..., 2] - q[..., 0]) * (q[..., 3] - q[..., 1])
    union = first + second - shared
    found = np.divide(shared, union, out=np.zeros_like(union), where=union > 0)
    return torch.from_numpy(found)


# %% box_iou · relu, in double precision, and nan_to_num
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.double(), b.double()
    x1 = torch.max(a[..., 0].unsqueeze(-1), b[..., 0].unsqueeze(-2))
    y1 = torch.max(a[..., 1].unsqueeze(-1), b[..., 1].unsqueeze(-2))
    x2 = torch.min(a[..., 2].unsqueeze(-1), b[..., 2].unsqueeze(-2))
    y2 = torch.min(a[..., 3].unsqueeze(-1), b[..., 3].unsqueeze(-2))
    inter = F.relu(x2 - x1) * F.relu(y2 - y1)
    total = box_area(a).unsqueeze(-1) + box_area(b).unsqueeze(-2)
    return (inter / (total - inter)).nan_to_num(0).float()


# %% box_iou · helper along one axis, repeated instead of broadcast
def shared_length(low_a, high_a, low_b, high_b):
    n, m = low_a.shape[-1], low_b.shape[-1]
    low_a, high_a = (t[..., None].repeat_interleave(m, -1) for t in (low_a, high_a))
    low_b, high_b = (t[..., None, :].repeat_interleave(n, -2) for t in (low_b, high_b))
    length = torch.where(high_a < high_b, high_a, high_b)
    length = length - torch.where(low_a > low_b, low_a, low_b)
    length[length < 0] = 0
    return length


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    ax1, ay1, ax2, ay2 = a.unbind(-1)
    bx1, by1, bx2, by2 = b.unbind(-1)
    shared = shared_length(ax1, ax2, bx1, bx2) * shared_length(ay1, ay2, by1, by2)
    areas = ((ax2 - ax1) * (ay2 - ay1))[..., None] + ((bx2 - bx1) * (by2 - by1))[..., None, :]
    iou = shared / (areas - shared)
    iou[areas - shared == 0] = 0
    return iou


# %% cell_anchors · broadcast
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    s, r = torch.tensor(sizes)[:, None], torch.tensor(ratios)[None]
    w, h = s / r.sqrt(), s * r.sqrt()
    return torch.stack([-w, -h, w, h], -1).reshape(-1, 4) / 2


# %% cell_anchors · list comprehension with math
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    shapes = [(s / math.sqrt(r), s * math.sqrt(r)) for s in sizes for r in ratios]
    return torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in shapes])


# %% cell_anchors · NumPy, via the area
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    found = np.zeros((len(sizes) * len(ratios), 4), np.float32)
    row = 0
    for size in sizes:
        for ratio in ratios:
            area = size * size
            w = np.sqrt(area / ratio)
            h = w * ratio
            found[row] = (-0.5 * w, -0.5 * h, 0.5 * w, 0.5 * h)
            row += 1
    return torch.from_numpy(found)


# %% cell_anchors · meshgrid
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    size, ratio = torch.meshgrid(torch.tensor(sizes), torch.tensor(ratios), indexing="ij")
    size, ratio = size.flatten(), ratio.flatten()
    height = (size**2 * ratio) ** 0.5
    width = height / ratio
    half = torch.stack([width, height], 1) / 2
    return torch.cat([-half, half], 1)


# %% cell_anchors · einsum and outer products
def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    roots = torch.tensor(ratios, dtype=torch.float64).sqrt()
    sides = torch.stack([1 / roots, roots], 1)  # (R, 2)
    shapes = torch.einsum("s,rc->src", torch.tensor(sizes, dtype=torch.float64), sides)
    corners = shapes.reshape(-1, 1, 2) * torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
    return corners.flatten(1).float()


# %% grid_anchors · three loops
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    rows = []
    for y in range(grid[0]):
        for x in range(grid[1]):
            for cell in cells:
                rows.append(cell + torch.tensor([x, y, x, y]) * stride)
    return torch.stack(rows)


# %% grid_anchors · cartesian product
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])) * stride
    shifts = places[:, [1, 0, 1, 0]]
    return (shifts[:, None, :] + cells[None, :, :]).flatten(0, 1)


# %% grid_anchors · NumPy
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    height, width = grid
    x, y = np.meshgrid(np.arange(width) * stride, np.arange(height) * stride)
    shifts = np.stack([x, y, x, y], axis=2).reshape(-1, 1, 4)
    laid = shifts.astype(np.float32) + cells.numpy()[None]
    return torch.from_numpy(laid.reshape(-1, 4))


# %% grid_anchors · repeat and repeat_interleave
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    height, width = grid
    count = len(cells)
    x = (torch.arange(width) * stride).repeat_interleave(count).repeat(height)
    y = (torch.arange(height) * stride).repeat_interleave(width * count)
    anchors = cells.repeat(height * width, 1)
    anchors[:, 0] += x
    anchors[:, 2] += x
    anchors[:, 1] += y
    anchors[:, 3] += y
    return anchors


# %% grid_anchors · broadcast into five dimensions
def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    height, width = grid
    laid = cells.expand(height, width, *cells.shape).clone()  # (H, W, A, 4)
    laid[..., 0::2] += stride * torch.arange(width).view(1, width, 1, 1)
    laid[..., 1::2] += stride * torch.arange(height).view(height, 1, 1, 1)
    return laid.view(-1, 4)


# %% decode_boxes · eight numbers
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    wx, wy, ww, wh = weights
    dx, dy = deltas[..., 0] / wx, deltas[..., 1] / wy
    dw = torch.clamp(deltas[..., 2] / ww, max=math.log(1000 / 16))
    dh = torch.clamp(deltas[..., 3] / wh, max=math.log(1000 / 16))
    w = anchors[..., 2] - anchors[..., 0]
    h = anchors[..., 3] - anchors[..., 1]
    x = anchors[..., 0] + 0.5 * w + dx * w
    y = anchors[..., 1] + 0.5 * h + dy * h
    w, h = w * torch.exp(dw), h * torch.exp(dh)
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)


# %% decode_boxes · clamped after the exponential
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    centre, size = centre_form(anchors)
    deltas = deltas / torch.tensor(weights)
    size_new = size * deltas[..., 2:].exp().clamp(max=1000 / 16)
    centre_new = centre + deltas[..., :2] * size
    return torch.cat([centre_new - size_new / 2, centre_new + size_new / 2], dim=-1)


# %% decode_boxes · NumPy
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    d, a = deltas.numpy() / np.array(weights, np.float32), anchors.numpy()
    size = a[..., 2:] - a[..., :2]
    centre = (a[..., :2] + a[..., 2:]) / 2 + d[..., :2] * size
    half = np.exp(np.minimum(d[..., 2:], np.log(62.5))) * size / 2
    boxes = np.concatenate([centre - half, centre + half], -1)
    return torch.from_numpy(boxes.astype(np.float32))


# %% decode_boxes · loops over boxes
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    anchors = anchors.expand(deltas.shape)
    boxes = torch.zeros(deltas.shape)
    flat = boxes.view(-1, 4)
    for i, (delta, anchor) in enumerate(zip(deltas.reshape(-1, 4), anchors.reshape(-1, 4))):
        dx, dy, dw, dh = [float(d) / w for d, w in zip(delta, weights)]
        x1, y1, x2, y2 = anchor.tolist()
        w, h = x2 - x1, y2 - y1
        x, y = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h
        w, h = w * math.exp(min(dw, math.log(62.5))), h * math.exp(min(dh, math.log(62.5)))
        flat[i] = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return boxes


# %% decode_boxes · double precision, with where instead of clamp
def decode_boxes(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    d = deltas.double() / torch.tensor(weights, dtype=torch.float64)
    limit = math.log(1000.0 / 16)
    growth = torch.where(d > limit, torch.full_like(d, limit), d)[..., 2:].exp()
    a = anchors.double()
    size = a[..., 2:] - a[..., :2]
    centre = a[..., :2] + size / 2 + d[..., :2] * size
    corner = centre - size * growth / 2
    return torch.cat([corner, corner + size * growth], -1).float()


# %% kmeans_step · loops
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    members = [[] for _ in chosen]
    for w, h in shapes.tolist():
        best, best_iou = 0, -1.0
        for k, (cw, ch) in enumerate(chosen.tolist()):
            shared = min(w, cw) * min(h, ch)
            iou = shared / (w * h + cw * ch - shared)
            if iou > best_iou:
                best, best_iou = k, iou
        members[best].append([w, h])
    rows = [
        torch.tensor(group).mean(0) if group else chosen[k] for k, group in enumerate(members)
    ]
    return torch.stack(rows)


# %% kmeans_step · box_iou of centred boxes
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    def iou(a, b):
        shared = torch.min(a[:, None, 0], b[None, :, 0]) * torch.min(a[:, None, 1], b[None, :, 1])
        return shared / (a.prod(1)[:, None] + b.prod(1)[None] - shared)

    nearest = (1 - iou(shapes, chosen)).argmin(1)
    result = chosen.clone()
    for k in nearest.unique().tolist():
        result[k] = shapes[nearest == k].mean(dim=0)
    return result


# %% kmeans_step · one_hot and a matrix product
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    shared = torch.minimum(shapes[:, None], chosen[None]).prod(2)
    iou = shared / (shapes.prod(1, keepdim=True) + chosen.prod(1) - shared)
    member = F.one_hot(iou.argmax(1), len(chosen)).float()  # (N, K)
    count = member.sum(0)[:, None]
    means = member.T @ shapes / count.clamp(min=1)
    return torch.where(count > 0, means, chosen)


# %% kmeans_step · NumPy
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    s, c = shapes.numpy(), chosen.numpy()
    shared = np.minimum(s[:, None, 0], c[:, 0]) * np.minimum(s[:, None, 1], c[:, 1])
    iou = shared / ((s[:, 0] * s[:, 1])[:, None] + c[:, 0] * c[:, 1] - shared)
    label = iou.argmax(axis=1)
    moved = [s[label == k].mean(axis=0) if (label == k).any() else c[k] for k in range(len(c))]
    return torch.from_numpy(np.stack(moved).astype(np.float32))


# %% kmeans_step · index_add and einsum
def kmeans_step(shapes: Tensor, chosen: Tensor) -> Tensor:
    w = torch.minimum(shapes[:, :1], chosen[:, 0])
    h = torch.minimum(shapes[:, 1:], chosen[:, 1])
    shared = torch.einsum("nk,nk->nk", w, h)
    areas = shapes[:, 0] * shapes[:, 1], chosen[:, 0] * chosen[:, 1]
    joined = (shared / (areas[0].unsqueeze(1) + areas[1] - shared)).max(1).indices
    total = torch.zeros_like(chosen).index_add(0, joined, shapes)
    count = torch.bincount(joined, minlength=len(chosen)).unsqueeze(1)
    return torch.where(count == 0, chosen, total / count.clamp(min=1))
