import torch
from sam import SAM


def make(params, rho, **options):
    params = list(params)
    return SAM(params, torch.optim.SGD(params, **options), rho=rho)


def step(optimizer, closure):
    return optimizer.step(closure)
