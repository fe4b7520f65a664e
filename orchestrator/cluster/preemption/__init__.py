"""From a cloud's notice that a machine will be taken away to the drain of that machine's node in Ray."""
