"""HuBERT on waveforms, a CNN on log-mel pictures, and the two joined: samples (B, N) in, frames (B, T, C) out.

The network and the names of its weights are torchaudio's (and through `pretrained` Hugging Face's). Its first group
norm runs over time, so that there the padding of a batch changes every utterance in it; here the norm counts valid
frames alone, and a padded batch gives each utterance its own frames.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.models import wav2vec2_model
from torchaudio.pipelines import HUBERT_BASE

from src.model.frontend import LogMel
from src.model.masking import masked_mean, mean_normalise, strided_lengths, zero_padding
from src.model.norms import MaskedChannelNorm
from src.model.pretrained import load_weights
from src.settings.config import Features

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # of the convolutions on samples
FIRST_SAMPLES = 400  # what one frame sees; a shorter utterance is filled up with silence
SIZES = {  # width, layers, heads, feed-forward, channels of the convolutions on samples
    "base": (768, 12, 12, 3072, 512),
    "small": (128, 2, 4, 512, 64),  # for two CPU cores
}


class PositionalEmbedding(nn.Module):
    """torchaudio's convolution that tells frames (B, T, C) where they are, in float32 on a CPU.

    In bfloat16 oneDNN's, on matrix units (AMX), is off by as much as it returns for 16 groups of 8 channels and 128
    frames, which are size "small"; for the 48 channels of "base" it is right.
    """

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.conv = embedding.conv

    def forward(self, frames: Tensor) -> Tensor:
        """Return what is to be added to frames (B, T, C)."""
        maps = frames.transpose(1, 2)
        if frames.device.type != "cpu":
            return F.gelu(self.conv(maps)[..., :-1]).transpose(1, 2)
        with torch.autocast("cpu", enabled=False):
            return F.gelu(self.conv(maps.to(self.conv.bias.dtype))[..., :-1]).transpose(1, 2).to(frames.dtype)


class LearntMix(nn.Module):
    """Mean of several sequences of frames with learnt positive weights that sum to one, equal at the start."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(count))

    def forward(self, outputs: list[Tensor]) -> Tensor:
        """Return the mean (B, T, C) of the outputs (B, T, C); where there are fewer, the first weights count."""
        shares = self.weights[: len(outputs)].softmax(0)
        return sum(share * output for share, output in zip(shares, outputs))


class Hubert(nn.Module):
    """HuBERT (Hsu et al., 2021): seven convolutions on 16 kHz samples, then Transformer layers; a frame every 20 ms.

    size: "base" (94 M parameters) or "small". weights: a local file or folder (see src.model.pretrained); without
    it, and without `download` (torchaudio's HUBERT_BASE, fetched from the network), the start is random. layer:
    "last", or "mix" for the learnt mean of all layers' outputs, as in SUPERB (Yang et al., 2021). dropout: of
    attention, feed-forward and residuals. layer_drop: probability that training skips a layer (Fan et al., 2020);
    "mix", which needs all of them, skips none. The first norm takes the loudness away, so that waveforms need not be
    scaled. Raises ValueError for settings or weights that do not fit.
    """

    takes = "waveform"

    def __init__(self, input_dim: int, *, size: str = "base", weights: str = "", download: bool = False,
                 layer: str = "last", dropout: float = 0.1, layer_drop: float = 0.05) -> None:
        super().__init__()
        if not 0.0 <= layer_drop < 1.0:
            raise ValueError(f"layer_drop {layer_drop} must lie from 0 to below 1")
        if size not in SIZES:
            raise ValueError(f"size '{size}' is none of {', '.join(SIZES)}")
        if layer not in ("last", "mix"):
            raise ValueError(f"layer '{layer}' is neither 'last' nor 'mix'")
        if download and (weights or size != "base"):
            raise ValueError("download fetches the weights of size 'base', in place of `weights`; give one of them")
        width, num_layers, num_heads, feed_forward_dim, channels = SIZES[size]
        self.output_dim = width
        self.hubert = wav2vec2_model(
            extractor_mode="group_norm",
            extractor_conv_layer_config=[(channels, kernel, stride) for kernel, stride in zip(KERNELS, STRIDES)],
            extractor_conv_bias=False,
            encoder_embed_dim=width,
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=128,
            encoder_pos_conv_groups=16,
            encoder_num_layers=num_layers,
            encoder_num_heads=num_heads,
            encoder_attention_dropout=dropout,
            encoder_ff_interm_features=feed_forward_dim,
            encoder_ff_interm_dropout=dropout,
            encoder_dropout=dropout,
            encoder_layer_norm_first=False,
            encoder_layer_drop=layer_drop,
            aux_num_out=None,
        )
        self.hubert.feature_extractor.conv_layers[0].layer_norm = MaskedChannelNorm(channels)
        transformer = self.hubert.encoder.transformer
        transformer.pos_conv_embed = PositionalEmbedding(transformer.pos_conv_embed)
        for block in self.hubert.feature_extractor.conv_layers:  # torch's own start fades to 1e-7 of variance, below
            nn.init.kaiming_normal_(block.conv.weight)  # what the norm behind them can lift; this is the authors'
        self.mix = LearntMix(num_layers) if layer == "mix" else None
        if weights:
            load_weights(self.hubert, weights)
        elif download:
            self.hubert.load_state_dict(_download())

    def forward(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T, output_dim) of 16 kHz waveforms (B, N), and the number of frames of each."""
        features, lengths = self._convolve(*fill_up(waveform, lengths, FIRST_SAMPLES))
        if self.mix is None:
            return self.hubert.encoder(features, lengths), lengths
        return self.mix(self.hubert.encoder.extract_features(features, lengths)), lengths

    def _convolve(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        maps = waveform[:, None]
        for block in self.hubert.feature_extractor.conv_layers:
            maps = block.conv(maps)
            lengths = strided_lengths(lengths, block.kernel_size, block.stride, 0)
            if block.layer_norm is not None:
                maps = block.layer_norm(maps, lengths)
            maps = F.gelu(maps)
        return maps.transpose(1, 2), lengths


def fill_up(inputs: Tensor, lengths: Tensor | None, smallest: int) -> tuple[Tensor, Tensor | None]:
    """Return inputs (B, T, ...) whose padding is zero, every item filled up with zeros to at least `smallest` long."""
    inputs = zero_padding(inputs, lengths)
    missing = torch.sym_max(smallest - inputs.shape[1], 0)  # no branch, which an exported graph could not take
    inputs = F.pad(inputs, (*[0, 0] * (inputs.dim() - 2), 0, missing))
    return inputs, None if lengths is None else lengths.clamp_min(smallest)


def _download() -> dict[str, Tensor]:
    try:
        return HUBERT_BASE.get_model().state_dict()
    except OSError as error:
        raise ValueError(f"HUBERT_BASE could not be fetched ({error}); set encoder.weights to a local file") from error


class LogMelCNN(nn.Module):
    """Two convolutions over the log-mel picture, 1 to 32 to 64 channels, 3x3, ReLU, max-pool 2 each; then one Linear.

    fixed_frames 0: the Linear sees the 64 channels x bands of one frame, a quarter as many frames come out, and any
    length goes in. Above 0: the Linear sees the whole picture of that many frames, as seed 000 has it (1,228,800
    inputs at 2,401 frames of 128 bands); a longer picture is cut, a shorter one filled up with zeros, and one frame
    comes out. Fewer than 4 bands or frames raise ValueError.
    """

    takes = "frames"

    def __init__(self, input_dim: int, *, dim: int = 768, fixed_frames: int = 0) -> None:
        super().__init__()
        if input_dim < 4 or 0 < fixed_frames < 4 or fixed_frames < 0:
            raise ValueError(f"{input_dim} bands of fixed_frames {fixed_frames}: two poolings need 4 of each at least")
        self.output_dim = dim
        self.fixed_frames = fixed_frames
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear = nn.Linear(64 * (input_dim // 4) * (fixed_frames // 4 or 1), dim)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T // 4, dim), or (B, 1, dim) of a fixed picture, and the number of frames of each."""
        if self.fixed_frames:
            picture, _ = fill_up(frames[:, : self.fixed_frames], lengths, self.fixed_frames)
            whole = self._convolve(picture, None)[0].flatten(1)[:, None]
            return self.linear(whole), None if lengths is None else torch.ones_like(lengths)
        maps, lengths = self._convolve(*fill_up(frames, lengths, 4))
        return self.linear(maps.flatten(2)), lengths

    def _convolve(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (B, T // 4, 64, F // 4) of frames (B, T, F)."""
        maps = frames[:, None]
        for convolution in (self.conv1, self.conv2):
            maps = F.max_pool2d(F.relu(convolution(maps)), 2)
            lengths = None if lengths is None else lengths // 2
            maps = zero_padding(maps.transpose(1, 2), lengths).transpose(1, 2)
        return maps.transpose(1, 2), lengths


class HubertLogMel(nn.Module):
    """HuBERT with a CNN on the 128-band log-mel picture beside it (seed 000).

    The picture's vector, the mean of the CNN's frames, joins every frame of HuBERT: join "sum", "concat" (twice as
    wide) or "weighted" (a learnt weighted sum, the two weights positive and summing to one). Under mean pooling that
    is the seed's joining of two vectors. fixed_frames: see LogMelCNN; 2401 is the seed's, 0 holds for any length. Each
    picture is taken less its mean over time. The other settings are Hubert's.
    """

    takes = "waveform"

    def __init__(self, input_dim: int, *, join: str = "sum", fixed_frames: int = 0, size: str = "base",
                 weights: str = "", download: bool = False, layer: str = "last", dropout: float = 0.1,
                 layer_drop: float = 0.05) -> None:
        super().__init__()
        if join not in ("sum", "concat", "weighted"):
            raise ValueError(f"join '{join}' is none of sum, concat, weighted")
        features = Features(num_mels=128, n_fft=1024)  # 400 points leave some of 128 bands without a bin
        self.hubert = Hubert(input_dim, size=size, weights=weights, download=download, layer=layer, dropout=dropout,
                             layer_drop=layer_drop)
        self.log_mel = LogMel(features)
        self.cnn = LogMelCNN(features.num_mels, dim=self.hubert.output_dim, fixed_frames=fixed_frames)
        self.join = join
        self.mix = LearntMix(2) if join == "weighted" else None
        self.output_dim = self.hubert.output_dim * (2 if join == "concat" else 1)

    def forward(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T, output_dim) of 16 kHz waveforms (B, N), and the number of frames of each."""
        waveform = zero_padding(waveform, lengths)
        frames, num_frames = self.hubert(waveform, lengths)
        picture = self._picture(waveform, lengths)[:, None].expand(-1, frames.shape[1], -1)
        if self.join == "concat":
            return torch.cat([frames, picture.to(frames.dtype)], 2), num_frames
        if self.mix is not None:
            return self.mix([frames, picture]), num_frames
        return frames + picture, num_frames

    def _picture(self, waveform: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the vector (B, dim) of the log-mel picture."""
        with torch.no_grad(), torch.autocast(waveform.device.type, enabled=False):
            log_mels = self.log_mel(waveform.float(), lengths)
            num_frames = None if lengths is None else self.log_mel.num_frames(lengths)
            log_mels = mean_normalise(log_mels, num_frames)
        return masked_mean(*self.cnn(log_mels, num_frames))


ENCODERS = {"hubert": Hubert, "hubert_logmel": HubertLogMel, "logmel_cnn": LogMelCNN}
