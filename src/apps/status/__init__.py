"""What lies in the workspace."""
