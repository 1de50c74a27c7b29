"""Pretraining and fine-tuning with one trainer."""
