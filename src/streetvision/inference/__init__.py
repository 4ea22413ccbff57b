"""From model directory and encoded pictures to the served probability, alike for evaluation and serving."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read by ONNX Runtime when it is first imported
