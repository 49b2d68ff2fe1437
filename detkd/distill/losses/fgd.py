"""FGD: focal and global distillation (Yang et al., CVPR 2022)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full, masked_mean
from detkd.distill.view import View


class FocalGlobal(nn.Module):
    """Objects and background apart, both where the teacher attends, and relations between cells.

    With the teacher's attention over cells and over channels, each of mean one (temperature T):

        S(f) = cells · softmax_cells(mean_c |f| / T),   A(f) = C · softmax_c(mean_cells |f| / T)

        L = objects    · mean over objects and their cells of S_t A_t (s − t)²
          + background · mean over the other cells of S_t A_t (s − t)²
          + spatial    · mean |S_t − S_s|  +  channels_ · mean |A_t − A_s|
          + relations  · mean (R_s(s) − R_t(t))²

    R is a global context block on each side (Cao et al., 2019), trained and left behind, so that
    the last part is not zero when the two agree, once they have learned. A cell
    covered by several objects counts for the smallest. Padding counts for nothing. The defaults
    keep the published ratios (5e-5, 2.5e-5, 5e-5, 5e-7 of sums over channels and cells at 800x1344
    px, 256 channels, 7.3 objects an image), with `objects` as the unit.

    Args:
        channels: width of the teacher's feature, given by the distiller.
        temperature: T.
        objects, background, spatial, channel, relations: weights of the parts.
    """

    needs_equal_width = True
    published = 256 * 7.3
    sums_levels = True

    def __init__(
        self,
        channels: int,
        temperature: float = 0.5,
        objects: float = 1.0,
        background: float = 0.0685,
        spatial: float = 11.9,
        channel: float = 0.137,
        relations: float = 30.6,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.objects, self.background = objects, background
        self.spatial, self.channel, self.relations = spatial, channel, relations
        self.context_s, self.context_t = GlobalContext(channels), GlobalContext(channels)

    def forward(
        self, student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], view: View
    ) -> Float[Tensor, ""]:
        s, t, valid = full(student), full(teacher), view.valid(student)
        where_s, which_s = self._attention(s, valid)
        where_t, which_t = self._attention(t, valid)
        distance = where_t * which_t * (s - t) ** 2
        on_objects, elsewhere = _object_weights(s, view)
        focal = self.objects * _sum_an_object(distance, on_objects * valid)
        focal = focal + self.background * masked_mean(distance, elsewhere & valid)
        attention = self.spatial * masked_mean((where_t - where_s).abs(), valid)
        attention = attention + self.channel * (which_t - which_s).abs().mean()
        relation = (self.context_s(s, valid) - self.context_t(t, valid)) ** 2
        return focal + attention + self.relations * masked_mean(relation, valid)

    def _attention(self, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Over cells [N, 1, h, w] and over channels [N, C, 1, 1], each of mean one."""
        size, cells = features.abs(), valid.flatten(1).sum(1)[:, None, None, None].clamp(min=1)
        rows = (size.mean(1, keepdim=True) / self.temperature).masked_fill(~valid, -1e9)
        where = rows.flatten(1).softmax(1).view_as(rows) * cells
        strength = (size * valid).sum((2, 3), keepdim=True) / cells / self.temperature
        return where, strength.softmax(1) * features.shape[1]


class GlobalContext(nn.Module):
    """f + W₂ ReLU(LN(W₁ Σ_cells softmax(w·f) f)): what the whole image adds to each cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 2)
        self.look = nn.Conv2d(channels, 1, 1)
        self.change = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels),
        )
        last = self.change[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        looks = self.look(features).masked_fill(~valid, -1e9).flatten(2).softmax(2)  # [N, 1, h·w]
        context = torch.bmm(features.flatten(2), looks.transpose(1, 2)).squeeze(2)
        return features + self.change(context)[:, :, None, None]


def _object_weights(features: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Each cell's share of its smallest object [N, 1, h, w], and the cells without any."""
    shares = []
    for masks in view.objects(features):
        areas = masks.flatten(1).sum(1).clamp(min=1)[:, None, None]
        share = masks.to(features.dtype) / areas
        none = share.new_zeros(1, *share.shape[1:])
        shares.append(torch.cat([share, none]).amax(0, keepdim=True) / max(1, len(masks)))
    weights = torch.stack(shares)
    return weights, weights == 0


def _sum_an_object(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over channels, weighted sum over cells, mean over the images that have an object."""
    sums = (values.mean(1, keepdim=True) * weights).flatten(1).sum(1)
    return sums.sum() / (weights.flatten(1).sum(1) > 0).sum().clamp(min=1)
