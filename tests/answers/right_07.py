# %% roi_pool · loops over cells
def roi_pool(features, box, bins, spatial_scale):
    channels, height, width = features.shape
    x1, y1, x2, y2 = (math.floor(v * spatial_scale + 0.5) for v in box.tolist())
    rows, columns = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    result = torch.zeros(channels, bins, bins)
    for c in range(channels):
        for i in range(bins):
            for j in range(bins):
                values = [
                    features[c, y, x].item()
                    for y in range(
                        y1 + math.floor(i * rows / bins), y1 + math.ceil((i + 1) * rows / bins)
                    )
                    for x in range(
                        x1 + math.floor(j * columns / bins),
                        x1 + math.ceil((j + 1) * columns / bins),
                    )
                    if 0 <= y < height and 0 <= x < width
                ]
                result[c, i, j] = max(values, default=0.0)
    return result


# %% roi_pool · round trip through NumPy
def roi_pool(features, box, bins, spatial_scale):
    values = features.numpy()
    x1, y1, x2, y2 = np.floor(box.numpy() * spatial_scale + 0.5).astype(int)
    steps = np.arange(bins)

    def ranges(first, last, size):
        cells = max(last - first + 1, 1)
        starts = first + np.floor(steps * cells / bins).astype(int)
        ends = first + np.ceil((steps + 1) * cells / bins).astype(int)
        return list(zip(starts.clip(0, size), ends.clip(0, size), strict=True))

    out = np.zeros((len(values), bins, bins), dtype=np.float32)
    for i, (top, bottom) in enumerate(ranges(y1, y2, values.shape[1])):
        for j, (left, right) in enumerate(ranges(x1, x2, values.shape[2])):
            if bottom > top and right > left:
                out[:, i, j] = values[:, top:bottom, left:right].max(axis=(1, 2))
    return torch.from_numpy(out)


# %% roi_pool · masks of the cells of each bin
def masks(first, last, bins, size):
    cells = max(last - first + 1, 1)
    i, cell = torch.arange(bins)[:, None], torch.arange(size)
    start = first + torch.div(i * cells, bins, rounding_mode="floor")
    end = first - torch.div(-(i + 1) * cells, bins, rounding_mode="floor")
    return (cell >= start) & (cell < end)  # (bins, size)


def roi_pool(features, box, bins, spatial_scale):
    x1, y1, x2, y2 = torch.floor(box * spatial_scale + 0.5).long().tolist()
    rows = masks(y1, y2, bins, features.shape[1])
    columns = masks(x1, x2, bins, features.shape[2])
    inside = rows[:, None, :, None] & columns[None, :, None, :]  # (bins, bins, H, W)
    filled = torch.where(inside, features[:, None, None], -math.inf)
    best = filled.amax((-2, -1))
    return torch.where(best == -math.inf, 0.0, best)


# %% roi_pool · along rows, then along columns
def pool_rows(values, first, last, bins):
    cells, out = max(last - first + 1, 1), []
    for i in range(bins):
        start, end = first + i * cells // bins, first - (-(i + 1) * cells // bins)
        part = values[:, max(start, 0) : max(end, 0)]
        lowest = values.new_full((values.shape[0], 1, values.shape[2]), -math.inf)
        out.append(torch.cat([part, lowest], 1).amax(1))
    return torch.stack(out, 1)


def roi_pool(features, box, bins, spatial_scale):
    x1, y1, x2, y2 = [int(v) for v in torch.floor(box.double() * spatial_scale + 0.5)]
    rows = pool_rows(features, y1, y2, bins)  # (C, bins, W)
    both = pool_rows(rows.transpose(1, 2), x1, x2, bins).transpose(1, 2)
    return both.masked_fill(both.isinf(), 0)


# %% roi_pool · adaptive_max_pool2d on a padded crop
def roi_pool(features, box, bins, spatial_scale):
    x1, y1, x2, y2 = (box * spatial_scale).add(0.5).floor().to(torch.int32).tolist()
    y2, x2 = max(y1, y2), max(x1, x2)
    _, height, width = features.shape
    crop = torch.full((len(features), y2 - y1 + 1, x2 - x1 + 1), -1e9)
    for y in range(max(y1, 0), min(y2 + 1, height)):
        for x in range(max(x1, 0), min(x2 + 1, width)):
            crop[:, y - y1, x - x1] = features[:, y, x]
    pooled = F.adaptive_max_pool2d(crop, bins)
    return torch.where(pooled > -1e8, pooled, torch.zeros(()))


# %% bilinear · loop over points
def bilinear(values, y, x):
    height, width = values.shape
    result = []
    for py, px in zip(y.tolist(), x.tolist(), strict=True):
        if py < -1 or py > height or px < -1 or px > width:
            result.append(0.0)
            continue
        py, px = min(max(py, 0), height - 1), min(max(px, 0), width - 1)
        top, left = int(py), int(px)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        fy, fx = py - top, px - left
        upper = (1 - fx) * values[top, left].item() + fx * values[top, right].item()
        lower = (1 - fx) * values[bottom, left].item() + fx * values[bottom, right].item()
        result.append((1 - fy) * upper + fy * lower)
    return torch.tensor(result, dtype=values.dtype)


# %% bilinear · hats and einsum
def hats(p, size):
    near = (p >= -1) & (p <= size)
    distance = (p.clamp(0, size - 1)[:, None] - torch.arange(size)).abs()
    return (1 - distance).relu() * near[:, None]  # (N, size)


def bilinear(values, y, x):
    return torch.einsum("nh,hw,nw->n", hats(y, values.shape[0]), values, hats(x, values.shape[1]))


# %% bilinear · grid_sample
def bilinear(values, y, x):
    height, width = values.shape
    far = (y < -1) | (y > height) | (x < -1) | (x > width)
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    if not len(y):
        return values.new_zeros(0)
    found = F.grid_sample(
        values[None, None], grid[None, None], "bilinear", "border", align_corners=True
    )
    return found.flatten().masked_fill(far, 0)


# %% bilinear · round trip through NumPy, in double precision
def bilinear(values, y, x):
    v, y, x = values.numpy().astype(float), y.numpy().astype(float), x.numpy().astype(float)
    h, w = v.shape
    near = (y >= -1) & (y <= h) & (x >= -1) & (x <= w)
    y, x = np.clip(y, 0, h - 1), np.clip(x, 0, w - 1)
    t, l = np.floor(y).astype(int), np.floor(x).astype(int)  # noqa: E741
    b, r = np.minimum(t + 1, h - 1), np.minimum(l + 1, w - 1)
    fy, fx = y - t, x - l
    out = (1 - fy) * (1 - fx) * v[t, l] + (1 - fy) * fx * v[t, r]
    out += fy * (1 - fx) * v[b, l] + fy * fx * v[b, r]
    return torch.from_numpy((out * near).astype(np.float32))


# %% bilinear · lerp between padded cells
def bilinear(values, y, x):
    height, width = values.shape
    padded = F.pad(values[None, None], (0, 1, 0, 1), mode="replicate")[0, 0]
    py, px = y.clamp(min=0, max=height - 1), x.clamp(min=0, max=width - 1)
    row, column = py.floor().long(), px.floor().long()
    upper = torch.lerp(padded[row, column], padded[row, column + 1], px - column)
    lower = torch.lerp(padded[row + 1, column], padded[row + 1, column + 1], px - column)
    outside = torch.logical_or((y < -1) | (y > height), (x < -1) | (x > width))
    return torch.where(outside, 0.0, torch.lerp(upper, lower, py - row))


# %% axis_matrix · loops over bins and samples
def axis_matrix(start, end, bins, size, sampling_ratio=0):
    length = (end - start) / bins
    samples = sampling_ratio if sampling_ratio > 0 else max(math.ceil(length), 0)
    matrix = torch.zeros(bins, size)
    for i in range(bins):
        for s in range(samples):
            p = start + (i + (s + 0.5) / samples) * length - 0.5
            if p < -1 or p > size:
                continue
            p = min(max(p, 0), size - 1)
            for j in range(size):
                matrix[i, j] += max(0, 1 - abs(p - j)) / samples
    return matrix


# %% axis_matrix · round trip through NumPy
def axis_matrix(start, end, bins, size, sampling_ratio=0):
    length = (end - start) / bins
    samples = sampling_ratio or int(np.ceil(length))
    if samples <= 0:
        return torch.zeros((bins, size))
    places = start + length * np.add.outer(np.arange(bins), (np.arange(samples) + 0.5) / samples)
    p = places - 0.5
    hat = np.maximum(0, 1 - np.abs(np.clip(p, 0, size - 1)[..., None] - np.arange(size)))
    hat[(p < -1) | (p > size)] = 0
    return torch.from_numpy(hat.mean(1)).float()


# %% axis_matrix · two cells a sample, added by index
def axis_matrix(start, end, bins, size, sampling_ratio=0):
    if sampling_ratio == 0 and end <= start:
        return torch.zeros(bins, size)
    step = (end - start) / bins
    count = sampling_ratio or math.ceil(step)
    s = torch.arange(bins * count, dtype=torch.float32)
    p = start + (s + 0.5) * step / count - 0.5
    weight = ((p >= -1) & (p <= size)).float() / count
    p = p.clamp(0, size - 1)
    before = p.floor().long()
    after = (before + 1).clamp(max=size - 1)
    row = (s / count).floor().long()
    matrix = torch.zeros(bins, size)
    matrix.index_put_((row, before), weight * (1 - (p - before)), accumulate=True)
    matrix.index_put_((row, after), weight * (p - before), accumulate=True)
    return matrix


# %% axis_matrix · avg_pool1d over the samples
def axis_matrix(start, end, bins, size, sampling_ratio=0):
    samples = sampling_ratio or math.ceil((end - start) / bins)
    if samples < 1:
        return torch.zeros(bins, size)
    edges = torch.linspace(start, end, bins * samples + 1, dtype=torch.float64)
    p = (edges[:-1] + edges[1:]) / 2 - 0.5
    hat = F.relu(1 - (p.clamp(0, size - 1)[None] - torch.arange(size)[:, None]).abs())
    hat = torch.where((p < -1) | (p > size), 0.0, hat)  # (size, samples of all bins)
    return F.avg_pool1d(hat[None], samples)[0].T.float()


# %% axis_matrix · bin by bin, interpolated unit vectors
def value_at(p, size):
    if not -1 <= p <= size:
        return torch.zeros(size)
    p = sorted((0.0, p, size - 1.0))[1]
    one = torch.eye(size)
    return torch.lerp(one[math.floor(p)], one[math.ceil(p)], p % 1)


def axis_matrix(start, end, bins, size, sampling_ratio=0):
    length, rows = (end - start) / bins, []
    samples = sampling_ratio or math.ceil(length)
    for i in range(bins):
        places = [start + i * length + (k + 0.5) * length / samples for k in range(samples)]
        found = [value_at(place - 0.5, size) for place in places]
        rows.append(sum(found) / samples if found else torch.zeros(size))
    return torch.stack(rows)


# %% roi_align · einsum
def roi_align(features, boxes, bins, spatial_scale):
    x1, y1, x2, y2 = (boxes * spatial_scale).T
    rows = axis_weights(y1, y2, bins, features.shape[1], 0)
    columns = axis_weights(x1, x2, bins, features.shape[2], 0)
    return torch.einsum("rih,chw,rjw->rcij", rows, features, columns)


# %% roi_align · loop over boxes and channels
def roi_align(features, boxes, bins, spatial_scale):
    channels, height, width = features.shape
    pooled = torch.zeros(len(boxes), channels, bins, bins)
    for r, box in enumerate(boxes):
        x1, y1, x2, y2 = (box * spatial_scale).reshape(4, 1)
        along_y = axis_weights(y1, y2, bins, height, 0)[0]
        along_x = axis_weights(x1, x2, bins, width, 0)[0]
        for c in range(channels):
            pooled[r, c] = along_y @ features[c] @ along_x.T
    return pooled


# %% roi_align · matmul over flattened channels
def roi_align(features, boxes, bins, spatial_scale):
    c, h, w = features.shape
    scaled = boxes * spatial_scale
    along_y = axis_weights(scaled[:, 1], scaled[:, 3], bins, h, 0)
    along_x = axis_weights(scaled[:, 0], scaled[:, 2], bins, w, 0)
    table = features.permute(1, 0, 2).reshape(h, c * w)
    rows = torch.matmul(along_y, table).reshape(len(boxes), bins, c, w)
    return torch.matmul(rows, along_x.transpose(1, 2)[:, None]).permute(0, 2, 1, 3)


# %% roi_align · round trip through NumPy
def roi_align(features, boxes, bins, spatial_scale):
    b = boxes.numpy() * spatial_scale
    height, width = features.shape[1:]

    def along(first, last, size):
        start, end = torch.tensor(b[:, first]), torch.tensor(b[:, last])
        return axis_weights(start, end, bins, size, 0).numpy()

    rows, columns = along(1, 3, height), along(0, 2, width)
    pooled = np.einsum("rih,chw->rciw", rows, features.numpy())
    return torch.from_numpy(np.einsum("rciw,rjw->rcij", pooled, columns).astype(np.float32))


# %% roi_align · broadcast products and sums, in double precision
def roi_align(features, boxes, bins, spatial_scale):
    x1, y1, x2, y2 = boxes.mul(spatial_scale).unbind(dim=-1)
    y = axis_weights(y1, y2, bins, features.size(1), 0).double()
    x = axis_weights(x1, x2, bins, features.size(2), 0).double()
    pairs = y[:, :, None, :, None] * x[:, None, :, None, :]  # (R, bins, bins, H, W)
    pooled = (pairs[:, None] * features[None, :, None, None].double()).sum((-2, -1))
    return pooled.float()
