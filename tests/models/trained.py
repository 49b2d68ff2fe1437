"""Networks whose weights are not as they began."""

import torch


def moved(network):
    """The network with weights as after a training: a residual block may begin as the identity."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network
