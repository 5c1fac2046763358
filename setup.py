"""Installs the package `pseudo_ris`; the recipes beside it are run as scripts."""

from setuptools import find_packages, setup

# MaskRIS is built from parts of transformers and timm that are not public: only the tested minor versions.
TRAIN = ["transformers>=5.20,<5.24", "tokenizers>=0.22", "timm>=1.0.31,<1.1", "tensorboard>=2.20"]
# open_clip's training reads its shards with webdataset, and fails with newer ones.
FINETUNE = ["webdataset>=0.2.86,<0.2.87"]
# "default" is Ray's dashboard; 2.64 takes away map_batches' max_restarts and max_task_retries.
SCALE = ["ray[data,default]>=2.60,<2.64"]

setup(
    name="pseudo-ris",
    version="0.1.0",
    description="Turns unlabeled images into mask-expression pairs for referring image segmentation",
    license="Apache-2.0",
    entry_points={"console_scripts": ["pseudo-ris = pseudo_ris.cli.main:run"]},
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["pseudo_ris", "pseudo_ris.*"]),
    package_data={"pseudo_ris.assets": ["weights/*"], "pseudo_ris.report": ["page.html", "style.css", "page.js"]},
    install_requires=[
        "torch>=2.14",
        "torchvision>=0.29",
        "open_clip_torch>=3.3,<4",
        "segment-anything>=1.0,<2",
        "spacy>=3.8,<4",
        "numpy>=2.2",
        "pandas>=2.3",
        "pillow>=12",
        "pyarrow>=25",
        "pyyaml>=6",
        "opencv-python-headless>=5",
        "lmdb>=2",
        "pycocotools>=2.0.11",
        "jsonargparse[signatures]>=4.49,<5",
        "tqdm>=4.67",
        "safetensors>=0.6",
        "psutil>=7",
        "requests>=2.32",
        "nltk>=3.10,<4",
    ],
    extras_require={
        "train": TRAIN,
        "scale": SCALE,
        "finetune": FINETUNE,
        "dev": [
            "pytest>=9",
            "pytest-xdist>=3.8",
            "hypothesis>=6.160",
            "ruff>=0.17",
            "pre-commit>=4",
            "selenium>=4.51",
            "matplotlib>=3.10",
            *TRAIN,
            *FINETUNE,
            *SCALE,
        ],
    },
)
