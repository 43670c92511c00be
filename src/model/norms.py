"""Norms whose statistics leave padded frames out."""

import torch
from torch import Tensor, nn

from src.model.kernels.moments import batch_norm_under_mask, gathers_frames
from src.model.masking import masked_mean, valid_mask


class MaskedChannelNorm(nn.GroupNorm):
    """Group norm of one group a channel (B, C, T), over each item's valid frames alone (Wu & He, 2018)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__(num_channels, num_channels)

    def forward(self, maps: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return normalised maps of the same shape; padded frames come out as any value."""
        if lengths is None:
            return super().forward(maps)
        padding = ~valid_mask(lengths, maps.shape[2])[:, None]
        count = lengths[:, None, None].clamp_max(maps.shape[2])
        maps = maps.float()
        centred = maps - maps.masked_fill(padding, 0.0).sum(2, keepdim=True) / count
        variance = centred.masked_fill(padding, 0.0).square().sum(2, keepdim=True) / count
        return centred * torch.rsqrt(variance + self.eps) * self.weight[:, None] + self.bias[:, None]


class MaskedBatchNorm1d(nn.BatchNorm1d):
    """Batch norm over (B, T, D) or (B, D) whose statistics leave padded frames out (Ioffe & Szegedy, 2015)."""

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return normalised frames of the same shape; padded frames come out as any value."""
        if frames.dim() == 2:
            return super().forward(frames)
        if self.training and lengths is not None:
            mask = valid_mask(lengths, frames.shape[1])
            if not gathers_frames(frames):
                return batch_norm_under_mask(self, frames, mask[..., None])
            normed = torch.zeros_like(frames)
            normed[mask] = super().forward(frames[mask]).to(frames.dtype)
            return normed
        return super().forward(frames.flatten(0, 1)).view_as(frames)


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over maps (B, C, T, F) whose statistics leave padded frames out (Ioffe & Szegedy, 2015)."""

    def forward(self, maps: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return normalised maps of the same shape; padded frames come out as any value."""
        if not self.training or lengths is None:
            return super().forward(maps)
        mask = valid_mask(lengths, maps.shape[2])
        if not gathers_frames(maps):
            return batch_norm_under_mask(self, maps.movedim(1, -1), mask[..., None, None]).movedim(-1, 1)
        frames = maps.permute(0, 2, 1, 3)
        normed = torch.zeros_like(frames)
        normed[mask] = super().forward(frames[mask].unsqueeze(3)).squeeze(3).to(frames.dtype)
        return normed.permute(0, 2, 1, 3)


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm of one group over each item's valid frames (B, T, D) (Wu & He, 2018)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__(1, num_channels)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return normalised frames of the same shape; padded frames come out as any value."""
        mean = masked_mean(frames.float(), lengths).mean(1)[:, None, None]
        centred = frames - mean
        variance = masked_mean(centred.square(), lengths).mean(1)[:, None, None]
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
