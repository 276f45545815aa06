"""Wrong answers to the exercises of lesson 02, as a learner would write them from the stub."""

# %% blocks_of · every block strided · gives the stride to every block of a row
def blocks_of(text, in_channels):
    found = []
    for row in parse_rows(text):
        for i in range(row.repeat):
            padding = row.padding if i == 0 and row.padding is not None else row.kernel // 2
            found.append(
                (row.op, row.kernel, in_channels, row.channels, row.stride, row.expansion, padding)
            )
            in_channels = row.channels
    return found


# %% blocks_of · width renewed after the row · keeps the input's width for the whole row
def blocks_of(text, in_channels):
    found = []
    for row in parse_rows(text):
        for i in range(row.repeat):
            padding = row.padding if i == 0 and row.padding is not None else row.kernel // 2
            stride = row.stride if i == 0 else 1
            found.append(
                (row.op, row.kernel, in_channels, row.channels, stride, row.expansion, padding)
            )
        in_channels = row.channels
    return found


# %% blocks_of · forgot that the padding may be None
def blocks_of(text, in_channels):
    found = []
    for row in parse_rows(text):
        for i in range(row.repeat):
            stride = row.stride if i == 0 else 1
            found.append(
                Block(row.op, row.kernel, in_channels, row.channels, stride, row.expansion,
                      row.padding)
            )
            in_channels = row.channels
    return found


# %% blocks_of · or for None · takes a padding of 0 for one that is not given
def blocks_of(text, in_channels):
    found = []
    for row in parse_rows(text):
        for i in range(row.repeat):
            padding = (row.padding if i == 0 else None) or row.kernel // 2
            stride = row.stride if i == 0 else 1
            found.append(
                (row.op, row.kernel, in_channels, row.channels, stride, row.expansion, padding)
            )
            in_channels = row.channels
    return found


# %% blocks_of · one entry a row · makes one block of each row
def blocks_of(text, in_channels):
    found = []
    for row in parse_rows(text):
        padding = row.kernel // 2 if row.padding is None else row.padding
        found.append(
            (row.op, row.kernel, in_channels, row.channels, row.stride, row.expansion, padding)
        )
        in_channels = row.channels
    return found


# %% blocks_of · a generator
def blocks_of(text, in_channels):
    for row in parse_rows(text):
        for i in range(row.repeat):
            yield Block(row.op, row.kernel, in_channels, row.channels,
                        row.stride if i == 0 else 1, row.expansion,
                        row.kernel // 2 if i or row.padding is None else row.padding)
            in_channels = row.channels


# %% block_cost · always with pw · always has the first convolution
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    m = middle_width(in_channels, expansion)
    a, b = size[0] * size[1], -(-size[0] // stride) * -(-size[1] // stride)
    w = [in_channels * m, m * kernel**2, m * out_channels]
    return sum(w) + 2 * (m + m + out_channels), w[0] * a + (w[1] + w[2]) * b


# %% block_cost · no norms · forgets the norms
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    m = middle_width(in_channels, expansion)
    a, b = size[0] * size[1], -(-size[0] // stride) * -(-size[1] // stride)
    w = [in_channels * m, m * kernel**2, m * out_channels]
    if m == in_channels and not keep_pw:
        w[0] = 0
    return sum(w), w[0] * a + (w[1] + w[2]) * b


# %% block_cost · all on the small map · counts the first convolution on the map after the stride
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    m = middle_width(in_channels, expansion)
    cells = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    pw = in_channels * m if m != in_channels or keep_pw else 0
    norms = 2 * ((m if pw else 0) + m + out_channels)
    weights = pw + m * kernel**2 + m * out_channels
    return weights + norms, weights * cells


# %% block_cost · int() in the place of ceil · rounds an odd edge down at stride 2
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    m = middle_width(in_channels, expansion)
    h, w = int(size[0] / stride), int(size[1] / stride)
    pw = in_channels * m if m != in_channels or keep_pw else 0
    norms = 2 * ((m if pw else 0) + m + out_channels)
    rest = m * kernel**2 + m * out_channels
    return pw + rest + norms, pw * size[0] * size[1] + rest * h * w


# %% block_cost · the depthwise as a full convolution · an ordinary one
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    m = middle_width(in_channels, expansion)
    b = -(-size[0] // stride) * -(-size[1] // stride)
    pw = in_channels * m if m != in_channels or keep_pw else 0
    norms = 2 * ((m if pw else 0) + m + out_channels)
    rest = m * m * kernel**2 + m * out_channels
    return pw + rest + norms, pw * size[0] * size[1] + rest * b


# %% receptive_field · stride first · counts a layer's own stride before its kernel
def receptive_field(layers):
    r, j, c = 1, 1, 0.5
    for k, s, p in layers:
        j *= s
        r += (k - 1) * j
        c += ((k - 1) / 2 - p) * j
    return r, j, c


# %% receptive_field · kernels without strides
def receptive_field(layers):
    r, j, c = 1, 1, 0.5
    for k, s, p in layers:
        r += k - 1
        c += (k - 1) / 2 - p
        j *= s
    return r, j, c


# %% receptive_field · middle of the cell · takes the middle of the cell for the middle of its field
def receptive_field(layers):
    r, j = 1, 1
    for k, s, p in layers:
        r += (k - 1) * j
        j *= s
    return r, j, j / 2


# %% receptive_field · the pixel's number · names the pixel, not its middle
def receptive_field(layers):
    r, j, c = 1, 1, 0.0
    for k, s, p in layers:
        r += (k - 1) * j
        c += ((k - 1) / 2 - p) * j
        j *= s
    return r, j, c


# %% receptive_field · whole halves · cuts the half of an even kernel off
def receptive_field(layers):
    r, j, c = 1, 1, 0.5
    for k, s, p in layers:
        r += (k - 1) * j
        c += ((k - 1) // 2 - p) * j
        j *= s
    return r, j, c


# %% top_down · the laterals of the neighbour · the coarser level's own map, not the merged one
def top_down(laterals):
    out = []
    for i, lateral in enumerate(laterals):
        if i + 1 < len(laterals):
            lateral = lateral + F.interpolate(laterals[i + 1], scale_factor=2)
        out.append(lateral)
    return out


# %% top_down · appended and not reversed · returns the coarsest first
def top_down(laterals):
    merged = [laterals[-1]]
    for lateral in reversed(laterals[:-1]):
        merged.append(lateral + F.interpolate(merged[-1], scale_factor=2, mode="nearest"))
    return merged


# %% top_down · bilinear · interpolates between the coarse cells
def top_down(laterals):
    merged = [laterals[-1]]
    for x in reversed(laterals[:-1]):
        up = F.interpolate(merged[0], scale_factor=2, mode="bilinear", align_corners=False)
        merged.insert(0, x + up)
    return merged


# %% top_down · in place · writes into the maps that came in
def top_down(laterals):
    for i in range(len(laterals) - 2, -1, -1):
        laterals[i] += F.interpolate(laterals[i + 1], scale_factor=2, mode="nearest")
    return laterals


# %% top_down · a stacked tensor
def top_down(laterals):
    merged = [laterals[-1]]
    for lateral in reversed(laterals[:-1]):
        merged.insert(0, lateral + F.interpolate(merged[0], scale_factor=2))
    return torch.cat([m.flatten() for m in merged])


# %% top_down · repeat lays copies · puts copies of the whole map side by side
def top_down(laterals):
    merged = [laterals[-1]]
    for lateral in reversed(laterals[:-1]):
        merged.insert(0, lateral + merged[0].repeat(1, 1, 2, 2))
    return merged
