"""What everything stands on: errors, whole-or-absent files, paths, text, the machine and its processes."""
