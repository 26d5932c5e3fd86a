"""Writing the networks of a conversion as graphs, with torch: what onnx_export.py does."""
