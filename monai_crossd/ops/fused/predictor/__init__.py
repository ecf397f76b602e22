"""The predictor: from images to the four numbers of each, and back."""
