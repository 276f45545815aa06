# %% conv_cost · right · divmod-free ceiling with negative floor division
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    height, width = size
    out_h = -(-height // stride)
    out_w = -(-width // stride)
    weights = out_channels * (in_channels // groups) * kernel * kernel
    params = weights
    if bias:
        params += out_channels
    return params, weights * out_h * out_w


# %% conv_cost · right · math.prod over the size, ceiling by adding stride - 1
def conv_cost(
    in_channels: int,
    out_channels: int,
    kernel: int,
    size: tuple[int, int],
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> tuple[int, int]:
    weight_count = kernel**2 * in_channels * out_channels // groups
    cells = math.prod((length + stride - 1) // stride for length in size)
    return weight_count + (out_channels if bias else 0), weight_count * cells


# %% conv_cost · wrong · output size rounded down at stride 2
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    h, w = size[0] // stride, size[1] // stride
    weights = in_channels // groups * out_channels * kernel**2
    return weights + out_channels * bias, weights * h * w


# %% conv_cost · wrong · the bias is counted as a MAC at every output cell
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    n = out_channels * in_channels // groups * kernel * kernel
    if bias:
        n += out_channels
    cells = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    return n, n * cells


# %% conv_cost · wrong · divides by the groups twice, once for inputs and once for outputs
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = (in_channels // groups) * (out_channels // groups) * kernel * kernel
    cells = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    return weights + (out_channels if bias else 0), weights * cells


# %% conv_cost · wrong · the height squared, width forgotten
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    side = math.ceil(size[0] / stride)
    weights = out_channels * (in_channels // groups) * kernel**2
    params = weights + (out_channels if bias else 0)
    return params, weights * side**2


# %% conv_cost · wrong · output size of an unpadded convolution
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    out = [(s - kernel) // stride + 1 for s in size]
    weights = out_channels * (in_channels // groups) * kernel**2
    return weights + (out_channels if bias else 0), weights * out[0] * out[1]


# %% round_channels · right · as in the MobileNet code, but with a true floor
def round_channels(wish: float, divisor: int = 8) -> int:
    new = max(divisor, int(math.floor(wish / divisor + 0.5)) * divisor)
    if new < 0.95 * wish:
        new += divisor
    return new


# %% round_channels · right · compares the multiples below and above
def round_channels(wish: float, divisor: int = 8) -> int:
    below = math.floor(wish / divisor) * divisor
    above = below + divisor
    nearest = below if wish - below < above - wish else above
    if nearest < divisor:
        nearest = divisor
    while nearest < 0.95 * wish:
        nearest += divisor
    return nearest


# %% round_channels · wrong · Python's round, halves to even
def round_channels(wish: float, divisor: int = 8) -> int:
    c = max(divisor, round(wish / divisor) * divisor)
    if c < 0.95 * wish:
        c += divisor
    return c


# %% round_channels · wrong · 0.9 instead of 0.95, as in torchvision's _make_divisible
def round_channels(wish: float, divisor: int = 8) -> int:
    new_v = max(divisor, int(wish + divisor / 2) // divisor * divisor)
    if new_v < 0.9 * wish:
        new_v += divisor
    return new_v


# %% round_channels · wrong · always rounds up
def round_channels(wish: float, divisor: int = 8) -> int:
    return max(divisor, math.ceil(wish / divisor) * divisor)


# %% round_channels · wrong · minimum of 8 whatever the divisor is
def round_channels(wish: float, divisor: int = 8) -> int:
    c = max(8, math.floor(wish / divisor + 0.5) * divisor)
    if c < 0.95 * wish:
        c += divisor
    return c


# %% round_channels · wrong · the 0.95 rule left out, and a float comes back
def round_channels(wish: float, divisor: int = 8) -> int:
    return max(float(divisor), (wish / divisor + 0.5) // 1 * divisor)


# %% channel_shuffle · right · strided slices joined
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    per_group = x.shape[1] // groups
    return torch.cat([x[:, i::per_group] for i in range(per_group)], dim=1)


# %% channel_shuffle · right · list of channel indices
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    c = x.size(1)
    order = []
    for i in range(c // groups):
        for g in range(groups):
            order.append(g * (c // groups) + i)
    return x[:, order]


# %% channel_shuffle · wrong · the inverse shuffle, groups and channels of a group swapped
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, c // groups, groups, h, w).transpose(1, 2).reshape(n, c, h, w)


# %% channel_shuffle · wrong · view and view back, the transpose is forgotten
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    x = x.view(n, groups, c // groups, h, w)
    return x.contiguous().view(n, c, h, w)


# %% channel_shuffle · wrong · view on the transposed tensor without contiguous raises
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).view(n, c, h, w)


# %% channel_shuffle · wrong · height and width exchanged in the last reshape
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    x = x.reshape(n, groups, c // groups, h, w)
    x = torch.permute(x, (0, 2, 1, 3, 4))
    return x.reshape(n, c, w, h)


# %% squeeze_excite · right · F.linear and einsum
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = F.adaptive_avg_pool2d(x, 1).flatten(1)
    s = F.relu(F.linear(s, reduce_weight, reduce_bias))
    gate = F.linear(s, expand_weight, expand_bias).sigmoid()
    return torch.einsum("nchw,nc->nchw", x, gate)


# %% squeeze_excite · right · the linear layers as 1x1 convolutions
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    pooled = x.mean(dim=(2, 3), keepdim=True)
    hidden = F.conv2d(pooled, reduce_weight[:, :, None, None], reduce_bias).clamp(min=0)
    gates = torch.sigmoid(F.conv2d(hidden, expand_weight[:, :, None, None], expand_bias))
    return x * gates


# %% squeeze_excite · wrong · gates lined up with the last axes instead of the channels
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    z = x.mean((2, 3))
    z = torch.relu(z @ reduce_weight.T + reduce_bias)
    g = torch.sigmoid(z @ expand_weight.T + expand_bias)
    return x * g[:, None, None, :]


# %% squeeze_excite · wrong · the ReLU stands behind the second layer, before the sigmoid
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    z = x.mean((2, 3))
    z = z @ reduce_weight.T + reduce_bias
    g = torch.sigmoid(torch.relu(z @ expand_weight.T + expand_bias))
    return x * g[:, :, None, None]


# %% squeeze_excite · wrong · average over the batch as well
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    z = x.mean((0, 2, 3))
    z = torch.relu(reduce_weight @ z + reduce_bias)
    g = torch.sigmoid(expand_weight @ z + expand_bias)
    return x * g.view(1, -1, 1, 1)


# %% squeeze_excite · wrong · returns the gates only and does not scale x
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    z = x.mean((2, 3))
    z = F.relu(F.linear(z, reduce_weight, reduce_bias))
    g = torch.sigmoid(F.linear(z, expand_weight, expand_bias))
    return g[:, :, None, None].expand_as(x)


# %% squeeze_excite · wrong · hard sigmoid, as MobileNetV3 has it
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    z = F.adaptive_avg_pool2d(x, (1, 1)).squeeze(-1).squeeze(-1)
    z = F.relu(F.linear(z, reduce_weight, reduce_bias))
    g = F.hardsigmoid(F.linear(z, expand_weight, expand_bias))
    return x * g.unsqueeze(-1).unsqueeze(-1)
