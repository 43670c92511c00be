"""Waveforms in, log-mel frames out: one module for preprocess and for models that read waveforms.

Defaults follow the course: 16 kHz, 25 ms Hann window every 10 ms, 40 mel bands from 50 Hz to half the sample rate (HTK
scale, no area norm), natural logarithm of max(1e-9, power), no mean normalisation.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.base.errors import SettingError
from src.settings.config import Features

BLOCK_FRAMES = 8192  # frames whose spectra are held at once: 13 MB of complex numbers, 82 s of speech


class LogMel(nn.Module):
    """Compute natural-log mel power spectra, frame t centred on sample t * hop_length.

    The signal is mirrored at its two ends (torch.stft with center=True). With lengths, each item of a padded batch is
    mirrored at its own end, so that its frames are those of the item alone. An item shorter than one window is
    filled up with silence to n_fft samples. Raises SettingError for settings that fit no filter bank.
    """

    def __init__(self, features: Features) -> None:
        super().__init__()
        from torchaudio.transforms import MelSpectrogram  # takes 0.3 s, which training on stored frames does not need

        f = features
        for name in ("sample_rate", "num_mels", "n_fft", "win_length", "hop_length", "log_floor"):
            if getattr(f, name) <= 0:
                raise SettingError(f"features.{name}: {getattr(f, name)} must be above 0")
        if f.win_length > f.n_fft:
            raise SettingError(f"features.win_length: {f.win_length} is above features.n_fft, {f.n_fft}")
        if not 0 <= f.f_min < f.sample_rate / 2:
            raise SettingError(f"features.f_min: {f.f_min} must lie from 0 to below {f.sample_rate / 2} Hz, half of "
                               "features.sample_rate")
        self.n_fft, self.hop_length, self.log_floor = f.n_fft, f.hop_length, f.log_floor
        self.mel = MelSpectrogram(f.sample_rate, n_fft=f.n_fft, win_length=f.win_length, hop_length=f.hop_length,
                                  f_min=f.f_min, n_mels=f.num_mels, center=False)

    def num_frames(self, num_samples: int | Tensor) -> int | Tensor:
        """Return how many frames come of `num_samples` samples: 1 + max(num_samples, n_fft) // hop_length."""
        if isinstance(num_samples, Tensor):
            return 1 + num_samples.clamp_min(self.n_fft) // self.hop_length
        return 1 + max(num_samples, self.n_fft) // self.hop_length

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return (B, T, num_mels) log-mels of (B, N) waveforms, T = num_frames(N).

        lengths: (B,) valid samples of a batch padded with zeros; frames from num_frames(lengths) on are any value.
        """
        return self._log_mel(self._mirror(waveform, lengths))

    def blocks(self, waveform: Tensor) -> Iterator[Tensor]:
        """Yield the frames of one waveform (N,) as blocks (at most 8192, num_mels), so that an hour needs no more
        memory for its spectra than a minute."""
        mirrored = self._mirror(waveform[None], None)
        total = self.num_frames(len(waveform))
        for first in range(0, total, BLOCK_FRAMES):
            last = min(first + BLOCK_FRAMES, total)
            samples = mirrored[:, first * self.hop_length : (last - 1) * self.hop_length + self.n_fft]
            yield self._log_mel(samples)[0]

    def _log_mel(self, mirrored: Tensor) -> Tensor:
        return self.mel(mirrored).clamp_min(self.log_floor).log().transpose(1, 2)

    def _mirror(self, waveform: Tensor, lengths: Tensor | None) -> Tensor:
        if waveform.shape[1] < self.n_fft:
            waveform = F.pad(waveform, (0, self.n_fft - waveform.shape[1]))
        half = self.n_fft // 2
        if lengths is None:
            return F.pad(waveform, (half, half), mode="reflect")
        source = torch.arange(-half, waveform.shape[1] + half, device=waveform.device).abs()
        last = lengths.clamp_min(self.n_fft)[:, None] - 1
        return waveform.gather(1, torch.where(source > last, 2 * last - source, source).clamp_min(0))
