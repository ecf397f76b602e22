"""A whole layer on images: what eager mode calls, its launches, and its gradients."""
