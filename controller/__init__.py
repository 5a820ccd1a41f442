"""What only the global side does: order changes, replicate them, turn keys, enrol sites."""
