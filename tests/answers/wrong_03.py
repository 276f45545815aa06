# %% batch_norm · torch's default variance
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    var = x.var(dim=(0, 2, 3), keepdim=True)
    return (x - mean) / torch.sqrt(var + eps) * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


# %% batch_norm · std plus eps
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    std = x.std(dim=(0, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / (std + eps) * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


# %% batch_norm · over all axes but the batch
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    var = x.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + eps) * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


# %% batch_norm · without keepdim
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(dim=(0, 2, 3))
    var = ((x - mean) ** 2).mean(dim=(0, 2, 3))
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


# %% batch_norm · weight along the width
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    var = x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


# %% batch_norm · bias inside the product
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    var = x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    xhat = (x - mean) / torch.sqrt(var + eps)
    return (xhat + bias[:, None, None]) * weight[:, None, None]


# %% batch_norm · eps squared under the root
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    var = x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    xhat = (x - mean) / torch.sqrt(var + eps**2)
    return xhat * weight[:, None, None] + bias[:, None, None]


# %% batch_norm · only subtracts the mean from the numerator's variance, forgets the shift
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    var = x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    return x / torch.sqrt(var + eps) * weight[:, None, None] + bias[:, None, None]


# %% batch_norm · detached statistics
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.detach().mean(dim=(0, 2, 3), keepdim=True)
    var = x.detach().var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    xhat = (x - mean) / torch.sqrt(var + eps)
    return xhat * weight[:, None, None] + bias[:, None, None]


# %% batch_norm · E[x squared] minus mean squared
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n = x.shape[0] * x.shape[2] * x.shape[3]
    mean = x.sum(dim=(0, 2, 3), keepdim=True) / n
    var = x.square().sum(dim=(0, 2, 3), keepdim=True) / n - mean.square()
    return (x - mean) * torch.rsqrt(var + eps) * weight[:, None, None] + bias[:, None, None]


# %% batch_norm · the default eps whatever is given
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True)


# %% batch_norm · in place
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    x -= x.mean(dim=(0, 2, 3), keepdim=True)
    x /= torch.sqrt(x.pow(2).mean(dim=(0, 2, 3), keepdim=True) + eps)
    return x * weight[:, None, None] + bias[:, None, None]


# %% running_update · momentum the other way
def running_update(running_mean, running_var, x, momentum):
    mean = x.mean(dim=(0, 2, 3))
    var = x.var(dim=(0, 2, 3))
    return momentum * running_mean + (1 - momentum) * mean, momentum * running_var + (1 - momentum) * var


# %% running_update · biased
def running_update(running_mean, running_var, x, momentum):
    mean = x.mean(dim=(0, 2, 3))
    var = x.var(dim=(0, 2, 3), unbiased=False)
    return running_mean + momentum * (mean - running_mean), running_var + momentum * (var - running_var)


# %% running_update · in place
def running_update(running_mean, running_var, x, momentum):
    running_mean.mul_(1 - momentum).add_(momentum * x.mean(dim=(0, 2, 3)))
    running_var.mul_(1 - momentum).add_(momentum * x.var(dim=(0, 2, 3)))
    return running_mean, running_var


# %% running_update · variance and mean swapped
def running_update(running_mean, running_var, x, momentum):
    var, mean = torch.var_mean(x, dim=(0, 2, 3))
    return (1 - momentum) * running_var + momentum * var, (1 - momentum) * running_mean + momentum * mean


# %% running_update · standard deviation
def running_update(running_mean, running_var, x, momentum):
    std, mean = torch.std_mean(x, dim=(0, 2, 3))
    return (1 - momentum) * running_mean + momentum * mean, (1 - momentum) * running_var + momentum * std


# %% running_update · variance about the new running mean
def running_update(running_mean, running_var, x, momentum):
    mean = (1 - momentum) * running_mean + momentum * x.mean(dim=(0, 2, 3))
    n = x.numel() / x.shape[1]
    var = ((x - mean[:, None, None]) ** 2).sum(dim=(0, 2, 3)) / (n - 1)
    return mean, (1 - momentum) * running_var + momentum * var


# %% running_update · one mean for all channels
def running_update(running_mean, running_var, x, momentum):
    return (1 - momentum) * running_mean + momentum * x.mean(), (1 - momentum) * running_var + momentum * x.var()


# %% running_update · per image
def running_update(running_mean, running_var, x, momentum):
    mean, var = x.mean(dim=(2, 3)), x.var(dim=(2, 3))
    return (1 - momentum) * running_mean + momentum * mean, (1 - momentum) * running_var + momentum * var


# %% running_update · image by image
def running_update(running_mean, running_var, x, momentum):
    for image in x:
        running_mean = (1 - momentum) * running_mean + momentum * image.mean(dim=(1, 2))
        running_var = (1 - momentum) * running_var + momentum * image.var(dim=(1, 2))
    return running_mean, running_var


# %% running_update · momentum 0.1 for everybody
def running_update(running_mean, running_var, x, momentum):
    mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3))
    return 0.9 * running_mean + 0.1 * mean, 0.9 * running_var + 0.1 * var


# %% running_update · mean stays
def running_update(running_mean, running_var, x, momentum):
    return running_mean, (1 - momentum) * running_var + momentum * x.var(dim=(0, 2, 3))


# %% pool_statistics · averages the variances
def pool_statistics(means, variances, worker_weights):
    w = worker_weights / worker_weights.sum().clamp(min=1)
    mean = (w[:, None] * means).sum(dim=0)
    var = (w[:, None] * variances).sum(dim=0)
    return mean, var


# %% pool_statistics · nan without images
def pool_statistics(means, variances, worker_weights):
    w = (worker_weights / worker_weights.sum())[:, None]
    mean = (w * means).sum(dim=0)
    return mean, (w * (variances + (means - mean) ** 2)).sum(dim=0)


# %% pool_statistics · shares along the channels
def pool_statistics(means, variances, worker_weights):
    w = worker_weights / worker_weights.sum().clamp(min=1)
    mean = (w * means).sum(dim=0)
    return mean, (w * (variances + (means - mean) ** 2)).sum(dim=0)


# %% pool_statistics · E x squared
def pool_statistics(means, variances, worker_weights):
    w = (worker_weights / worker_weights.sum().clamp(min=1))[:, None]
    mean = (w * means).sum(0)
    ex2 = (w * (variances + means.square())).sum(0)
    return mean, ex2 - mean.square()


# %% pool_statistics · plain means
def pool_statistics(means, variances, worker_weights):
    mean = means.mean(0)
    return mean, (variances + (means - mean) ** 2).mean(0)


# %% pool_statistics · weights not divided
def pool_statistics(means, variances, worker_weights):
    w = worker_weights[:, None]
    mean = (w * means).sum(0)
    return mean, (w * (variances + (means - mean) ** 2)).sum(0)


# %% pool_statistics · unbiased variance of the pool
def pool_statistics(means, variances, worker_weights):
    total = worker_weights.sum().clamp(min=1)
    w = worker_weights[:, None]
    mean = (w * means).sum(0) / total
    ss = (w * (variances + (means - mean) ** 2)).sum(0)
    return mean, ss / (total - 1).clamp(min=1)


# %% pool_statistics · variance between the means only
def pool_statistics(means, variances, worker_weights):
    w = (worker_weights / worker_weights.sum().clamp(min=1))[:, None]
    mean = (w * means).sum(0)
    return mean, (w * (means - mean) ** 2).sum(0)


# %% pool_statistics · standard deviations averaged
def pool_statistics(means, variances, worker_weights):
    w = (worker_weights / worker_weights.sum().clamp(min=1))[:, None]
    mean = (w * means).sum(0)
    return mean, (w * variances.sqrt()).sum(0) ** 2


# %% pool_statistics · keeps the workers' axis
def pool_statistics(means, variances, worker_weights):
    w = (worker_weights / worker_weights.sum().clamp(min=1))[:, None]
    mean = (w * means).sum(0, keepdim=True)
    return mean, (w * (variances + (means - mean) ** 2)).sum(0, keepdim=True)


# %% pool_statistics · softmax of the weights
def pool_statistics(means, variances, worker_weights):
    w = worker_weights.softmax(0)[:, None]
    mean = (w * means).sum(0)
    return mean, (w * (variances + (means - mean) ** 2)).sum(0)


# %% pool_statistics · shares squared in the variance
def pool_statistics(means, variances, worker_weights):
    w = (worker_weights / worker_weights.sum().clamp(min=1))[:, None]
    mean = (w * means).sum(0)
    return mean, (w * variances).sum(0) + ((w * (means - mean)) ** 2).sum(0)


# %% group_norm · channels per group and groups swapped
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n, c, h, w = x.shape
    g = x.view(n, c // groups, groups, h, w)
    mean = g.mean(dim=(1, 3, 4), keepdim=True)
    var = g.var(dim=(1, 3, 4), keepdim=True, unbiased=False)
    g = (g - mean) / torch.sqrt(var + eps)
    return g.view(n, c, h, w) * weight.view(1, c, 1, 1) + bias.view(1, c, 1, 1)


# %% group_norm · the batch is in the mean
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n, c, h, w = x.shape
    g = x.view(n, groups, -1, h, w)
    mean = g.mean(dim=(0, 2, 3, 4), keepdim=True)
    var = g.var(dim=(0, 2, 3, 4), keepdim=True, unbiased=False)
    g = (g - mean) / torch.sqrt(var + eps)
    return g.view(n, c, h, w) * weight.view(1, c, 1, 1) + bias.view(1, c, 1, 1)


# %% group_norm · unbiased
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n, c, h, w = x.shape
    g = x.view(n, groups, -1)
    var, mean = torch.var_mean(g, dim=-1, keepdim=True)
    g = (g - mean) / torch.sqrt(var + eps)
    return g.view(n, c, h, w) * weight.view(1, c, 1, 1) + bias.view(1, c, 1, 1)


# %% group_norm · std plus eps
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n, c, h, w = x.shape
    g = x.view(n, groups, -1)
    g = (g - g.mean(-1, keepdim=True)) / (g.std(-1, keepdim=True, unbiased=False) + eps)
    return g.view(n, c, h, w) * weight.view(1, c, 1, 1) + bias.view(1, c, 1, 1)


# %% group_norm · layer norm
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    c = x.shape[1]
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    var = x.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + eps) * weight.view(1, c, 1, 1) + bias.view(1, c, 1, 1)


# %% group_norm · no slope and shift
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n, c, h, w = x.shape
    g = x.view(n, groups, -1)
    g = (g - g.mean(-1, keepdim=True)) / torch.sqrt(g.var(-1, keepdim=True, unbiased=False) + eps)
    return g.view(n, c, h, w)


# %% group_norm · weight applied along the width
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n, c, h, w = x.shape
    g = x.view(n, groups, -1)
    g = (g - g.mean(-1, keepdim=True)) / torch.sqrt(g.var(-1, keepdim=True, unbiased=False) + eps)
    return g.view(n, c, h, w) * weight + bias


# %% group_norm · leaves the groups in the shape
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n, c, h, w = x.shape
    g = x.view(n, groups, -1, h, w)
    mean = g.mean(dim=(2, 3, 4), keepdim=True)
    var = g.var(dim=(2, 3, 4), keepdim=True, unbiased=False)
    g = (g - mean) / torch.sqrt(var + eps)
    return g * weight.view(1, groups, -1, 1, 1) + bias.view(1, groups, -1, 1, 1)


# %% group_norm · statistics of the channels, not of the positions
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n, c, h, w = x.shape
    g = x.view(n, groups, -1, h, w)
    mean = g.mean(dim=2, keepdim=True)
    var = g.var(dim=2, keepdim=True, unbiased=False)
    g = ((g - mean) / torch.sqrt(var + eps)).view(n, c, h, w)
    return g * weight.view(1, c, 1, 1) + bias.view(1, c, 1, 1)


# %% group_norm · interleaved with a stride
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    out = torch.empty_like(x)
    for g in range(groups):
        part = x[:, g::groups]
        mean = part.mean(dim=(1, 2, 3), keepdim=True)
        var = part.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        out[:, g::groups] = (part - mean) / torch.sqrt(var + eps)
    return out * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


# %% group_norm · no eps
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n, c, h, w = x.shape
    g = x.view(n, groups, -1)
    g = (g - g.mean(-1, keepdim=True)) / g.std(-1, keepdim=True, unbiased=False)
    return g.view(n, c, h, w) * weight.view(1, c, 1, 1) + bias.view(1, c, 1, 1)


# %% group_norm · torch's with the default eps
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return F.group_norm(x, groups, weight, bias)
