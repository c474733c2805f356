"""The algorithms: collecting experience with memory, and learning from it."""
