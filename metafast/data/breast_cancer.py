"""scikit-learn's breast cancer data (569 rows, 30 measurements, benign or malignant) as a one-step environment."""

from typing import Literal

import numpy as np

from metafast.data.labelled import LabelledDataVectorEnv

ENV_ID = "BreastCancer-v0"
Split = Literal["train", "test"]


def load(split: Split, *, test_fraction: float = 0.25, split_seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features standardised by the training rows' mean and deviation, and labels 0 or 1; stratified split."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    features, labels = load_breast_cancer(return_X_y=True)
    train_features, test_features, train_labels, test_labels = train_test_split(
        features, labels, test_size=test_fraction, random_state=split_seed, stratify=labels
    )
    chosen, labels = (train_features, train_labels) if split == "train" else (test_features, test_labels)
    standardised = (chosen - train_features.mean(0)) / train_features.std(0)
    return standardised.astype(np.float32), labels.astype(np.int64)


def make_vec(num_envs: int, *, split: Split = "train", split_seed: int = 0) -> LabelledDataVectorEnv:
    """`num_envs` rows at a time: the training rows shuffled, the test rows in order, so that each is judged once."""
    features, labels = load(split, split_seed=split_seed)
    return LabelledDataVectorEnv(features, labels, num_envs, shuffle=split == "train")
