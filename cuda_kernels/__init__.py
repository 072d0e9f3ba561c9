"""CUDA kernels through CuPy: arrays in, arrays out. No torch, no slides, no models."""
