"""A pretended CUDA device: runs the CUDA code of a PyTorch program on a machine without a GPU.

    python -m tests.pretended_gpu SCRIPT ARGUMENTS...
    python -m tests.pretended_gpu -m MODULE ARGUMENTS...        for example -m pytest -m gpu

From tests and benchmarks: `launch.run_pretended`. Settings are environment variables, see `settings.Settings`.

How it works. A small C library (runtime.c) is compiled once and preloaded in front of libcudart and libcuda. It reports
devices, hands out host memory as device memory, and refuses to launch kernels. torch itself therefore believes in cuda:0: its
caching allocator, pinned memory, streams, autograd threads, autocast, GradScaler, choice of an attention kernel and DDP are
the real ones. Each operator's CUDA kernel is replaced by one that checks the devices of the arguments as CUDA's does, computes
on the CPU in the same memory (kernels.py, special.py, attention.py), and counts where the host would wait for the device
(waits.py). Processes that a pretending process starts pretend, too.

What it finds: tensors on different devices, CPU generators for CUDA draws, indices and weights left behind, NumPy on device
memory, host waits and their lines, and what the program does when memory runs out or the device breaks.

What it cannot show: speed; the numerics of real kernels (TF32, split sums, atomics, cuBLAS's and cuDNN's algorithms); races
between streams; faults that only a kernel raises (an index out of range raises IndexError at once); NCCL; CUDA graphs; Triton
(torch.compile); dropout inside a fused attention; a generator other than the device's default; memory that cuBLAS, cuDNN and
the CUDA context take.

It needs Linux, a C compiler, and torch built for CUDA 13 with the headers that its dependency triton brings.
"""
