"""What a call means: generate, edit, classify, translate, answer, converse."""
