"""Convolution of small images by mixed columns, without a kernel for each."""
