"""What cluster/train_cluster.py and train_index.py are told. Importing this module is cheap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modules.data.options import CONFIG_PATH, DATASET_DIR
from modules.options import setting

MODEL_DIR = Path("logs/44k")


@dataclass(frozen=True)
class ClusterOptions:
    """The k-means centres of every speaker's units."""

    dataset: Path = setting(DATASET_DIR, "--dataset", help="the preprocessed dataset")
    output: Path = setting(MODEL_DIR, "--output", help="folder for kmeans_10000.pt")
    gpu: bool = setting(False, "--gpu", help="compare frames and centres on the GPU")


@dataclass(frozen=True)
class IndexOptions:
    """The feature index of every speaker."""

    root_dir: Path = setting(DATASET_DIR, "--root_dir", help="the preprocessed dataset")
    config: Path = setting(CONFIG_PATH, "-c", "--config", help="the model's config")
    output_dir: Path = setting(MODEL_DIR, "--output_dir", help="folder for feature_and_index")
