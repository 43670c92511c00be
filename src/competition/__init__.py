"""What lies in a folder of data: listed and checked, with no audio opened."""
