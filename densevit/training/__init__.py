"""The Lightning module, optimisers, schedules and the run folder."""
