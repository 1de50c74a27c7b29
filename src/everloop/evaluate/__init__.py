"""How good a model is: task suites with intervals and simple baselines, reports, the model card."""
