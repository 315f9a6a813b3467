"""Train a small neural network on scikit-learn's handwritten digits, and print a line per epoch.

Nothing is downloaded: the 1,797 images come with scikit-learn. The model and a picture of its confusion matrix are left
in the directory that `STUDIO_ARTIFACTS` names, or in `artifacts` if it is not set.
"""

import argparse
import os
from pathlib import Path

import joblib
import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

matplotlib.use("Agg")  # before pyplot: there is no screen where this runs

from matplotlib import pyplot as plt


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training data (default: 30)")
    parser.add_argument("--learning-rate", "--lr", type=float, default=0.003, help="Adam's step (default: 0.003)")
    parser.add_argument("--hidden", type=int, default=64, help="units in the hidden layer (default: 64)")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step (default: 64)")
    parser.add_argument("--test-size", type=float, default=0.2, help="share kept for the test (default: 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same model (default: 0)")
    arguments = parser.parse_args()
    for name in ("epochs", "learning_rate", "hidden", "batch_size"):
        if getattr(arguments, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be more than 0")
    if not 0 < arguments.test_size < 1:
        parser.error("--test-size must be between 0 and 1")
    return arguments


def train(model: MLPClassifier, images: np.ndarray, labels: np.ndarray, epochs: int) -> None:
    """Fit the model, and say after each epoch how far it is."""
    for epoch in range(1, epochs + 1):
        model.partial_fit(images, labels, classes=np.arange(10))
        accuracy = model.score(images, labels)
        print(f"epoch {epoch:>3}/{epochs}  loss {model.loss_:.4f}  accuracy {accuracy:.4f}", flush=True)


def save(model: MLPClassifier, images: np.ndarray, labels: np.ndarray, directory: Path) -> None:
    """Write the model and its confusion matrix."""
    directory.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, directory / "model.joblib")
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    ConfusionMatrixDisplay.from_estimator(model, images, labels, cmap="Blues", colorbar=False, ax=axes)
    axes.set_title("Digits: what was shown, and what was seen")
    figure.savefig(directory / "confusion-matrix.png", dpi=120)
    plt.close(figure)


def main() -> None:
    """Train, test, save."""
    arguments = parse_arguments()
    images, labels = load_digits(return_X_y=True)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images / 16.0, labels, test_size=arguments.test_size, random_state=arguments.seed, stratify=labels
    )
    model = MLPClassifier(
        hidden_layer_sizes=(arguments.hidden,),
        learning_rate_init=arguments.learning_rate,
        batch_size=min(arguments.batch_size, len(train_images)),
        random_state=np.random.RandomState(arguments.seed),
    )
    print(f"{len(train_images)} images to train with, {len(test_images)} to test with", flush=True)
    train(model, train_images, train_labels, arguments.epochs)
    directory = Path(os.environ.get("STUDIO_ARTIFACTS", "artifacts"))
    save(model, test_images, test_labels, directory)
    print(f"model and confusion matrix are in {directory}", flush=True)
    print(f"test accuracy: {model.score(test_images, test_labels):.4f}", flush=True)


if __name__ == "__main__":
    main()
