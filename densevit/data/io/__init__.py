"""Reading and writing image, label and depth files."""
