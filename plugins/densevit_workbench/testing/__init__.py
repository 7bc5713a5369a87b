"""The checks behind `densevit.testing`: those of a backbone, of a head, and what both use."""
