"""Text to items: `reader` puts a tokenizer and the model's inputs together."""
