"""wav2vec 2.0 of our own (Baevski et al., 2020): waveforms (B, N) in, frames (B, T, d_model) out.

`wav2vec2` is the paper's shape, a feature encoder and a Transformer encoder over it. `wav2vec2_decoder` goes on as the
lab's variant does: a downsampler takes 0.7 of the frames and a Transformer decoder on them looks back at all of them.
Both have the lab's sizes, so that they compare. `pretrain` trains them without labels; `weights` is the file
that it leaves.

A padded batch gives each utterance alone: the norms work frame by frame (the paper's words, "layer normalization"; the
authors' BASE model has one group norm over time instead), convolutions without padding never reach from a valid frame
into padding, and the others see silence there.
"""

from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.base.files import atomic_open
from src.model.kernels.attention import attend
from src.model.layers import Conv1d, Dropout, Linear, SelfAttention
from src.model.masking import standardise, strided_lengths, zero_padding


def save_encoder(path: Path, encoder: "Wav2Vec2") -> None:
    """Write an encoder's weights and shape atomically, as src.model.encoders.wav2vec2.load_weights reads them."""
    weights = {key: value.cpu() for key, value in encoder.state_dict().items()}
    with atomic_open(path, "wb") as file:
        torch.save({"format": WEIGHTS_FORMAT, "shape": encoder.shape, "weights": weights}, file)


SIZES = {
    "base": {"channels": 512, "d_model": 512, "num_layers": 6, "num_heads": 8, "feed_forward_dim": 2048},
    "small": {"channels": 128, "d_model": 128, "num_layers": 2, "num_heads": 4, "feed_forward_dim": 512},
}
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # the paper's
RECEPTIVE_SAMPLES = 400  # samples that one frame sees; a shorter utterance is filled up with silence
POSITION_KERNEL, POSITION_GROUPS = 129, 16  # the paper has 128 frames; an odd number is centred on its frame
WEIGHTS_FORMAT = 1


def frame_lengths(lengths: Tensor | None) -> Tensor | None:
    """Return how many frames (B,) the feature encoder makes of lengths (B,) samples, at least one; None for None."""
    for kernel, stride in zip(KERNELS, STRIDES):
        lengths = strided_lengths(lengths, kernel, stride, 0)
    return lengths


class FeatureConv(nn.Conv1d):
    """Convolution over frames (B, T, C) without padding, then layer norm over each frame's channels, then GELU."""

    def __init__(self, input_dim: int, output_dim: int, kernel_size: int, stride: int) -> None:
        super().__init__(input_dim, output_dim, kernel_size, stride)
        self.norm = nn.LayerNorm(output_dim)

    def forward(self, frames: Tensor) -> Tensor:
        """Return frames (B, T', output_dim)."""
        picture = frames.transpose(1, 2).unsqueeze(2)
        convolved = F.conv2d(picture, self.weight.unsqueeze(2), self.bias, (1, self.stride[0]))
        return F.gelu(self.norm(convolved.squeeze(2).transpose(1, 2)))


class FeatureEncoder(nn.Module):
    """Seven convolutions that turn samples into frames 20 ms apart that see 25 ms each (at 16 kHz)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inputs = (1, *[channels] * (len(KERNELS) - 1))
        self.convs = nn.ModuleList(FeatureConv(dim, channels, kernel, stride)
                                   for dim, kernel, stride in zip(inputs, KERNELS, STRIDES))

    def forward(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T, channels) of waveforms (B, N), each scaled to mean 0 and variance 1, and lengths.

        An utterance shorter than 400 samples is filled up with silence and gives one frame.
        """
        frames = standardise(zero_padding(waveform, lengths)[..., None], lengths, 1e-7)
        if frames.shape[1] < RECEPTIVE_SAMPLES:
            frames = F.pad(frames, (0, 0, 0, RECEPTIVE_SAMPLES - frames.shape[1]))
        for conv in self.convs:
            frames = conv(frames)
        return frames, frame_lengths(lengths)


class ConvolutionalPositions(nn.Module):
    """Add to frames (B, T, C) a wide grouped convolution of them, which tells a frame what lies around it.

    Without the weight norm of the authors' code; its initial scale is theirs.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.conv = Conv1d(dim, dim, POSITION_KERNEL, groups=POSITION_GROUPS if dim % POSITION_GROUPS == 0 else 1)
        nn.init.normal_(self.conv.weight, std=(4.0 / (POSITION_KERNEL * dim)) ** 0.5)
        nn.init.zeros_(self.conv.bias)
        self.dropout = Dropout(dropout)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, C)."""
        return self.dropout(frames + F.gelu(self.conv(frames, lengths)))


class FeedForward(nn.Module):
    """Two convolutions over time, of 5 frames and of 1, with GELU between them (the lab's; the paper has two layers).

    GELU is the paper's; the lab does not say.
    """

    def __init__(self, d_model: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.expand = Conv1d(d_model, feed_forward_dim, 5)
        self.contract = Conv1d(feed_forward_dim, d_model, 1)
        self.dropout = Dropout(dropout)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, d_model)."""
        return self.contract(self.dropout(F.gelu(self.expand(frames, lengths))))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each after a layer norm (as in the authors' LARGE model: it trains from any
    start, where post-norm layers need a long warm-up)."""

    def __init__(self, d_model: int, num_heads: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(d_model, num_heads, dropout)
        self.feed_forward = FeedForward(d_model, feed_forward_dim, dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, d_model)."""
        frames = frames + self.dropout(self.self_attn(self.norm1(frames), lengths))
        return frames + self.dropout(self.feed_forward(self.norm2(frames), lengths))


class CrossAttention(nn.Module):
    """Multi-head attention of frames (B, T', C) to a memory (B, T, C) (Vaswani et al., 2017)."""

    def __init__(self, dim: int, num_heads: int, dropout_p: float) -> None:
        super().__init__()
        self.num_heads, self.dropout_p = num_heads, dropout_p
        self.query_proj = Linear(dim, dim)
        self.memory_proj = Linear(dim, 2 * dim)
        self.out_proj = Linear(dim, dim)
        for layer in (self.query_proj, self.memory_proj, self.out_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, frames: Tensor, memory: Tensor, memory_lengths: Tensor | None) -> Tensor:
        """Return frames (B, T', C) that have looked at every valid frame of their own memory."""
        query = self.query_proj(frames).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.memory_proj(memory).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = attend(query, key, value, memory_lengths, self.dropout_p if self.training else 0.0, per_frame=0)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class DecoderLayer(EncoderLayer):
    """An encoder layer with attention to a memory between its two halves; frames see those before and after them."""

    def __init__(self, d_model: int, num_heads: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__(d_model, num_heads, feed_forward_dim, dropout)
        self.cross_attn = CrossAttention(d_model, num_heads, dropout)
        self.norm3 = nn.LayerNorm(d_model)

    def forward(self, frames: Tensor, lengths: Tensor | None, memory: Tensor, memory_lengths: Tensor | None) -> Tensor:
        """Return frames (B, T', d_model)."""
        frames = frames + self.dropout(self.self_attn(self.norm1(frames), lengths))
        frames = frames + self.dropout(self.cross_attn(self.norm3(frames), memory, memory_lengths))
        return frames + self.dropout(self.feed_forward(self.norm2(frames), lengths))


class Wav2Vec2(nn.Module):
    """Feature encoder and Transformer encoder over it: wav2vec 2.0 (Baevski et al., 2020).

    size: "base" (512 wide, 6 layers: the lab's sizes; the paper's BASE has 768 and 12) or "small" (128 wide, 2 layers,
    for a CPU). channels, d_model, num_layers, num_heads and feed_forward_dim are the size's own where they are None.
    weights: path of an encoder.pt that pretraining left; "" starts from random weights. Raises ValueError for a size
    that does not exist, numbers that do not fit and weights of another encoder. No layer is ever dropped whole, which
    the paper does with one in twenty. standardise: each channel of the features at mean 0 and variance 1 over its
    utterance (ours): where little or no pretraining has shaped them a few channels drown the others. freeze_features:
    the feature encoder and the norm behind it do not learn, as the paper fine-tunes.
    """

    takes = "waveform"

    def __init__(self, input_dim: int, *, size: str = "base", channels: int | None = None, d_model: int | None = None,
                 num_layers: int | None = None, num_heads: int | None = None, feed_forward_dim: int | None = None,
                 dropout: float = 0.1, standardise: bool = False, freeze_features: bool = False,
                 weights: str = "") -> None:
        super().__init__()
        self.shape = _shape(size, channels=channels, d_model=d_model, num_layers=num_layers, num_heads=num_heads,
                            feed_forward_dim=feed_forward_dim)
        self.features_dim, self.output_dim = self.shape["channels"], self.shape["d_model"]
        self.standardise = standardise
        self.feature_encoder = FeatureEncoder(self.features_dim)
        self.feature_norm = nn.LayerNorm(self.features_dim)
        if freeze_features:
            self.feature_encoder.requires_grad_(False)
            self.feature_norm.requires_grad_(False)
        self.projection = Linear(self.features_dim, self.output_dim)
        self.projection_dropout = Dropout(dropout)
        self.positions = ConvolutionalPositions(self.output_dim, dropout)
        self.layers = self._layers(EncoderLayer, dropout)
        self.norm = nn.LayerNorm(self.output_dim)
        if weights:
            load_weights(self, weights)

    def forward(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T, d_model) of waveforms (B, N) in [-1, 1], and how many of each are valid."""
        features, lengths = self.features(waveform, lengths)
        return self.context(self.project(features), lengths)

    def features(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return normalised frames (B, T, channels) of the feature encoder, which the quantiser sees, and lengths."""
        frames, lengths = self.feature_encoder(waveform, lengths)
        frames = self.feature_norm(frames)
        return standardise(frames, lengths) if self.standardise else frames, lengths

    def project(self, features: Tensor) -> Tensor:
        """Return features (B, T, channels) as the context network takes them (B, T, d_model)."""
        return self.projection_dropout(self.projection(features))

    def context(self, projected: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the frames of the context network and their lengths; masking happens to `projected` before."""
        frames = self.positions(projected, lengths)
        for layer in self.layers:
            frames = layer(frames, lengths)
        return self.norm(frames), lengths

    def downsample(self, values: Tensor) -> Tensor:
        """Return those of values (B, T, …), one a feature frame, that belong to the frames of `context`: all."""
        return values

    def _layers(self, kind: type[EncoderLayer], dropout: float) -> nn.ModuleList:
        return nn.ModuleList(kind(self.output_dim, self.shape["num_heads"], self.shape["feed_forward_dim"], dropout)
                             for _ in range(self.shape["num_layers"]))


class Wav2Vec2Decoder(Wav2Vec2):
    """Transformer encoder, downsampler, Transformer decoder: the lab's context network.

    The downsampler takes the nearest frame (rounded down) at `rate` (0 to 1) of the frame rate; the decoder's input is
    what it took, its memory all of the encoder's frames. Everything else is as in Wav2Vec2; the decoder's layers are
    as many and as wide as the encoder's.
    """

    def __init__(self, input_dim: int, *, size: str = "base", channels: int | None = None, d_model: int | None = None,
                 num_layers: int | None = None, num_heads: int | None = None, feed_forward_dim: int | None = None,
                 dropout: float = 0.1, standardise: bool = False, freeze_features: bool = False, rate: float = 0.7,
                 weights: str = "") -> None:
        super().__init__(input_dim, size=size, channels=channels, d_model=d_model, num_layers=num_layers,
                         num_heads=num_heads, feed_forward_dim=feed_forward_dim, dropout=dropout,
                         standardise=standardise, freeze_features=freeze_features)
        if not 0.001 <= rate <= 1.0:
            raise ValueError(f"rate {rate} must lie between 0.001 and 1")
        self.shape["rate"] = rate
        self.rate = Fraction(rate).limit_denominator(1000)  # whole numbers: 0.7 * 90 is below 63 as a float
        self.decoder_layers = self._layers(DecoderLayer, dropout)
        self.decoder_norm = nn.LayerNorm(self.output_dim)
        if weights:
            load_weights(self, weights)

    def context(self, projected: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the decoder's frames (B, T', d_model) and their lengths."""
        memory, lengths = super().context(projected, lengths)
        frames = self.downsample(memory)
        short = None if lengths is None else self.downsampled(lengths)
        for layer in self.decoder_layers:
            frames = layer(frames, short, memory, lengths)
        return self.decoder_norm(frames), short

    def downsampled(self, num_frames: Tensor) -> Tensor:
        """Return how many of num_frames (any shape) are left, at least one."""
        return (num_frames * self.rate.numerator // self.rate.denominator).clamp_min(1)

    def downsample(self, values: Tensor) -> Tensor:
        """Return values (B, T', …) of the nearest frames among values (B, T, …)."""
        left = int(self.downsampled(torch.tensor(values.shape[1])))
        index = torch.arange(left, device=values.device) * self.rate.denominator // self.rate.numerator
        return values.index_select(1, index)


def _shape(size: str, **given: int | None) -> dict[str, int]:
    """Return the numbers of a size with those that are given in their place."""
    if size not in SIZES:
        raise ValueError(f"size '{size}' is none of {', '.join(SIZES)}")
    for name, value in given.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{name} {value!r} is no whole number above 0")
    return {name: SIZES[size][name] if value is None else value for name, value in given.items()}


OTHER = "A model of torchaudio's or Hugging Face's (wav2vec 2.0 base too) is read by the encoder 'hubert'"


def load_weights(encoder: Wav2Vec2, path: str) -> None:
    """Put the weights of an encoder.pt into `encoder`; raises ValueError where they are not of its very shape."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"weights: {path}: no such file; make one with `python -m src pretrain`") from error
    except Exception as error:  # torch raises many kinds for torn, foreign and unsafe files
        raise ValueError(f"weights: {path}: not a file of tensors and plain values, or torn; refused. {OTHER}") \
            from error
    if not isinstance(content, dict) or content.get("format") != WEIGHTS_FORMAT:
        raise ValueError(f"weights: {path}: not an encoder.pt of this version; make one with `python -m src pretrain`. "
                         f"{OTHER}")
    shape = content["shape"]
    if shape != encoder.shape:
        differing = [f"{name} {shape.get(name, 'none')} (here {encoder.shape.get(name, 'none')})"
                     for name in dict.fromkeys([*shape, *encoder.shape]) if shape.get(name) != encoder.shape.get(name)]
        raise ValueError(f"weights: {path}: made with {', '.join(differing)}; set the encoder to the same")
    try:
        encoder.load_state_dict(content["weights"])
    except RuntimeError as error:
        raise ValueError(f"weights: {path}: {error}; pretrain again with this version") from error


ENCODERS = {"wav2vec2": Wav2Vec2, "wav2vec2_decoder": Wav2Vec2Decoder}
