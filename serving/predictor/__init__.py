"""The predictor: a KServe model server around one model directory."""
