# %% conv_cost · kernel counted once
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    params = in_channels * out_channels * kernel // groups
    h, w = size
    out = math.ceil(h / stride) * math.ceil(w / stride)
    return params + (out_channels if bias else 0), params * out


# %% conv_cost · MACs of every input cell
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = kernel**2 * in_channels // groups * out_channels
    return weights + (out_channels if bias else 0), weights * size[0] * size[1]


# %% conv_cost · no padding
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    h = (size[0] - kernel) // stride + 1
    w = (size[1] - kernel) // stride + 1
    weights = out_channels * (in_channels // groups) * kernel**2
    return weights + bias * out_channels, weights * h * w


# %% conv_cost · bias a number for each input channel
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = out_channels * in_channels // groups * kernel * kernel
    cells = -(-size[0] // stride) * -(-size[1] // stride)
    return weights + (in_channels if bias else 0), weights * cells


# %% conv_cost · bias as a multiply-add in each cell
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = out_channels * in_channels // groups * kernel * kernel
    if bias:
        weights += out_channels
    cells = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    return weights, weights * cells


# %% conv_cost · height used twice
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = out_channels * in_channels // groups * kernel * kernel
    cells = math.ceil(size[0] / stride) ** 2
    return weights + bias * out_channels, weights * cells


# %% conv_cost · stride divides the product of the cells once
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = out_channels * in_channels // groups * kernel * kernel
    cells = math.ceil(size[0] * size[1] / stride)
    return weights + bias * out_channels, weights * cells


# %% conv_cost · rounds the product of the cells up, not each edge
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = out_channels * in_channels // groups * kernel * kernel
    cells = math.ceil(size[0] * size[1] / stride**2)
    return weights + bias * out_channels, weights * cells


# %% conv_cost · groups multiply
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = out_channels * in_channels * groups * kernel * kernel
    cells = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    return weights + bias * out_channels, weights * cells


# %% conv_cost · counts one group only
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = (out_channels // groups) * (in_channels // groups) * kernel**2
    cells = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    return weights + bias * out_channels, weights * cells


# %% conv_cost · leaves the input channels out, as of a depthwise one
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = out_channels * kernel**2
    cells = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    return weights + bias * out_channels, weights * cells


# %% conv_cost · multiplications and additions counted apart
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = out_channels * (in_channels // groups) * kernel**2
    cells = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    muls = weights * cells
    adds = (weights - out_channels) * cells
    return weights + bias * out_channels, muls + adds


# %% round_channels · Python's round
def round_channels(wish: float, divisor: int = 8) -> int:
    c = max(divisor, divisor * round(wish / divisor))
    if c < 0.95 * wish:
        c += divisor
    return c


# %% round_channels · floor and the rule
def round_channels(wish: float, divisor: int = 8) -> int:
    c = max(divisor, int(wish) // divisor * divisor)
    if c < 0.95 * wish:
        c += divisor
    return c


# %% round_channels · only the nearest multiple
def round_channels(wish: float, divisor: int = 8) -> int:
    return int(wish / divisor + 0.5) * divisor


# %% round_channels · the rule is applied to the divided number
def round_channels(wish: float, divisor: int = 8) -> int:
    k = int(wish / divisor + 0.5)
    if k < 0.95 * wish:
        k += 1
    return max(divisor, k * divisor)


# %% round_channels · 0.95 of the rounded count
def round_channels(wish: float, divisor: int = 8) -> int:
    c = max(divisor, int(wish + divisor / 2) // divisor * divisor)
    if 0.95 * c < wish:
        c += divisor
    return c


# %% round_channels · adds one channel, not a divisor
def round_channels(wish: float, divisor: int = 8) -> int:
    c = max(divisor, int(wish + divisor / 2) // divisor * divisor)
    if c < 0.95 * wish:
        c += 1
    return c


# %% round_channels · a float from numpy
def round_channels(wish: float, divisor: int = 8) -> int:
    c = max(divisor, np.floor(wish / divisor + 0.5) * divisor)
    return c + divisor if c < 0.95 * wish else c


# %% round_channels · the number of divisors, not of channels
def round_channels(wish: float, divisor: int = 8) -> int:
    c = max(1, math.floor(wish / divisor + 0.5))
    return c + 1 if c * divisor < 0.95 * wish else c


# %% round_channels · ceil
def round_channels(wish: float, divisor: int = 8) -> int:
    return max(divisor, math.ceil(wish / divisor) * divisor)


# %% round_channels · half an eight for every divisor
def round_channels(wish: float, divisor: int = 8) -> int:
    c = max(divisor, int(wish + 4) // divisor * divisor)
    return c + divisor if c < 0.95 * wish else c


# %% round_channels · smallest value one
def round_channels(wish: float, divisor: int = 8) -> int:
    c = max(1, int(wish / divisor + 0.5) * divisor)
    return c + divisor if c < 0.95 * wish else c


# %% channel_shuffle · reshape back and forth
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).reshape(n, c, h, w)


# %% channel_shuffle · groups last
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    x = x.view(n, c // groups, groups, h, w).transpose(1, 2).contiguous()
    return x.view(n, c, h, w)


# %% channel_shuffle · view after transpose
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).view(n, c, h, w)


# %% channel_shuffle · swaps the wrong axes
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(2, 3).reshape(n, c, h, w)


# %% channel_shuffle · forgets to put the shape back
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2)


# %% channel_shuffle · a random permutation
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    return x[:, torch.randperm(x.shape[1])]


# %% channel_shuffle · reverses the order of groups
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    return torch.cat(x.chunk(groups, dim=1)[::-1], dim=1)


# %% channel_shuffle · strides in steps of the wrong size
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    return torch.cat([x[:, i::groups] for i in range(groups)], dim=1)


# %% channel_shuffle · the whole tensor flattened
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    return x.reshape(groups, -1).t().reshape(x.shape)


# %% channel_shuffle · rolls the channels by one group
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    return torch.roll(x, x.shape[1] // groups, dims=1)


# %% channel_shuffle · swaps height and width on the way
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).permute(0, 2, 1, 4, 3).reshape(n, c, h, w)


# %% squeeze_excite · returns the gates
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=(2, 3))
    s = F.relu(F.linear(s, reduce_weight, reduce_bias))
    return torch.sigmoid(F.linear(s, expand_weight, expand_bias))


# %% squeeze_excite · returns the gates with two axes more
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=(2, 3))
    s = F.relu(F.linear(s, reduce_weight, reduce_bias))
    return torch.sigmoid(F.linear(s, expand_weight, expand_bias))[:, :, None, None]


# %% squeeze_excite · no relu
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=(2, 3))
    s = s @ reduce_weight.T + reduce_bias
    s = torch.sigmoid(s @ expand_weight.T + expand_bias)
    return x * s[..., None, None]


# %% squeeze_excite · sigmoid in both places
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=(2, 3))
    s = torch.sigmoid(s @ reduce_weight.T + reduce_bias)
    s = torch.sigmoid(s @ expand_weight.T + expand_bias)
    return x * s[..., None, None]


# %% squeeze_excite · relu after the sigmoid layer's place, order swapped
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=(2, 3))
    s = torch.sigmoid(s @ reduce_weight.T + reduce_bias)
    s = torch.relu(s @ expand_weight.T + expand_bias)
    return x * s[..., None, None]


# %% squeeze_excite · broadcast along the width
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=(2, 3))
    s = torch.relu(s @ reduce_weight.T + reduce_bias)
    s = torch.sigmoid(s @ expand_weight.T + expand_bias)
    return x * s


# %% squeeze_excite · mean over the height only
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=2).mean(dim=0)
    s = torch.relu(s @ reduce_weight.T + reduce_bias)
    s = torch.sigmoid(s @ expand_weight.T + expand_bias)
    return x * s[..., None, None]


# %% squeeze_excite · max pooling
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = F.adaptive_max_pool2d(x, 1).flatten(1)
    s = torch.relu(s @ reduce_weight.T + reduce_bias)
    s = torch.sigmoid(s @ expand_weight.T + expand_bias)
    return x * s[..., None, None]


# %% squeeze_excite · gate from zero to two
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=(2, 3))
    s = torch.relu(s @ reduce_weight.T + reduce_bias)
    s = 1 + torch.tanh(s @ expand_weight.T + expand_bias)
    return x * s[..., None, None]


# %% squeeze_excite · scales in place
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=(2, 3))
    s = torch.relu(s @ reduce_weight.T + reduce_bias)
    s = torch.sigmoid(s @ expand_weight.T + expand_bias)
    x *= s[..., None, None]
    return x


# %% squeeze_excite · residual added
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=(2, 3))
    s = torch.relu(s @ reduce_weight.T + reduce_bias)
    s = torch.sigmoid(s @ expand_weight.T + expand_bias)
    return x + x * s[..., None, None]


# %% squeeze_excite · second bias forgotten
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=(2, 3))
    s = torch.relu(s @ reduce_weight.T + reduce_bias)
    s = torch.sigmoid(s @ expand_weight.T)
    return x * s[..., None, None]


# %% squeeze_excite · hard sigmoid
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=(2, 3))
    s = torch.relu(s @ reduce_weight.T + reduce_bias)
    s = F.hardsigmoid(s @ expand_weight.T + expand_bias)
    return x * s[..., None, None]


# %% squeeze_excite · one gate for all images
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = x.mean(dim=(0, 2, 3))
    s = torch.relu(reduce_weight @ s + reduce_bias)
    s = torch.sigmoid(expand_weight @ s + expand_bias)
    return x * s[:, None, None]
