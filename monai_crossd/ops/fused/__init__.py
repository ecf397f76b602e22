"""Layers on images by Triton kernels, on GPUs; nothing is imported here, so that nothing of it is needed elsewhere."""
