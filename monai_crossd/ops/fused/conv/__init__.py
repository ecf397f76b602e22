"""Convolution of every image with its own kernel: mixing kernels, tiles, boxes, rows, and the library's."""
