"""A pretended CUDA device: runs CUDA code of PyTorch on a machine without a GPU."""
