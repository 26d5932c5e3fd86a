"""ONNX: the networks of a conversion as graphs, for converting songs with nothing but onnxruntime.

Only ``export``, which writes the graphs, imports torch.
"""
