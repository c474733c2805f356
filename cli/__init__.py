"""The command line's options: parsed, checked, kept in a run folder, and changed by the stages of a curriculum."""
