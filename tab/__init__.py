"""The Memory tab in TensorBoard: recorded episodes go into the event files (summary.py), the plugin shows them."""
