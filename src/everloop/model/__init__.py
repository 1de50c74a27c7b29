"""The Transformer, its config, tokenizer, chat template, checkpoint files, LoRA."""
