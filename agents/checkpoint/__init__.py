"""A model as a file: the format, what a model writes and reads, and files of earlier formats."""
