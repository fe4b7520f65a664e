"""Files that list images with their captions: their forms, their splits, their image ids."""
