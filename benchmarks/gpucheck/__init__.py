"""The parts of `benchmarks/gpu_check.py`.

parts         the registry of parts, and how one is run: row by row, each row on its own
report        one process for each part, its share of the time, the JSON file
device        paths of kernels, the clock, poisoned memory: what the parts share
ours, peers   tinyconv's sides, and PyTorch's where it is installed
machine       configuration, ceilings
correct       the registry against NumPy, equal bits, hidden waits and launches
speed         training steps, convolutions, memory, an epoch of MNIST
suite         the test suite on the device
verdict       the targets, met or short
markdown      tables for docs/performance.md
"""
