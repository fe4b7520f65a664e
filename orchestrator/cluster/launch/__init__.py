"""Starting, reaching and ending clusters."""
