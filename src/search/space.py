"""What a search may change: every part and its main settings, as data, and the way from drawn values to an experiment.

In: an experiment and the kind of input. Out: the dimensions that fit both, and for each draw the experiment that it
means. A dimension that concerns one part has a name of its own ("conformer.d_model"), so that two parts' settings
never share a distribution; a dimension is drawn only where its part was.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.base.errors import SettingError
from src.settings.config import Experiment, flatten, override, part
from src.settings.parts import SLOTS, complete_experiment, lookup

if TYPE_CHECKING:
    import optuna

Value = bool | int | float | str


@dataclass(frozen=True)
class Dimension:
    """One setting that a search draws.

    key: the dotted key that it sets. when: the part in the key's slot, or the augmentation, without which it has no
    meaning; a setting of an augmentation needs that one anyway. kinds: the inputs that it is for, () for all. of: the
    drawn number is a share of this setting, so that it means the same in a longer run.
    """

    key: str
    _: dataclasses.KW_ONLY
    when: str = ""
    kinds: tuple[str, ...] = ()
    of: str = ""

    @property
    def name(self) -> str:
        """What the draw is called in a study."""
        slot, _, setting = self.key.partition(".")
        name = f"{self.when}.{setting}" if self.when and slot in SLOTS else self.key
        return f"{name}_share" if self.of else name

    def applies(self, drawn: Mapping[str, Value]) -> bool:
        """Return whether it has a meaning beside what was drawn before it."""
        slot, _, rest = self.key.partition(".")
        if slot == "augment" and "." in rest:
            return drawn.get(f"augment.{rest.partition('.')[0]}") is True
        return not self.when or drawn.get(slot) == self.when or drawn.get(f"augment.{self.when}") is True


@dataclass(frozen=True)
class Choice(Dimension):
    """One of several values without an order."""

    choices: tuple[Value, ...] = ()

    def suggest(self, optuna_trial: "optuna.Trial") -> Value:
        """Draw a value."""
        return optuna_trial.suggest_categorical(self.name, self.choices)

    def holding(self, value: Any) -> "Choice | None":
        """Return the dimension with `value` among its choices."""
        return self if value in self.choices else dataclasses.replace(self, choices=(*self.choices, value))


@dataclass(frozen=True)
class Range(Dimension):
    """A number from low to high, both among them; log: even on a logarithmic scale."""

    low: float = 0.0
    high: float = 1.0
    log: bool = False

    def suggest(self, optuna_trial: "optuna.Trial") -> Value:
        """Draw a value, a whole number where the limits are whole numbers."""
        draw = optuna_trial.suggest_int if isinstance(self.low, int) else optuna_trial.suggest_float
        return draw(self.name, self.low, self.high, log=self.log)

    def holding(self, value: Any) -> "Range | None":
        """Return the dimension widened to `value`; None where that cannot be."""
        if type(value) is not type(self.low) or (self.log and value <= 0):
            return None
        return dataclasses.replace(self, low=min(self.low, value), high=max(self.high, value))


def _choice(key: str, *choices: Value, **more: Any) -> Choice:
    return Choice(key, choices=choices, **more)


def _range(key: str, low: float, high: float, **more: Any) -> Range:
    return Range(key, low=low, high=high, **more)


def _log(key: str, low: float, high: float, **more: Any) -> Range:
    return Range(key, low=low, high=high, log=True, **more)


def _switch(name: str, *settings: Range | Choice, prob: tuple[float, float] = (0.1, 1.0)) -> tuple[Dimension, ...]:
    """Return an augmentation's dimensions: on or off, its chance, and its own settings under their short keys."""
    key = f"augment.{name}"
    own = (dataclasses.replace(item, key=f"{key}.{item.key}") for item in settings)
    return _choice(key, False, True), _range(f"{key}.prob", *prob), *own


# In the order in which they are drawn: a part before its settings. Sizes are such that heads divide them.
SPACE: tuple[Choice | Range, ...] = (
    _choice("features.num_mels", 40, 64, 80, kinds=("waveform",)),  # of stored log-mels it is a matter of the store
    _choice("frontend.mean_norm", False, True, "both"),
    _choice("encoder", "transformer", "lab_transformer", "lab_conformer", "conformer", "branchformer", "ecapa_tdnn",
            "resnet34", "campplus", "logmel_cnn"),
    _choice("encoder.d_model", 80, 144, 256, when="transformer"),
    _range("encoder.num_layers", 1, 4, when="transformer"),
    _choice("encoder.num_heads", 1, 2, 4, 8, when="transformer"),
    _choice("encoder.feed_forward_dim", 256, 512, 1024, when="transformer"),
    _range("encoder.dropout", 0.0, 0.4, when="transformer"),
    _choice("encoder.norm_first", False, True, when="transformer"),
    _choice("encoder.positional", "none", "sinusoidal", when="transformer"),
    _choice("encoder.d_model", 64, 110, 160, when="lab_transformer"),
    _range("encoder.num_layers", 1, 4, when="lab_transformer"),
    _choice("encoder.num_heads", 1, 2, when="lab_transformer"),
    _choice("encoder.feed_forward_dim", 10, 64, 256, when="lab_transformer"),
    _range("encoder.dropout", 0.0, 0.4, when="lab_transformer"),
    _choice("encoder.d_model", 53, 80, 144, when="lab_conformer"),  # its one head divides any size
    _range("encoder.num_layers", 1, 4, when="lab_conformer"),
    _choice("encoder.feed_forward_dim", 128, 256, 500, when="lab_conformer"),
    _choice("encoder.kernel_size", 7, 15, 23, 31, when="lab_conformer"),
    _range("encoder.dropout", 0.0, 0.4, when="lab_conformer"),
    _choice("encoder.d_model", 80, 144, 256, when="conformer"),
    _range("encoder.num_layers", 1, 4, when="conformer"),
    _choice("encoder.num_heads", 1, 2, 4, 8, when="conformer"),
    _choice("encoder.feed_forward_dim", 256, 512, 1024, when="conformer"),
    _choice("encoder.kernel_size", 7, 15, 31, when="conformer"),
    _range("encoder.dropout", 0.0, 0.4, when="conformer"),
    _choice("encoder.norm", "batch", "group", when="conformer"),
    _choice("encoder.d_model", 80, 144, 256, when="branchformer"),
    _range("encoder.num_layers", 1, 4, when="branchformer"),
    _choice("encoder.num_heads", 1, 2, 4, 8, when="branchformer"),
    _choice("encoder.cgmlp_dim", 288, 576, 1024, when="branchformer"),
    _choice("encoder.kernel_size", 7, 15, 31, when="branchformer"),
    _range("encoder.dropout", 0.0, 0.4, when="branchformer"),
    _choice("encoder.channels", 128, 256, 512, when="ecapa_tdnn"),
    _choice("encoder.aggregate_dim", 384, 768, 1536, when="ecapa_tdnn"),
    _choice("encoder.se_dim", 64, 128, when="ecapa_tdnn"),
    _choice("encoder.stride", 1, 2, when="ecapa_tdnn"),
    _choice("encoder.base_channels", 8, 16, 32, when="resnet34"),
    _choice("encoder.dim", 128, 256, 768, when="logmel_cnn"),
    _choice("encoder.growth_rate", 16, 32, when="campplus"),
    _choice("encoder.init_channels", 64, 128, when="campplus"),
    _choice("pooling", "mean", "max", "self_attention", "self_attention_max", "statistics", "attentive_statistics"),
    _choice("pooling.attention_dim", 32, 64, 128, when="attentive_statistics"),
    _choice("pooling.global_context", False, True, when="attentive_statistics"),
    _choice("embedding.dim", 0, 128, 192, 256),
    _choice("embedding.batch_norm", False, True),
    _range("embedding.dropout", 0.0, 0.5),
    _choice("head", "mlp", "linear", "am_softmax", "aam_softmax"),
    _choice("head.hidden_dim", 0, 128, 256, when="mlp"),
    _log("head.scale", 10.0, 64.0, when="am_softmax"),
    _range("head.margin", 0.0, 0.5, when="am_softmax"),
    _range("head.ramp", 0.0, 0.8, when="am_softmax"),
    _range("head.num_subcenters", 1, 3, when="am_softmax"),
    _log("head.scale", 10.0, 64.0, when="aam_softmax"),
    _range("head.margin", 0.0, 0.5, when="aam_softmax"),
    _range("head.ramp", 0.0, 0.8, when="aam_softmax"),
    _range("head.num_subcenters", 1, 3, when="aam_softmax"),
    _log("optim.lr", 1e-4, 1e-2),
    _log("optim.weight_decay", 1e-4, 0.3),
    _range("optim.warmup_steps", 0.0, 0.1, of="train.steps"),  # a tenth is the most that a run allows
    _choice("optim.ema_decay", 0.0, 0.99, 0.999),
    _choice("optim.grad_clip", 0.0, 1.0, 5.0),
    _choice("train.batch_size", 32, 64, 128),
    _choice("train.crop_frames", 8, 12, 16, 24, kinds=("cepstra",)),
    _choice("train.crop_frames", 128, 200, 300, kinds=("logmel", "waveform")),
    _range("train.label_smoothing", 0.0, 0.2),
    _choice("train.mixup", 0.0, 0.1, 0.2, 0.4),
    _choice("train.balanced", False, True),
    _choice("infer.crops", 0, 3, 5),
    *_switch("speed"),
    _choice("train.speed_classes", False, True, when="speed", kinds=("waveform",)),
    *_switch("mel_speed"),
    _choice("train.speed_classes", False, True, when="mel_speed", kinds=("logmel",)),
    *_switch("circular_shift", _range("max_s", 0.05, 0.3)),
    *_switch("pitch_shift"),
    *_switch("white_noise", _log("amplitude", 1e-3, 2e-2)),
    *_switch("waveform_equaliser", _range("curve_db", 0.5, 4.0), _range("bell_db", 2.0, 9.0)),
    *_switch("waveform_noise", _range("snr_min_db", 0.0, 10.0), _range("snr_max_db", 15.0, 30.0), prob=(0.1, 0.7)),
    *_switch("waveform_babble", _range("snr_min_db", 0.0, 10.0), _range("snr_max_db", 15.0, 30.0), prob=(0.1, 0.7)),
    *_switch("room_reverberation", _range("rt60_max_s", 0.4, 1.2), _range("distance_max_m", 1.0, 4.0), prob=(0.1, 0.7)),
    *_switch("waveform_band_limit", _range("telephone_share", 0.0, 1.0), prob=(0.1, 0.5)),
    *_switch("waveform_session", _range("reverberation_prob", 0.0, 0.5), _range("noise_prob", 0.0, 0.4),
             _range("babble_prob", 0.0, 0.4), _range("band_prob", 0.0, 0.5), prob=(0.3, 1.0)),
    *_switch("tempo", _range("change", 0.03, 0.15)),
    *_switch("level", _range("min_db", -15.0, -2.0), _range("max_db", 0.0, 9.0)),
    *_switch("random_equaliser", _range("curve_db", 0.5, 4.0), _range("bell_db", 2.0, 9.0)),
    *_switch("reverberation", _range("rt60_max_s", 0.4, 1.2), _range("drr_max_db", 6.0, 20.0), prob=(0.1, 0.7)),
    *_switch("noise", _range("snr_min_db", 0.0, 10.0), _range("snr_max_db", 15.0, 30.0), prob=(0.1, 0.7)),
    *_switch("babble", _range("snr_min_db", 0.0, 10.0), _range("snr_max_db", 15.0, 30.0), prob=(0.1, 0.7)),
    *_switch("band_limit", _range("telephone_share", 0.0, 1.0), prob=(0.1, 0.5)),
    *_switch("codec", _range("depth_max_db", 15.0, 35.0), prob=(0.1, 0.5)),
    *_switch("session", _range("reverberation_prob", 0.0, 0.5), _range("noise_prob", 0.0, 0.4),
             _range("babble_prob", 0.0, 0.4), _range("band_prob", 0.0, 0.5), _range("codec_prob", 0.0, 0.4),
             prob=(0.3, 1.0)),
    *_switch("jitter", _log("std", 0.02, 0.5)),
    *_switch("spec_augment", _range("freq_masks", 1, 3), _range("freq_width", 4, 12), _range("time_masks", 1, 3),
             _range("time_width", 5, 40), _choice("fill", "mean", "floor")),
    *_switch("time_mask", _range("time_masks", 1, 3), _range("time_width", 2, 30)),
)
FITS = {"cepstra": {"cepstra"}, "logmel": {"logmel"}, "waveform": {"waveform", "logmel"}}  # input -> augmentations


@dataclass(frozen=True)
class Space:
    """The dimensions of one search, and the complete experiment that lies in it.

    notes: what was changed of SPACE so that the experiment itself can be drawn.
    """

    dimensions: tuple[Choice | Range, ...]
    start: Experiment
    notes: tuple[str, ...]

    def suggest(self, optuna_trial: "optuna.Trial") -> dict[str, Value]:
        """Draw one value for each dimension that has a meaning beside those drawn before it."""
        drawn: dict[str, Value] = {}
        for dimension in self.dimensions:
            if dimension.applies(drawn):
                drawn[dimension.name] = dimension.suggest(optuna_trial)
        return drawn

    def params_of(self, experiment: Experiment) -> dict[str, Value]:
        """Return the draw that means `experiment`, complete and adapted, as far as the dimensions tell."""
        flat, drawn = flatten(experiment), {}
        for dimension in self.dimensions:
            if dimension.applies(drawn):
                drawn[dimension.name] = _value(dimension, flat)
        return drawn

    def apply(self, drawn: Mapping[str, Value], experiment: Experiment, steps: int) -> Experiment:
        """Return `experiment` changed to what was drawn, for a run of `steps` steps.

        What no dimension names stays as it is: a part that is drawn again keeps its other settings, and augmentations
        keep their place before those that are added.
        """
        for dimension in self.dimensions:
            key, value = dimension.key, drawn.get(dimension.name)
            slot, _, rest = key.partition(".")
            if value is None:
                if dimension.when and slot not in SLOTS:  # it has no meaning without its augmentation
                    experiment = override(experiment, {key: dimension.choices[0]})
                continue
            if key in SLOTS:
                if getattr(experiment, key).name != value:
                    experiment = override(experiment, {key: value})
            elif slot == "augment" and "." not in rest:
                is_on = rest in [item.name for item in experiment.augment]
                if value and not is_on:
                    experiment = dataclasses.replace(experiment, augment=(*experiment.augment, part(rest)))
                elif is_on and not value:
                    experiment = override(experiment, {key: False})
            else:
                experiment = override(experiment, {key: round(value * steps) if dimension.of else value})
        return experiment


def space_for(experiment: Experiment, kind: str) -> Space:
    """Return the dimensions that fit a kind of input ("logmel", "cepstra", "waveform"), widened to hold `experiment`.

    experiment: adapted, so that no value is "auto". A dimension that cannot hold its value (a weight decay of zero on
    a logarithmic scale) is left out, and the experiment's value stays in every trial. Raises SettingError for an
    experiment that no draw can mean.
    """
    flat, drawn, kept, notes = flatten(experiment), {}, [], []
    for dimension in fitting(kind, experiment.features.sample_rate):
        if dimension.applies(drawn):
            value = _value(dimension, flat)
            wider = dimension.holding(value)
            if wider is None:
                notes.append(f"{dimension.key} = {value!r} stays in every trial: the search cannot reach it")
                continue
            if wider != dimension:
                notes.append(f"{dimension.name}: {value!r} of '{experiment.name}' joins the search's values")
            dimension, drawn[dimension.name] = wider, value
        kept.append(dimension)
    space = Space(tuple(kept), experiment, tuple(notes))
    again = complete_experiment(space.apply(space.params_of(experiment), experiment, experiment.train.steps))
    if again != experiment:
        before, after = flatten(experiment), flatten(again)
        keys = [key for key in before | after if before.get(key) != after.get(key)] or ["augment"]
        raise SettingError(f"tune: no trial can mean '{experiment.name}' itself; it cannot draw {', '.join(keys)}")
    return space


def fitting(kind: str, sample_rate: int | None = None) -> list[Choice | Range]:
    """Return the dimensions of SPACE for a kind of input and a rate of its audio."""
    dimensions = []
    for dimension in SPACE:
        slot, _, rest = dimension.key.partition(".")
        if dimension.kinds and kind not in dimension.kinds:
            continue
        if slot == "augment":
            augmentation = lookup("augment", rest.partition(".")[0])
            is_off_rate = sample_rate and augmentation.sample_rate and sample_rate != augmentation.sample_rate
            if is_off_rate or not FITS[kind] & set(augmentation.kinds):
                continue
        if dimension.key == "encoder":
            takes = {"frames", "waveform"} if kind == "waveform" else {"frames"}
            dimension = dataclasses.replace(
                dimension, choices=tuple(c for c in dimension.choices if lookup("encoder", c).takes in takes))
        dimensions.append(dimension)
    return dimensions


def _value(dimension: Choice | Range, flat: Mapping[str, Any]) -> Any:
    """Return a dimension's value in an experiment as `flatten` gives it."""
    slot, _, rest = dimension.key.partition(".")
    if slot == "augment" and "." not in rest:
        return f"{dimension.key}.on" in flat
    return flat[dimension.key] / flat[dimension.of] if dimension.of else flat[dimension.key]
