"""What runs in each step: the LightningModule and DataModule, the method, optimisers, the budget, the Trainer."""
