"""ONNX: writing the networks of a conversion as graphs, and converting songs with nothing but onnxruntime.

What imports torch: graphs.py and everything named export_*.py. The rest runs without it.
"""
