"""Training: features of augmented views, head, calibration, export."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read by ONNX Runtime when it is first imported
