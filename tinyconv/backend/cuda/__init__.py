"""The GPU, through CuPy: the same reference kernels, and layers of faster ones in front of them.

    connection   finds CuPy and the device, or says what was tried
    ladder       the layers from the fastest down, and why one is left out
    cudnn        convolutions by cuDNN, where its frontend is installed
    own          kernels of our own, compiled from kernels.cu at the first use
    xp           the few kernels that CuPy needs in another way than the reference has them

Nothing here imports CuPy before a GPU is asked for.
"""
