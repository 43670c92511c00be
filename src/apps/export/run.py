"""Export a run's models as one ONNX file, check it against them, and score its 8-bit form."""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from src.apps.export.onnx_graph import (
    EXAMPLE_FRAMES,
    FRONTEND,
    SpeakerGraph,
    example,
    quiet,
    reference,
    replace_inputs,
    write_graph,
)
from src.apps.predict.fold_models import FoldModels
from src.apps.predict.onnx_model import OnnxModel
from src.base.errors import RunError, SettingError
from src.base.files import atomic_open
from src.runs.folder import Run
from src.runs.logits import read_logits
from src.settings.parts import lookup
from src.store.store import Store

CHECKED_FRAMES, CHECKED_BATCHES = (97, 402), (1, 2)
LARGEST_DIFFERENCE = 5e-4  # of a log-posterior, between the file and the models
MOST_SCORED = 2000  # held-out utterances that --int8 is scored on


def run(options: argparse.Namespace) -> None:
    """Export a run and say how well the file agrees with its models."""
    exported = Run.open(options.run)
    crops = exported.experiment.infer.crops
    if crops:
        raise SettingError(f"{exported.run_id}: infer.crops={crops}, and an exported file sees utterances whole, so it "
                           "would answer otherwise; export a run with infer.crops=0")
    if lookup("encoder", exported.experiment.encoder.name).takes == "utterances":
        raise SettingError(f"{exported.run_id}: a classical model has no network to export; name a network's run")
    from_audio = "sample_rate" in Store.open(exported.store_dir()).settings
    models = FoldModels(exported, () if options.fold is None else (options.fold,), device="cpu")
    difference = export(models, from_audio, options.onnx)
    folds = f"{models.card.num_folds} folds averaged" if models.card.num_folds > 1 else f"fold {options.fold or 0}"
    print(f"{options.onnx}: {exported.run_id}, {folds}, {len(models.speakers)} speakers, "
          f"{'waveforms' if from_audio else 'frames'} in, {_megabytes(options.onnx)}")
    print(f"agrees with the models to {difference:.1e} of a log-posterior (utterances of {CHECKED_FRAMES[0]} and "
          f"{CHECKED_FRAMES[1]} frames, batches of {CHECKED_BATCHES[0]} and {CHECKED_BATCHES[1]})")
    if options.int8:
        quantised = options.onnx.with_suffix(".int8.onnx")
        quantise(options.onnx, quantised)
        print(f"{quantised}: weights of 8 bits, {_megabytes(quantised)}")
        num_scored, full, small = out_of_fold_accuracy(exported, options.fold)
        print(f"out-of-fold accuracy: {full:.4f}, with 8 bits {small:.4f} ({num_scored:,} held-out utterances)"
              if num_scored else "out-of-fold accuracy: none, the run held no utterance out")


def export(models: FoldModels, from_audio: bool, path: Path) -> float:
    """Write fold models to an ONNX file and return the largest difference of a log-posterior from the models.

    Raises RunError, and leaves no file, where the encoder cannot be exported or the file does not agree.
    """
    card = replace_inputs(models.card, from_audio, models.input_dim)
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder, "model.onnx")
        write_graph(SpeakerGraph(models, from_audio), example(models, from_audio, EXAMPLE_FRAMES, 2), card, candidate)
        difference = largest_difference(models, from_audio, candidate)
        if not difference <= LARGEST_DIFFERENCE:  # NaN is not either
            raise RunError(f"{models.card.name}: encoder '{models.experiment.encoder.name}' cannot be exported to "
                           f"ONNX: the graph differs from the models by {difference:.2g} of a log-posterior, more "
                           f"than {LARGEST_DIFFERENCE}; nothing was written")
        _put(candidate, path)
    return difference


def largest_difference(models: FoldModels, from_audio: bool, path: Path) -> float:
    """Return the largest difference between log-posteriors of an ONNX file and of the models, over two lengths and two
    batch sizes. Raises RunError for one of them that onnxruntime cannot run."""
    model, largest = OnnxModel(path), 0.0
    for num_frames in CHECKED_FRAMES:
        for batch_size in CHECKED_BATCHES:
            inputs, lengths = example(models, from_audio, num_frames, batch_size)
            try:
                log_probs, _ = model.run(inputs.numpy(), lengths.numpy())
            except Exception as error:  # onnxruntime's own kinds; a length that was baked in ends here
                raise RunError(f"{models.card.name}: encoder '{models.experiment.encoder.name}' cannot be exported to "
                               f"ONNX: the graph cannot run {batch_size} utterances of {num_frames} frames: "
                               f"{str(error).splitlines()[0][:200]}") from error
            expected = reference(models, inputs, lengths)
            largest = float(np.maximum(largest, np.abs(log_probs - expected).max()))  # keeps NaN
    return largest


def quantise(source: Path, target: Path) -> None:
    """Write an ONNX file with the weights of its linear layers and convolutions in 8 bits, the log-mel's kept.

    Activations are quantised as they come (dynamic quantisation).
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    del model.graph.value_info[:]  # shapes from before the exporter's own optimisation, which the quantiser checks
    kept = [node.name for node in model.graph.node if any(name.startswith(FRONTEND) for name in node.input)]
    with tempfile.TemporaryDirectory() as folder, quiet():
        candidate = Path(folder, "model.onnx")
        quantize_dynamic(model, candidate, weight_type=QuantType.QUInt8, nodes_to_exclude=kept,
                         op_types_to_quantize=["MatMul", "Gemm", "Conv"])
        _put(candidate, target)


def out_of_fold_accuracy(run: Run, only: int | None = None) -> tuple[int, float, float]:
    """Return the number of held-out utterances scored, and the accuracy on them of the ONNX graph and of its 8-bit
    form, each utterance through the one fold's model that was not trained on it; of one fold with `only`."""
    store, right, num_scored = Store.open(run.store_dir()), [0, 0], 0
    folds = range(len(run.folds)) if only is None else [only]
    per_fold = -(-MOST_SCORED // len(folds))
    for fold in folds:
        rows = read_logits(run.fold(fold).valid_path)[0]
        rows = rows[:: max(1, -(-len(rows) // per_fold))]
        if not len(rows):
            continue
        models = FoldModels(run, (fold,), device="cpu")
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, "float.onnx"), Path(folder, "int8.onnx")]
            from_audio = models.kind == "waveform"
            write_graph(SpeakerGraph(models, from_audio), example(models, from_audio, EXAMPLE_FRAMES, 2), models.card,
                        files[0])
            quantise(*files)
            sessions = [OnnxModel(file) for file in files]
            for row in rows:
                inputs = store.utterances([row]).inputs.numpy()
                for i, session in enumerate(sessions):
                    right[i] += int(session.run(inputs)[0][0].argmax() == store.labels[row])
        num_scored += len(rows)
    return num_scored, *(count / num_scored if num_scored else float("nan") for count in right)


def _put(source: Path, target: Path) -> None:
    with atomic_open(target, "wb") as file:
        file.write(source.read_bytes())


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"
