"""The training loop: LightningModule and DataModule, method, optimisers, budget, Trainer."""
