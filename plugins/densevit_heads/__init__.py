"""The heads that densevit ships, found the way a stranger's are."""
