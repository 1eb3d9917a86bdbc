"""Training: sandwich rule, distillation, progressive shrinking; the recipes."""
