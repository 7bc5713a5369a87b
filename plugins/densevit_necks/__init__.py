"""The necks that densevit ships, found the way a stranger's are."""
