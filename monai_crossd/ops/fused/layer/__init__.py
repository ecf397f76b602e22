"""A whole layer on images: what eager mode and graphs call, its launches, and its gradients."""
