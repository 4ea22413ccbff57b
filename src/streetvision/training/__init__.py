"""Training: features of augmented views, head, calibration, export."""
