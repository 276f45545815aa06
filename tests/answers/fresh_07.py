# %% roi_pool · right · loops over bins with clipped ranges
def roi_pool(features: Tensor, box: Tensor, bins: int, spatial_scale: float) -> Tensor:
    c, h, w = features.shape
    x1, y1, x2, y2 = (math.floor(v * spatial_scale + 0.5) for v in box.tolist())
    rows, cols = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    out = features.new_zeros(c, bins, bins)
    for i in range(bins):
        top = max(y1 + i * rows // bins, 0)
        bottom = min(y1 - (-(i + 1) * rows // bins), h)
        for j in range(bins):
            left = max(x1 + j * cols // bins, 0)
            right = min(x1 - (-(j + 1) * cols // bins), w)
            if bottom > top and right > left:
                out[:, i, j] = features[:, top:bottom, left:right].amax(dim=(1, 2))
    return out


# %% roi_pool · right · masks of rows and columns, minus infinity outside
def roi_pool(features: Tensor, box: Tensor, bins: int, spatial_scale: float) -> Tensor:
    def members(first, last, size):
        n = max(last - first + 1, 1)
        mask = torch.zeros(bins, size, dtype=torch.bool)
        for i in range(bins):
            for cell in range(first + (i * n) // bins, first + ((i + 1) * n + bins - 1) // bins):
                if 0 <= cell < size:
                    mask[i, cell] = True
        return mask

    x1, y1, x2, y2 = torch.floor(box * spatial_scale + 0.5).long().tolist()
    in_y = members(y1, y2, features.shape[1])
    in_x = members(x1, x2, features.shape[2])
    inside = in_y[:, None, :, None] & in_x[None, :, None, :]  # (bins, bins, H, W)
    spread = features[:, None, None].masked_fill(~inside, float("-inf"))
    out = spread.flatten(3).amax(-1)
    return torch.where(inside.flatten(2).any(-1), out, torch.zeros_like(out))


# %% roi_pool · wrong · the last cell left out, no + 1
def roi_pool(features: Tensor, box: Tensor, bins: int, spatial_scale: float) -> Tensor:
    c, h, w = features.shape
    x1, y1, x2, y2 = (math.floor(v * spatial_scale + 0.5) for v in box.tolist())
    rows, cols = max(y2 - y1, 1), max(x2 - x1, 1)
    out = torch.zeros(c, bins, bins)
    for i in range(bins):
        for j in range(bins):
            t, b = y1 + i * rows // bins, y1 + math.ceil((i + 1) * rows / bins)
            le, r = x1 + j * cols // bins, x1 + math.ceil((j + 1) * cols / bins)
            part = features[:, max(t, 0) : max(b, 0), max(le, 0) : max(r, 0)]
            if part.numel():
                out[:, i, j] = part.amax((1, 2))
    return out


# %% roi_pool · wrong · Python's round, halves to the even cell
def roi_pool(features: Tensor, box: Tensor, bins: int, spatial_scale: float) -> Tensor:
    c, h, w = features.shape
    x1, y1, x2, y2 = (round(v * spatial_scale) for v in box.tolist())
    rows, cols = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    out = torch.zeros(c, bins, bins)
    for i in range(bins):
        for j in range(bins):
            t, b = y1 + i * rows // bins, y1 + math.ceil((i + 1) * rows / bins)
            le, r = x1 + j * cols // bins, x1 + math.ceil((j + 1) * cols / bins)
            part = features[:, max(t, 0) : max(b, 0), max(le, 0) : max(r, 0)]
            if part.numel():
                out[:, i, j] = part.amax((1, 2))
    return out


# %% roi_pool · wrong · a negative start counts from the end of the map
def roi_pool(features: Tensor, box: Tensor, bins: int, spatial_scale: float) -> Tensor:
    x1, y1, x2, y2 = (math.floor(v * spatial_scale + 0.5) for v in box.tolist())
    rows, cols = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    out = torch.zeros(features.shape[0], bins, bins)
    for i in range(bins):
        for j in range(bins):
            ys = slice(y1 + i * rows // bins, y1 + math.ceil((i + 1) * rows / bins))
            xs = slice(x1 + j * cols // bins, x1 + math.ceil((j + 1) * cols / bins))
            part = features[:, ys, xs]
            if part.numel():
                out[:, i, j] = part.amax((1, 2))
    return out


# %% roi_pool · wrong · bins along x written into the rows
def roi_pool(features: Tensor, box: Tensor, bins: int, spatial_scale: float) -> Tensor:
    x1, y1, x2, y2 = (math.floor(v * spatial_scale + 0.5) for v in box.tolist())
    rows, cols = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    out = torch.zeros(features.shape[0], bins, bins)
    for i in range(bins):
        for j in range(bins):
            t, b = y1 + i * rows // bins, y1 + math.ceil((i + 1) * rows / bins)
            le, r = x1 + j * cols // bins, x1 + math.ceil((j + 1) * cols / bins)
            part = features[:, max(t, 0) : max(b, 0), max(le, 0) : max(r, 0)]
            if part.numel():
                out[:, j, i] = part.amax((1, 2))
    return out


# %% roi_pool · wrong · the maximum starts from zero, negative features are lost
def roi_pool(features: Tensor, box: Tensor, bins: int, spatial_scale: float) -> Tensor:
    c, h, w = features.shape
    x1, y1, x2, y2 = (math.floor(v * spatial_scale + 0.5) for v in box.tolist())
    rows, cols = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    out = torch.zeros(c, bins, bins)
    for i in range(bins):
        for j in range(bins):
            for y in range(y1 + i * rows // bins, y1 + math.ceil((i + 1) * rows / bins)):
                for x in range(x1 + j * cols // bins, x1 + math.ceil((j + 1) * cols / bins)):
                    if 0 <= y < h and 0 <= x < w:
                        out[:, i, j] = torch.maximum(out[:, i, j], features[:, y, x])
    return out


# %% bilinear · right · hat functions along both axes
def bilinear(values: Tensor, y: Tensor, x: Tensor) -> Tensor:
    h, w = values.shape
    outside = (y < -1) | (y > h) | (x < -1) | (x > w)
    yy, xx = y.clamp(0, h - 1), x.clamp(0, w - 1)
    wy = (1 - (yy[:, None] - torch.arange(h)).abs()).clamp(min=0)
    wx = (1 - (xx[:, None] - torch.arange(w)).abs()).clamp(min=0)
    result = torch.einsum("nh,hw,nw->n", wy, values, wx)
    return torch.where(outside, torch.zeros_like(result), result)


# %% bilinear · right · four corners, point by point
def bilinear(values: Tensor, y: Tensor, x: Tensor) -> Tensor:
    h, w = values.shape
    out = values.new_zeros(len(y))
    for n, (py, px) in enumerate(zip(y.tolist(), x.tolist())):
        if py < -1 or py > h or px < -1 or px > w:
            continue
        py, px = min(max(py, 0.0), h - 1.0), min(max(px, 0.0), w - 1.0)
        y0, x0 = int(py), int(px)
        y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
        fy, fx = py - y0, px - x0
        top = values[y0, x0] * (1 - fx) + values[y0, x1] * fx
        bottom = values[y1, x0] * (1 - fx) + values[y1, x1] * fx
        out[n] = top * (1 - fy) + bottom * fy
    return out


# %% bilinear · wrong · a point exactly one cell beyond the map is 0
def bilinear(values: Tensor, y: Tensor, x: Tensor) -> Tensor:
    h, w = values.shape
    ok = (y > -1) & (y < h) & (x > -1) & (x < w)
    y, x = y.clamp(0, h - 1), x.clamp(0, w - 1)
    y0, x0 = y.floor().long(), x.floor().long()
    y1, x1 = (y0 + 1).clamp(max=h - 1), (x0 + 1).clamp(max=w - 1)
    fy, fx = y - y0, x - x0
    top = values[y0, x0] * (1 - fx) + values[y0, x1] * fx
    bottom = values[y1, x0] * (1 - fx) + values[y1, x1] * fx
    return (top * (1 - fy) + bottom * fy) * ok


# %% bilinear · wrong · points are never 0, however far outside
def bilinear(values: Tensor, y: Tensor, x: Tensor) -> Tensor:
    h, w = values.shape
    y, x = y.clamp(0, h - 1), x.clamp(0, w - 1)
    y0, x0 = y.floor().long(), x.floor().long()
    y1, x1 = (y0 + 1).clamp(max=h - 1), (x0 + 1).clamp(max=w - 1)
    fy, fx = y - y0, x - x0
    top = torch.lerp(values[y0, x0], values[y0, x1], fx)
    bottom = torch.lerp(values[y1, x0], values[y1, x1], fx)
    return torch.lerp(top, bottom, fy)


# %% bilinear · wrong · height taken for both axes when moving points onto the map
def bilinear(values: Tensor, y: Tensor, x: Tensor) -> Tensor:
    h, w = values.shape
    ok = (y >= -1) & (y <= h) & (x >= -1) & (x <= w)
    size = values.shape[0]
    y, x = y.clamp(0, size - 1), x.clamp(0, size - 1)
    y0, x0 = y.floor().long(), x.floor().long().clamp(max=w - 1)
    y1, x1 = (y0 + 1).clamp(max=h - 1), (x0 + 1).clamp(max=w - 1)
    fy, fx = y - y0, x - x0
    top = values[y0, x0] * (1 - fx) + values[y0, x1] * fx
    bottom = values[y1, x0] * (1 - fx) + values[y1, x1] * fx
    return (top * (1 - fy) + bottom * fy) * ok


# %% bilinear · wrong · fractions of the two axes exchanged
def bilinear(values: Tensor, y: Tensor, x: Tensor) -> Tensor:
    h, w = values.shape
    ok = (y >= -1) & (y <= h) & (x >= -1) & (x <= w)
    y, x = y.clamp(0, h - 1), x.clamp(0, w - 1)
    y0, x0 = y.floor().long(), x.floor().long()
    y1, x1 = (y0 + 1).clamp(max=h - 1), (x0 + 1).clamp(max=w - 1)
    a, b = x - x0, y - y0
    return ok * (
        values[y0, x0] * (1 - a) * (1 - b)
        + values[y0, x1] * (1 - a) * b
        + values[y1, x0] * a * (1 - b)
        + values[y1, x1] * a * b
    )


# %% axis_matrix · right · table of points against cells
def axis_matrix(start, end, bins, size, sampling_ratio=0):
    length = (end - start) / bins
    samples = sampling_ratio if sampling_ratio > 0 else max(math.ceil(length), 0)
    if samples == 0:
        return torch.zeros(bins, size)
    i = torch.arange(bins)[:, None]
    s = torch.arange(samples)[None, :]
    p = start + (i + (s + 0.5) / samples) * length - 0.5
    inside = ((p >= -1) & (p <= size)).float()
    p = p.clamp(0, size - 1)
    hat = F.relu(1 - (p[..., None] - torch.arange(size)).abs())
    return (hat * inside[..., None]).mean(dim=1)


# %% axis_matrix · right · three loops with plain numbers
def axis_matrix(start: float, end: float, bins: int, size: int, sampling_ratio: int = 0) -> Tensor:
    out = [[0.0] * size for _ in range(bins)]
    step = (end - start) / bins
    count = sampling_ratio or math.ceil(step)
    for i in range(bins):
        for s in range(count):
            p = start + step * i + step * (s + 0.5) / count - 0.5
            if p < -1 or p > size:
                continue
            p = min(max(p, 0), size - 1)
            for j in range(size):
                out[i][j] += max(0.0, 1 - abs(p - j)) / count
    return torch.tensor(out)


# %% axis_matrix · wrong · the half cell forgotten
def axis_matrix(start, end, bins, size, sampling_ratio=0):
    length = (end - start) / bins
    n = sampling_ratio or max(math.ceil(length), 0)
    if n == 0:
        return torch.zeros(bins, size)
    p = start + (torch.arange(bins)[:, None] + (torch.arange(n) + 0.5) / n) * length
    ok = (p >= -1) & (p <= size)
    w = (1 - (p.clamp(0, size - 1)[..., None] - torch.arange(size)).abs()).clamp(min=0)
    return (w * ok[..., None]).mean(1)


# %% axis_matrix · wrong · samples at the beginning of their parts, not in the middle
def axis_matrix(start, end, bins, size, sampling_ratio=0):
    length = (end - start) / bins
    n = sampling_ratio or max(math.ceil(length), 0)
    if n == 0:
        return torch.zeros(bins, size)
    p = start + (torch.arange(bins)[:, None] + torch.arange(n) / n) * length - 0.5
    ok = (p >= -1) & (p <= size)
    w = (1 - (p.clamp(0, size - 1)[..., None] - torch.arange(size)).abs()).clamp(min=0)
    return (w * ok[..., None]).mean(1)


# %% axis_matrix · wrong · mean only over the samples that are on the map
def axis_matrix(start, end, bins, size, sampling_ratio=0):
    length = (end - start) / bins
    n = sampling_ratio or max(math.ceil(length), 0)
    if n == 0:
        return torch.zeros(bins, size)
    p = start + (torch.arange(bins)[:, None] + (torch.arange(n) + 0.5) / n) * length - 0.5
    ok = (p >= -1) & (p <= size)
    w = (1 - (p.clamp(0, size - 1)[..., None] - torch.arange(size)).abs()).clamp(min=0)
    return (w * ok[..., None]).sum(1) / ok.sum(1, keepdim=True).clamp(min=1)


# %% axis_matrix · wrong · number of samples from the whole box's length, and rounded down
def axis_matrix(start, end, bins, size, sampling_ratio=0):
    length = (end - start) / bins
    n = sampling_ratio or max(int(end - start), 0)
    if n == 0:
        return torch.zeros(bins, size)
    p = start + (torch.arange(bins)[:, None] + (torch.arange(n) + 0.5) / n) * length - 0.5
    ok = (p >= -1) & (p <= size)
    w = (1 - (p.clamp(0, size - 1)[..., None] - torch.arange(size)).abs()).clamp(min=0)
    return (w * ok[..., None]).mean(1)


# %% roi_align · right · one einsum
from fbnet_lesson.detection.roi_align import axis_weights


def roi_align(features: Tensor, boxes: Tensor, bins: int, spatial_scale: float) -> Tensor:
    _, h, w = features.shape
    x1, y1, x2, y2 = (boxes * spatial_scale).unbind(1)
    ay = axis_weights(y1, y2, bins, h, 0)
    ax = axis_weights(x1, x2, bins, w, 0)
    return torch.einsum("rih,chw,rjw->rcij", ay, features, ax)


# %% roi_align · wrong · the box is not scaled to cells
from fbnet_lesson.detection.roi_align import axis_weights


def roi_align(features: Tensor, boxes: Tensor, bins: int, spatial_scale: float) -> Tensor:
    _, h, w = features.shape
    ay = axis_weights(boxes[:, 1], boxes[:, 3], bins, h, 0)
    ax = axis_weights(boxes[:, 0], boxes[:, 2], bins, w, 0)
    return ay[:, None] @ features @ ax[:, None].transpose(-1, -2)


# %% roi_align · wrong · result transposed, x before y
from fbnet_lesson.detection.roi_align import axis_weights


def roi_align(features: Tensor, boxes: Tensor, bins: int, spatial_scale: float) -> Tensor:
    _, h, w = features.shape
    b = boxes * spatial_scale
    ay = axis_weights(b[:, 1], b[:, 3], bins, h, 0)
    ax = axis_weights(b[:, 0], b[:, 2], bins, w, 0)
    return torch.einsum("rih,chw,rjw->rcji", ay, features, ax)


# %% roi_align · wrong · half a cell taken off although axis_weights sees to it
from fbnet_lesson.detection.roi_align import axis_weights


def roi_align(features: Tensor, boxes: Tensor, bins: int, spatial_scale: float) -> Tensor:
    _, h, w = features.shape
    b = boxes * spatial_scale - 0.5
    ay = axis_weights(b[:, 1], b[:, 3], bins, h, 0)
    ax = axis_weights(b[:, 0], b[:, 2], bins, w, 0)
    return ay[:, None] @ features @ ax[:, None].mT


# %% roi_align · wrong · torch.stack over the boxes raises when there is none
from fbnet_lesson.detection.roi_align import axis_weights


def roi_align(features: Tensor, boxes: Tensor, bins: int, spatial_scale: float) -> Tensor:
    _, h, w = features.shape
    pooled = []
    for box in boxes * spatial_scale:
        ay = axis_weights(box[1:2], box[3:4], bins, h, 0)[0]
        ax = axis_weights(box[0:1], box[2:3], bins, w, 0)[0]
        pooled.append(ay @ features @ ax.T)
    return torch.stack(pooled)
