"""From the predictor's four numbers to the shift operator."""
