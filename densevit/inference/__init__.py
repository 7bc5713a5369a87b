"""Files and arrays in, results in original pixels out."""
