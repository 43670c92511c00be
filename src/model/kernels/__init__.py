"""Every special case for a device, a grad mode or a compiler."""
