"""CUDA kernels through CuPy: arrays in, arrays out; no torch, no slides, no models."""
