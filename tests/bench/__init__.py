"""What is fast enough is measured here, never in a timed test."""
