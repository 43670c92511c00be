"""A map of utterances: their embeddings by a fold's model, made two-dimensional."""

from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from src.model.checkpoint import load_model
from src.store.store import Store
from src.training.evaluate import autocast


def embed(model_path: Path, store_dir: Path, rows: np.ndarray) -> np.ndarray:
    """Return the embeddings (N, D) float32 of a store's `rows`, whole and masked, in their order."""
    store = Store.open(store_dir)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, experiment, _ = load_model(model_path, device)
    found = {}
    with torch.inference_mode():
        for batch_rows, batch in store.batches(rows, experiment.infer.frame_budget * store.samples_per_frame):
            batch = batch.to(device)
            frames, lengths = model.extract(batch.inputs, batch.lengths)
            with autocast(experiment.train) if experiment.train.device == device else torch.no_grad():
                vectors = model.embed(frames, lengths).float().cpu().numpy()
            found |= dict(zip(batch_rows.tolist(), vectors))
    return np.stack([found[row] for row in rows.tolist()])


def project(vectors: np.ndarray) -> tuple[np.ndarray, str]:
    """Return points (N, 2) of vectors (N, D) by cosine, and the method: t-SNE, or principal components for a few.

    t-SNE as van der Maaten & Hinton (2008), by scikit-learn, from the principal components and always the same.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if len(unit) < 30 or unit.shape[1] < 3:
        points = PCA(min(2, *unit.shape), random_state=0).fit_transform(unit)
        return np.pad(points, ((0, 0), (0, 2 - points.shape[1]))), "principal components"
    return TSNE(2, perplexity=min(30, len(unit) / 4), init="pca", random_state=0).fit_transform(unit), "t-SNE"
