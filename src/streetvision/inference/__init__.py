"""From model directory and encoded pictures to the served probability, alike for evaluation and serving."""
