"""Networks that others stored as ONNX become bundles, if their graphs then give what they give as they are."""
